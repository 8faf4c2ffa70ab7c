"""A published version on disk: its manifest, and its models as Arrow files that are mapped into memory.

``versions/000012/`` holds::

    manifest.json            this module's :class:`Manifest`: what is in it, with a digest for each file
    users.arrow items.arrow  external ids in row order, ascending
    user_items.*.arrow       what is kept: indptr, indices and data of the CSR matrix
    NAME/*.arrow             what model NAME published; CSR matrices as three files

CURRENT names the version and the digest of its manifest, so that everything published is checked from
there. The interaction store's files are listed here too: they become current in the same instant.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from ..models.base import Arrays, ForgettableModel, Interactions, Proof
from . import durable
from .arrow_array import ArrayRecord, map_array, read_column, write_array, write_ids
from .scheduling import Rest, no_rest
from .state import LAYOUT, StateError, StatePaths

T = TypeVar("T")

_PIECE_BYTES = 1 << 19  # of a file that is digested: a third of a millisecond
_CSR_PARTS = ("indptr", "indices", "data")


class VersionError(StateError):
    """A published version cannot be used: it is missing, cut short or altered."""


class FileRecord(msgspec.Struct, frozen=True):
    """Digest and size of one file; ``rows`` where they were counted."""

    sha256: str
    size: int
    rows: int | None = None


class MatrixRecord(msgspec.Struct, frozen=True):
    """A CSR matrix: three arrays and a shape."""

    shape: tuple[int, int]
    indptr: ArrayRecord
    indices: ArrayRecord
    data: ArrayRecord


class ProofRecord(msgspec.Struct, frozen=True):
    """A model's proof when it was published; a bound that is infinite is None, as where there is none."""

    exact: bool
    bound: float | None
    erased_at_least: float | None
    certified: bool
    reason: str

    @classmethod
    def of(cls, proof: Proof) -> "ProofRecord":
        """Make a proof ready for JSON."""
        bound = proof.bound if proof.bound is not None and math.isfinite(proof.bound) else None
        return cls(proof.exact, bound, proof.erased_at_least, proof.certified, proof.reason)


class ModelRecord(msgspec.Struct, frozen=True):
    """A model in a version: all that ``restore`` needs but the bytes of the arrays."""

    settings: dict[str, Any]
    record: dict[str, Any]
    proof: ProofRecord
    arrays: dict[str, ArrayRecord]
    matrices: dict[str, MatrixRecord]


class Counts(msgspec.Struct, frozen=True):
    """Users and items with at least one kept interaction, and kept interactions."""

    users: int
    items: int
    interactions: int


class Manifest(msgspec.Struct, frozen=True):
    """What a version is and holds.

    Attributes
    ----------
    layout, software : layout version of the state directory; release that wrote it.
    version, created : its number; when it was written, RFC 3339.
    parent : SHA-256 of the manifest it was made from; None for a fit.
    covers : numbers in the ledger of the requests that this version carried out.
    user_ids, item_ids : type of the external ids.
    models : registry name -> record, the default model first.
    files : path in the version's directory -> digest.
    interactions : file in the interaction store -> digest; no other file is current.
    partitions : how many partitions the interaction store has.
    """

    layout: int
    software: str
    version: int
    created: str
    parent: str | None
    covers: list[int]
    user_ids: Literal["int", "str"]
    item_ids: Literal["int", "str"]
    counts: Counts
    user_items: MatrixRecord
    models: dict[str, ModelRecord]
    files: dict[str, FileRecord]
    interactions: dict[str, FileRecord]
    partitions: int


class Store(msgspec.Struct, frozen=True):
    """The interaction store's part of a manifest."""

    files: dict[str, FileRecord]
    partitions: int


def write_version(
    paths: StatePaths,
    number: int,
    models: Mapping[str, ForgettableModel],
    users: pl.Series,
    items: pl.Series,
    store: Store,
    *,
    software: str,
    parent: str | None = None,
    covers: Sequence[int] = (),
) -> str:
    """Write a version beside the published one, durably; it is published by :func:`set_current`.

    Parameters
    ----------
    models : registry name -> model, all over the same interactions, without empty rows or columns.
    users, items : int64 or string, ascending: the external ids of rows and columns.

    Returns
    -------
    SHA-256 of its manifest.
    """
    directory = paths.version(number)
    durable.make_directory(directory, durable.SHARED_FOLDER)
    for name, ids in (("user", users), ("item", items)):
        write_ids(directory / f"{name}s.arrow", ids.to_frame(f"{name}_id"))
    user_items: Interactions = next(iter(models.values())).user_items
    user_items_record = _write_matrix(directory, "user_items", user_items)
    records = {name: _write_model(directory / name, model, users, items) for name, model in models.items()}
    manifest = Manifest(
        layout=LAYOUT,
        software=software,
        version=number,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        parent=parent,
        covers=list(covers),
        user_ids="int" if users.dtype == pl.Int64 else "str",
        item_ids="int" if items.dtype == pl.Int64 else "str",
        counts=Counts(len(users), len(items), int(user_items.nnz)),
        user_items=user_items_record,
        models=records,
        files={str(path.relative_to(directory)): file_record(path) for path in sorted(_files(directory))},
        interactions=store.files,
        partitions=store.partitions,
    )
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    durable.create_bytes(directory / "manifest.json", content, durable.SHARED)
    return hashlib.sha256(content).hexdigest()


def _write_model(directory: Path, model: ForgettableModel, users: pl.Series, items: pl.Series) -> ModelRecord:
    durable.make_directory(directory, durable.SHARED_FOLDER)
    arrays: dict[str, ArrayRecord] = {}
    matrices: dict[str, MatrixRecord] = {}
    ids = {"user": users.alias("user_id"), "item": items.alias("item_id")}
    for name, array in model.published().items():
        if sp.issparse(array):
            matrices[name] = _write_matrix(directory, name, sp.csr_matrix(array))
            continue
        rows = ids.get(name.partition("_")[0])
        beside = rows if rows is not None and len(rows) == array.shape[0] else None
        arrays[name] = write_array(directory / f"{name}.arrow", np.asarray(array), name, beside)
    durable.sync_directory(directory)
    return ModelRecord(
        settings=dict(model.settings()),
        record={key: _to_json(value) for key, value in model.proof_record().items()},
        proof=ProofRecord.of(model.proof()),
        arrays=arrays,
        matrices=matrices,
    )


def _write_matrix(directory: Path, name: str, matrix: Any) -> MatrixRecord:
    parts = {
        part: write_array(directory / f"{name}.{part}.arrow", getattr(matrix, part), part)
        for part in _CSR_PARTS
    }
    return MatrixRecord(shape=(int(matrix.shape[0]), int(matrix.shape[1])), **parts)


def _to_json(value: Any) -> Any:
    """Write a number that JSON has no name for as an object, so that it comes back as it was."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value


def _from_json(value: Any) -> Any:
    return float(value["float"]) if isinstance(value, dict) else value


def file_record(path: Path, rows: int | None = None, rest: Rest = no_rest) -> FileRecord:
    """Digest a file as it is on disk; rests after each piece of it."""
    size, digest = path.stat().st_size, hashlib.sha256()
    piece = memoryview(bytearray(min(size, _PIECE_BYTES) + 1))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
            rest()
    return FileRecord(digest.hexdigest(), size, rows)


def _files(directory: Path) -> Iterable[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


# --- CURRENT ----------------------------------------------------------------------------------------


def set_current(paths: StatePaths, number: int, manifest_digest: str) -> None:
    """Publish a version: from this atomic rename on it is the one that is served."""
    durable.replace(paths.current, f"{number:06d} {manifest_digest}\n".encode(), durable.SHARED)


def read_current(paths: StatePaths) -> tuple[int, str]:
    """Return the number of the published version and the digest of its manifest.

    Raises
    ------
    VersionError
        Nothing is published, or CURRENT does not name a version.
    """
    try:
        content = paths.current.read_bytes()
    except FileNotFoundError:
        raise VersionError(
            f"{paths.root} has no published version; run: recunlearn fit --data FILE --state {paths.root}"
        ) from None
    number, _, digest = content.partition(b" ")
    if not (number.isdigit() and len(digest) == 65 and digest.endswith(b"\n")):
        raise VersionError(f"{paths.current} does not name a version; restore the file from a backup")
    return int(number), digest.decode("ascii", "replace").strip()


def read_while_current(paths: StatePaths, read: Callable[[int, str], T]) -> T:
    """Read the published version; if it is replaced, and purged, while it is read, read the newer one.

    Parameters
    ----------
    read : called with the number of the published version and the digest of its manifest.

    Raises
    ------
    VersionError, OSError
        What ``read`` raises about a version that still is the published one.
    """
    while True:
        current = read_current(paths)
        try:
            return read(*current)
        except (VersionError, OSError):
            if read_current(paths) == current:
                raise


def read_manifest(paths: StatePaths, number: int, digest: str) -> Manifest:
    """Read the manifest of a version and check it against the digest that CURRENT gives.

    Raises
    ------
    VersionError
        It is missing or not the one that was published.
    """
    path = paths.version(number) / "manifest.json"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise VersionError(
            f"{path} is missing, which {paths.current} names; restore both from a backup, or fit again"
        ) from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise VersionError(
            f"{path} is not the manifest that {paths.current} names; restore both, or fit again"
        )
    return msgspec.json.decode(content, type=Manifest)


def damaged_files(directory: Path, files: Mapping[str, FileRecord], rest: Rest = no_rest) -> list[str]:
    """Compare files with their records; returns what is wrong, one line a file, empty if all is well."""
    damaged = []
    for name, record in files.items():
        path = directory / name
        try:
            found = file_record(path, rest=rest)
        except FileNotFoundError:
            damaged.append(f"{path} is missing")
            continue
        if (found.sha256, found.size) != (record.sha256, record.size):
            damaged.append(f"{path} is not what was written ({found.size} bytes, digest {found.sha256[:12]})")
    return damaged


# --- reading ----------------------------------------------------------------------------------------


def read_ids(directory: Path, manifest: Manifest) -> tuple[pl.Series, pl.Series]:
    """Read the external ids of rows and columns."""
    users = _read_ids(directory / "users.arrow", "user_id", manifest.counts.users)
    items = _read_ids(directory / "items.arrow", "item_id", manifest.counts.items)
    if (len(users), len(items)) != (manifest.counts.users, manifest.counts.items):
        raise VersionError(f"{directory} has {len(users)} users and {len(items)} items, not what it says")
    return users, items


def _read_ids(path: Path, name: str, count: int) -> pl.Series:
    # A file without rows has no record batch, and a child process cannot read it as Polars does.
    return read_column(path, name) if count else pl.read_ipc(path)[name]


def read_models(
    directory: Path, manifest: Manifest, *, mapped: bool, rest: Rest = no_rest
) -> dict[str, ForgettableModel]:
    """Restore a version's models; rests after each.

    Parameters
    ----------
    mapped : over read-only memory maps of the files, for serving; else over memory of their own, for
        forgetting: nothing then holds on to files that are about to be purged.

    Raises
    ------
    VersionError
        A model is not in this release's registry.
    """
    from ..models import MODELS

    user_items = _read_matrix(directory, manifest.user_items, mapped)
    user_items.has_canonical_format = True
    models: dict[str, ForgettableModel] = {}
    for name, record in manifest.models.items():
        if name not in MODELS:
            raise VersionError(f"{directory} has a model {name!r}, this release knows {', '.join(MODELS)}")
        arrays: Arrays = {
            key: _read_array(directory / name, array, mapped) for key, array in record.arrays.items()
        }
        for key, matrix in record.matrices.items():
            arrays[key] = _read_matrix(directory / name, matrix, mapped)
        proof_record = {key: _from_json(value) for key, value in record.record.items()}
        models[name] = MODELS[name].restore(record.settings, arrays, proof_record, user_items)
        rest()
    return models


def _read_array(directory: Path, record: ArrayRecord, mapped: bool) -> NDArray[Any]:
    array = map_array(directory / record.file, record)
    return array if mapped else array.copy()


def _read_matrix(directory: Path, record: MatrixRecord, mapped: bool) -> Interactions:
    indptr, indices, data = (
        _read_array(directory, part, mapped) for part in (record.indptr, record.indices, record.data)
    )
    matrix: Interactions = sp.csr_matrix(record.shape, dtype=data.dtype)
    # Set as they are: the constructor would look through all of them.
    matrix.indptr, matrix.indices, matrix.data = indptr, indices, data
    return matrix
