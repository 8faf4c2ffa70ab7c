"""A version from one host to another: fetched whole, checked against its announced digest, then published.

The digest of the manifest is all that has to be trusted: it commits to the manifest, which commits to every
file. So a version may come over plain HTTP, through any cache, from a server that is not believed.

What is fetched to is a state directory that serving processes read (a *replica*): versions, CURRENT, and a
ledger that remembers which versions must not come back. It has no interactions, no journal, no receipts.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import quote, urlsplit

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


Fetch: TypeAlias = Callable[[int, str], Iterator[bytes]]
"""(version, file) -> its bytes, piece by piece."""


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


def _fetch_manifest(fetch: Fetch, version: int, manifest_sha256: str) -> bytes:
    content = b""
    for piece in fetch(version, MANIFEST):
        content += piece
        if len(content) > _MANIFEST_BYTES:
            break
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


def _fetch_files(fetch: Fetch, directory: Path, manifest: Manifest) -> tuple[int, int]:
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


def _copy(fetch: Fetch, manifest: Manifest, name: str, record: FileRecord, file: BinaryIO) -> None:
    digest, size = hashlib.sha256(), 0
    for piece in fetch(manifest.version, name):
        digest.update(piece)
        size += len(piece)
        file.write(piece)
        if size > record.size:
            break
    if (digest.hexdigest(), size) != (record.sha256, record.size):
        raise VersionError(
            f"{name} of version {manifest.version} is not what its manifest says: it was altered or cut "
            "short on the way; pull again"
        )


def _from_directory(root: Path) -> Fetch:
    paths = StatePaths(root)

    def fetch(version: int, name: str) -> Iterator[bytes]:
        with (paths.version(version) / name).open("rb") as file:
            while piece := file.read(_CHUNK):
                yield piece

    return fetch


def _from_url(location: str, token: str | None) -> Fetch:
    import requests

    if urlsplit(location).scheme not in {"http", "https"}:
        raise VersionError(f"{location} is neither an http nor an https URL, nor a state directory")

    def authorised(request: Any) -> Any:  # and nothing out of a .netrc
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def fetch(version: int, name: str) -> Iterator[bytes]:
        url = f"{location.rstrip('/')}/v1/versions/{version}/{quote(name)}"
        try:
            # Redirects are not followed: the token is for this server.
            with requests.get(
                url, auth=authorised, stream=True, timeout=_TIMEOUT_SECONDS, allow_redirects=False
            ) as answer:
                if answer.status_code != requests.codes.ok:
                    hint = _HINTS.get(answer.status_code, answer.reason)
                    raise OSError(f"{url} answers {answer.status_code}: {hint}")
                yield from answer.iter_content(_CHUNK)
        except requests.RequestException as error:
            raise OSError(f"{url} cannot be fetched: {type(error).__name__}") from None

    return fetch


_HINTS: Mapping[int, str] = {
    401: "it wants a token",
    404: "that version is not there any more, or versions are not offered; look for a newer announcement",
}


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
