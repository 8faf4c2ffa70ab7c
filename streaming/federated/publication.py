"""Versions that a coordinator publishes, and how a silo reads them: signed, every byte checked."""

import hashlib
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import scipy.sparse as sp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ...engine import durable
from ...engine.arrow_array import ArrayRecord, map_array, write_array
from ...engine.signing import SigningKey
from ...models.base import Arrays
from ...models.summed import Published
from .board import Board, read_signed
from .message import FederationError

MANIFEST_TYPE: Final = "application/vnd.recunlearn.federation-version.v1+json"
_MANIFEST = "manifest.json"
_CSR_PARTS = ("indptr", "indices", "data")


class Manifest(msgspec.Struct, frozen=True):
    """What a version is.

    Attributes
    ----------
    federation, epoch, version : its place.
    model, settings, record : what it is of, with lambda as it was chosen, and its proof.
    users : how many users it sums up; parties : and of which silos.
    arrays, shapes : name -> array; a CSR matrix is three, with its shape.
    digests : file -> hex SHA-256.
    """

    federation: str
    epoch: int
    version: int
    model: str
    settings: dict[str, Any]
    record: dict[str, Any]
    users: int
    parties: list[str]
    arrays: dict[str, ArrayRecord]
    shapes: dict[str, tuple[int, int]]
    digests: dict[str, str]


def write_version(
    board: Board,
    key: SigningKey,
    published: Published,
    place: tuple[str, int, int],
    who: tuple[int, list[str]],
) -> None:
    """Write a version durably, beside the others; readers see it once CURRENT names it.

    Parameters
    ----------
    place : federation, epoch, version. who : users and silos.
    """
    folder = board.version(place[2])
    if folder.exists():
        durable.remove(folder)  # a crash left a part of it
    durable.make_directory(folder, durable.SHARED_FOLDER)
    flat, shapes = _flat(published.arrays)
    records = {name: write_array(folder / f"{name}.arrow", array, name) for name, array in flat.items()}
    digests = {record.file: _digest(folder / record.file) for record in records.values()}
    manifest = Manifest(
        *place,
        published.name,
        dict(published.settings),
        dict(published.record),
        *who,
        records,
        shapes,
        digests,
    )
    durable.create_bytes(
        folder / _MANIFEST, key.envelope(msgspec.json.encode(manifest), MANIFEST_TYPE), durable.SHARED
    )


def flip(board: Board, version: int) -> None:
    """Publish: from now on readers see this version."""
    digest = _digest(board.version(version) / _MANIFEST)
    durable.replace(board.current, f"{version} {digest}\n".encode(), durable.SHARED)


def read_current(board: Board) -> tuple[int, str]:
    """Return the number of the published version and the digest of its manifest; (0, "") before the first."""
    try:
        number, digest = board.current.read_text().split()
        return int(number), digest
    except FileNotFoundError:
        return 0, ""
    except ValueError:
        raise FederationError(f"{board.current} is not readable; the coordinator writes it again") from None


def read_version(board: Board, public: Ed25519PublicKey) -> tuple[Manifest, Published]:
    """Read the published version, each byte checked.

    Raises
    ------
    FederationError
        There is none yet, or it is not what the coordinator signed.
    """
    while True:
        current = read_current(board)
        try:
            return _read(board, public, *current)
        except (OSError, FederationError):
            if read_current(board) == current:
                raise  # else a newer one came, and this one went, meanwhile


def _read(board: Board, public: Ed25519PublicKey, number: int, digest: str) -> tuple[Manifest, Published]:
    folder = board.version(number)
    manifest = read_signed(folder / _MANIFEST, MANIFEST_TYPE, public, Manifest)
    if manifest is None:
        raise FederationError(f"{board.root} has no published version yet; let the coordinator run")
    if _digest(folder / _MANIFEST) != digest or manifest.version != number:
        raise FederationError(f"{folder} is not the version that {board.current} names")
    for name, wanted in manifest.digests.items():
        if _digest(folder / name) != wanted:
            raise FederationError(f"{folder / name} was altered: its digest is not the signed one")
    flat = {name: map_array(folder / record.file, record) for name, record in manifest.arrays.items()}
    arrays: Arrays = {name: array for name, array in flat.items() if "." not in name}
    for name, shape in manifest.shapes.items():
        indptr, indices, data = (flat[f"{name}.{part}"] for part in _CSR_PARTS)
        arrays[name] = sp.csr_matrix((data, indices, indptr), shape=shape)
    return manifest, Published(manifest.model, manifest.settings, arrays, manifest.record)


def _flat(arrays: Arrays) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    flat: dict[str, Any] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for name, array in arrays.items():
        if isinstance(array, np.ndarray):
            flat[name] = array
        else:
            shapes[name] = array.shape
            flat |= {f"{name}.{part}": getattr(array, part) for part in _CSR_PARTS}
    return flat, shapes


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
