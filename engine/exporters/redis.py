"""A version in Redis: a hash for each side of each model, field id -> little-endian float32 bytes.

::

    PREFIX:current                     the label of the version to read, as 000012_5f3c5f3c5f3c
    PREFIX:LABEL:manifest              hash: version, manifest_sha256
    PREFIX:LABEL:MODEL:users  :items   hash: external id -> float32 bytes
    PREFIX:staged:...                  a push that is under way, or was cut off

What is staged takes its place, and ``current`` names it, in one transaction (MULTI).
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import redis

from .. import durable
from .protocol import StoreError, StoreSettings
from .vectors import Block, Side, VersionVectors, block_of

_ROWS_AT_ONCE = 500
_REWRITE_SECONDS = 600.0
_LOOK_SECONDS = 0.02
_PREFIX = re.compile(r"[A-Za-z0-9_.:{}-]{1,100}")  # no glob character: SCAN is asked for PREFIX:*
_OPTIONS = frozenset({"prefix", "username", "rewrite", "timeout"})


class RedisStore:
    """One connection to Redis.

    Options: ``prefix`` of all keys (``recunlearn``), for one state alone; ``username``; ``rewrite = false``:
    leave the server's files as they are, for servers that do not let us; ``timeout`` of an answer in seconds.
    """

    def __init__(self, settings: StoreSettings) -> None:
        options = settings.options
        settings.refuse_others(_OPTIONS)
        self._name, self._prefix = settings.name, str(options.get("prefix", "recunlearn"))
        if not _PREFIX.fullmatch(self._prefix):
            raise StoreError(
                f"[[export]] {settings.name}: prefix {self._prefix!r}: letters, digits and _.:{{}}- only"
            )
        self._rewrite = bool(options.get("rewrite", True))
        self._is_plain = settings.url.startswith("redis://")
        timeout = float(options.get("timeout", 30.0))
        with self._answered():
            self._client: Any = redis.Redis.from_url(
                settings.url,
                username=options.get("username"),
                password=settings.password,
                socket_timeout=timeout,
                socket_connect_timeout=min(timeout, 5.0),
            )

    def held(self) -> str | None:
        """Return the digest that the version of ``current`` was pushed with."""
        with self._answered():
            label = self._label()
            digest = label and self._client.hget(self._key(label, "manifest"), "manifest_sha256")
            return digest.decode() if digest else None

    def push(self, vectors: VersionVectors) -> None:
        """Stage all hashes, then rename them and set ``current`` in one transaction."""
        with self._answered():
            blocks = [block for block in vectors.blocks if block.ids]  # Redis knows no empty hash
            staged = [("manifest",), *((block.model, block.side) for block in blocks)]
            self._client.unlink(*(self._key("staged", *parts) for parts in staged))
            self._client.hset(
                self._key("staged", "manifest"),
                mapping={"version": vectors.version, "manifest_sha256": vectors.manifest_sha256},
            )
            for block in blocks:
                self._stage(block)
            durable.reached(f"lead readers of {self._name} to {vectors.label}")
            with self._client.pipeline(transaction=True) as swap:
                swap.unlink(*(self._key(vectors.label, *parts) for parts in staged))
                for parts in staged:
                    swap.rename(self._key("staged", *parts), self._key(vectors.label, *parts))
                swap.set(self._key("current"), vectors.label)
                swap.execute()
            durable.reached(f"readers of {self._name} are led to {vectors.label}")

    def purge(self) -> Mapping[str, str]:
        """Unlink every other key of the prefix, then have AOF and RDB written anew without them."""
        with self._answered():
            for key in list(self._other_keys()):
                self._client.unlink(key)
            durable.reached(f"other versions are unlinked in {self._name}")
            if not self._rewrite:
                return {"files": "left as they were"}
            try:
                has_log = self._client.config_get("appendonly")["appendonly"] == "yes"
                has_dump = bool(self._client.config_get("save")["save"])
            except (redis.ResponseError, KeyError):
                return {"files": "unknown: the server does not say whether it writes any"}
            if has_log:
                self._written_anew(self._client.bgrewriteaof, "aof_last_bgrewrite_status")
            if has_dump:
                self._written_anew(self._client.bgsave, "rdb_last_bgsave_status")
            return {"aof": "rewritten" if has_log else "none", "rdb": "rewritten" if has_dump else "none"}

    def read(self) -> Sequence[Block]:
        """Scan every hash of the current version."""
        with self._answered():
            label = self._label()
            if label is None:
                return []
            own = self._key(label, "")
            blocks = []
            for key in sorted(self._client.scan_iter(match=own + "*", count=1000)):
                model, _, side = key.decode().removeprefix(own).rpartition(":")
                if model:
                    rows = dict(self._client.hscan_iter(key, count=_ROWS_AT_ONCE))
                    named = [(text.decode(), content) for text, content in rows.items()]
                    blocks.append(block_of(model, cast(Side, side), named))
            return blocks

    def others(self) -> Sequence[str]:
        """Name the keys of the prefix that are not the current version's."""
        with self._answered():
            return [key.decode() for key in self._other_keys()]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Tell an error without what Redis quotes: it may be an id."""
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, ValueError) as error:
            raise StoreError(f"store {self._name}: {error}{self._way_out(str(error))}") from error
        except redis.RedisError as error:
            code = str(error).partition(" ")[0]
            raise StoreError(f"store {self._name}: Redis refused ({type(error).__name__} {code})") from None

    def _way_out(self, said: str) -> str:
        """Say what to try: a server that speaks TLS alone hangs up on who does not."""
        hangs_up = "reset by peer" in said or "closed by server" in said
        return "; if it asks for TLS, write rediss:// in its url" if hangs_up and self._is_plain else ""

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _label(self) -> str | None:
        label = cast(bytes | None, self._client.get(self._key("current")))
        return None if label is None else label.decode()

    def _stage(self, block: Block) -> None:
        key = self._key("staged", block.model, block.side)
        for start in range(0, len(block.ids), _ROWS_AT_ONCE):
            ids = block.ids[start : start + _ROWS_AT_ONCE]
            rows = block.vectors[start : start + _ROWS_AT_ONCE]
            self._client.hset(key, mapping={text: row.tobytes() for text, row in zip(ids, rows, strict=True)})

    def _other_keys(self) -> Iterator[bytes]:
        current, label = self._key("current").encode(), self._label()
        own = self._key(label or "current", "").encode()
        for key in self._client.scan_iter(match=self._key("*"), count=1000):
            if key != current and not key.startswith(own):
                yield key

    def _written_anew(self, start: Callable[[], Any], status: str) -> None:
        """Have a file written from what is in memory now: one that is being written holds what was before."""
        until = time.monotonic() + _REWRITE_SECONDS
        self._wait_for_children(until)
        start()
        info = self._wait_for_children(until)
        if info[status] != "ok":
            raise StoreError(
                f"store {self._name}: Redis could not write its files anew ({status}); see its log"
            )

    def _wait_for_children(self, until: float) -> Mapping[str, Any]:
        while True:
            info: Mapping[str, Any] = self._client.info("persistence")
            busy = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
            if not any(info[one] for one in busy):
                return info
            if time.monotonic() > until:
                raise StoreError(
                    f"store {self._name}: Redis has not written its files within {_REWRITE_SECONDS:.0f} s"
                )
            time.sleep(_LOOK_SECONDS)
