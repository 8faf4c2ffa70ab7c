"""A version from one host to another: fetched whole, checked against its announced digest, then published.

The digest of the manifest is all that has to be trusted: it commits to the manifest, which commits to every
file. So a version may come over plain HTTP, through any cache, from a server that is not believed.

What is fetched to is a state directory that serving processes read (a *replica*): versions, CURRENT, and a
ledger that remembers which versions must not come back. It has no interactions, no journal, no receipts.
"""

import hashlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, TypeAlias

import msgspec

from . import durable
from .fence import FenceKey
from .ledger import Ledger
from .purge import purge
from .state import LAYOUT, Config, StatePaths, WriterLock, write_config
from .version import (
    FileRecord,
    Manifest,
    VersionError,
    damaged_files,
    read_current,
    read_manifest,
    set_current,
)

MANIFEST = "manifest.json"
_MANIFEST_BYTES = 1 << 26
_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


Open: TypeAlias = Callable[[int, str], AbstractContextManager[_Readable]]
"""(version, file) -> its bytes, to be read to the end."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did: the version that is published now, files fetched, bytes fetched."""

    version: int
    files: int
    bytes: int


def pull(
    source: str, destination: str | Path, version: int, manifest_sha256: str, token: str | None = None
) -> Pulled:
    """Fetch a version, check it, and publish it to the readers of ``destination``.

    Parameters
    ----------
    source : URL of a server that offers ``/v1/versions/N/FILE``, or another state directory.
    destination : the replica; made if there is nothing.
    version, manifest_sha256 : as announced.
    token : sent as a bearer token.

    Returns
    -------
    What was fetched; nothing, if the version was there already. Files of a pull that was cut off are kept.

    Raises
    ------
    VersionError
        A file is not what the manifest says, the manifest not what was announced, or the version is older
        than one that was here: what was published before goes on being served.
    OSError
        The source or the disk does not work.
    StateInUseError
        Another pull is at work.

    Notes
    -----
    Time and memory: each byte is read once, a megabyte at a time.
    """
    fetch = _from_url(source, token) if "://" in source else _from_directory(Path(source))
    paths = StatePaths(Path(destination))
    durable.make_directory(paths.root)
    with WriterLock(paths), Ledger.create(paths, FenceKey.create(paths)) as ledger:
        published = read_current(paths) if paths.current.exists() else (0, "")
        newest = max(published[0], ledger.published_version())
        if (version, manifest_sha256) == published:
            purge(paths, read_manifest(paths, *published))
            return Pulled(version, 0, 0)
        if version <= newest:
            raise VersionError(
                f"version {version} is refused: {destination} has published version {newest}, and what was "
                "erased since must not come back; pull a newer one"
            )
        content = _fetch_manifest(fetch, version, manifest_sha256)
        manifest = _check_manifest(content, version)
        files, size = _fetch_files(fetch, paths.version(version), manifest)
        _publish(paths, ledger, manifest, content, manifest_sha256)
    return Pulled(version, files + 1, size + len(content))


def _publish(
    paths: StatePaths, ledger: Ledger, manifest: Manifest, content: bytes, manifest_sha256: str
) -> None:
    """Flip CURRENT, note that no older version may come back, and purge those that were here."""
    directory = paths.version(manifest.version)
    durable.replace(directory / MANIFEST, content)
    models = {name: record.settings for name, record in manifest.models.items()}
    if not paths.config.exists():
        write_config(paths, Config(models))
    set_current(paths, manifest.version, manifest_sha256)
    cycle = ledger.begin_cycle(manifest.version, {})
    ledger.publish_cycle(cycle, {"version": manifest.version, "manifest_sha256": manifest_sha256})
    ledger.finish_cycle(cycle, ledger.cycle(cycle).record)
    purge(paths, manifest)


def _fetch_manifest(fetch: Open, version: int, manifest_sha256: str) -> bytes:
    with fetch(version, MANIFEST) as stream:
        content = stream.read(_MANIFEST_BYTES)
    if hashlib.sha256(content).hexdigest() != manifest_sha256:
        raise VersionError(f"the manifest of version {version} is not the one that was announced")
    return content


def _check_manifest(content: bytes, version: int) -> Manifest:
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise VersionError(f"the manifest of version {version} cannot be read: {error}") from None
    if (manifest.layout, manifest.version) != (LAYOUT, version):
        raise VersionError(
            f"this is version {manifest.version} in layout {manifest.layout}, not {version} in {LAYOUT}; "
            "use the release of recunlearn that wrote it"
        )
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or str(path) != name:
            raise VersionError(f"version {version} names a file {name!r}, which is none of a version")
    return manifest


def _fetch_files(fetch: Open, directory: Path, manifest: Manifest) -> tuple[int, int]:
    """Fetch what is not there yet; returns how many files, and bytes."""
    durable.make_directory(directory)
    files = size = 0
    for name, record in manifest.files.items():
        path = directory / name
        if path.exists():
            if not damaged_files(directory, {name: record}):
                continue
            durable.remove(path)
        durable.make_directory(path.parent)
        durable.create(path, partial(_copy, fetch, manifest, name, record))
        files, size = files + 1, size + record.size
    for folder in {directory / PurePosixPath(name).parent for name in manifest.files}:
        durable.sync_directory(folder)
    return files, size


def _copy(fetch: Open, manifest: Manifest, name: str, record: FileRecord, file: BinaryIO) -> None:
    digest, size = hashlib.sha256(), 0
    with fetch(manifest.version, name) as stream:
        while size <= record.size and (chunk := stream.read(_CHUNK)):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    if (digest.hexdigest(), size) != (record.sha256, record.size):
        raise VersionError(
            f"{name} of version {manifest.version} is not what its manifest says: it was altered or cut "
            "short on the way; pull again"
        )


def _from_directory(root: Path) -> Open:
    paths = StatePaths(root)

    def fetch(version: int, name: str) -> AbstractContextManager[_Readable]:
        return (paths.version(version) / name).open("rb")

    return fetch


def _from_url(location: str, token: str | None) -> Open:
    if urllib.parse.urlsplit(location).scheme not in {"http", "https"}:
        raise VersionError(f"{location} is neither an http nor an https URL, nor a state directory")
    opener = urllib.request.build_opener(_NoRedirect)

    def fetch(version: int, name: str) -> AbstractContextManager[_Readable]:
        url = f"{location.rstrip('/')}/v1/versions/{version}/{urllib.parse.quote(name)}"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  its scheme was looked at
        try:
            response = opener.open(request, timeout=_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            raise OSError(f"{url} answers {error.code}: {_HINTS.get(error.code, error.reason)}") from None
        except (urllib.error.URLError, http.client.HTTPException) as error:
            raise OSError(f"{url} cannot be fetched: {getattr(error, 'reason', error)}") from None
        return closing(_Body(response))

    return fetch


_HINTS: Mapping[int, str] = {
    401: "it wants a token",
    404: "that version is not there any more, or versions are not offered; look for a newer announcement",
}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Follow nobody elsewhere: the token is for this server."""
        return None


class _Body:
    """A response whose end before its time is an OSError."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def read(self, size: int) -> bytes:
        try:
            return self._response.read(size)
        except http.client.HTTPException as error:
            raise OSError(f"the connection broke: {type(error).__name__}") from None

    def close(self) -> None:
        self._response.close()


def offered_file(paths: StatePaths, version: int, name: str) -> Path:
    """Find a file of the published version that may be given out: the manifest, or a file that it names.

    For the server of ``/v1/versions/N/FILE``. It holds every kept interaction: only who may see them all may
    ask for it.

    Raises
    ------
    VersionError
        ``version`` is not the published one, or it has no such file; other paths lead nowhere.
    """
    number, digest = read_current(paths)
    manifest = read_manifest(paths, number, digest)
    if version != number or (name != MANIFEST and name not in manifest.files):
        raise VersionError(f"version {version} has no file {name!r}, or is not the published one")
    return paths.version(number) / name
