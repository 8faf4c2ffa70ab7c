"""What a store holds of a version: the factors of its models, each vector beside an external id."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arrow_array import map_array
from ..state import StatePaths
from ..version import Manifest, VersionError, damaged_files, read_ids

Side: TypeAlias = Literal["users", "items"]
Vectors: TypeAlias = NDArray[np.float32]

_SIDES: tuple[tuple[Side, str], ...] = (("users", "user_factors"), ("items", "item_factors"))


@dataclass(frozen=True)
class Block:
    """The vectors of one side of one model.

    Attributes
    ----------
    model, side : registry name of the model; ``"users"`` or ``"items"``.
    ids : external ids as text, one for each row.
    vectors : float32 [n, factors].
    """

    model: str
    side: Side
    ids: Sequence[str]
    vectors: Vectors


@dataclass(frozen=True)
class VersionVectors:
    """All vectors of a version.

    Attributes
    ----------
    version, manifest_sha256 : which version it is.
    blocks : those of each model that has factors, in the order of its models.
    """

    version: int
    manifest_sha256: str
    blocks: tuple[Block, ...]

    @property
    def label(self) -> str:
        """Name it among versions: the number, and the beginning of the manifest's digest.

        Examples
        --------
        >>> VersionVectors(12, "5f3c" * 16, ()).label
        '000012_5f3c5f3c5f3c'
        """
        return f"{self.version:06d}_{self.manifest_sha256[:12]}"

    def count(self, side: Side) -> int:
        """Count the vectors of one side."""
        return sum(len(block.ids) for block in self.blocks if block.side == side)


def read_vectors(paths: StatePaths, manifest: Manifest, manifest_sha256: str) -> VersionVectors:
    """Read what a published version has for stores; ``EASE`` and ``ItemKNN`` have no vectors.

    Raises
    ------
    VersionError
        A file of it is missing or altered: nothing damaged leaves the state.
    """
    directory = paths.version(manifest.version)
    parts = {"users.arrow", "items.arrow"} | {
        f"{name}/{array}.arrow" for name in manifest.models for _, array in _SIDES
    }
    damaged = damaged_files(
        directory, {file: manifest.files[file] for file in sorted(parts & manifest.files.keys())}
    )
    if damaged:
        raise VersionError(f"{damaged[0]}; restore it from a backup, or fit again")
    ids = dict(zip(("users", "items"), read_ids(directory, manifest), strict=True))
    texts = {side: [str(one) for one in series.to_list()] for side, series in ids.items()}
    blocks = [
        Block(name, side, texts[side], _float32(directory / name, manifest, name, array))
        for name, record in manifest.models.items()
        for side, array in _SIDES
        if array in record.arrays and record.arrays[array].shape[1] > 0
    ]
    return VersionVectors(manifest.version, manifest_sha256, tuple(blocks))


def _float32(directory: Path, manifest: Manifest, model: str, array: str) -> Vectors:
    mapped = map_array(directory / f"{array}.arrow", manifest.models[model].arrays[array])
    return np.array(mapped, dtype="<f4", order="C")  # a copy: nothing holds on to a file that is purged


def digest_of(blocks: Iterable[Block]) -> str:
    """Digest vectors, in whatever order they come: SHA-256, hexadecimal.

    Over the blocks by model and side, and in each the rows by the bytes of their ids: lengths, id, vector.

    Examples
    --------
    >>> both = np.eye(2, dtype=np.float32)
    >>> one = digest_of([Block("m", "users", ["a", "b"], both)])
    >>> one == digest_of([Block("m", "users", ["b", "a"], both[::-1])])
    True
    >>> one == digest_of([Block("m", "users", ["b", "a"], both)])
    False
    """
    digest = hashlib.sha256()
    for block in sorted(blocks, key=lambda block: (block.model, block.side)):
        if not block.ids:
            continue
        head = f"{block.model}\0{block.side}\0{len(block.ids)}\0{block.vectors.shape[1]}\n"
        digest.update(head.encode())
        rows = np.ascontiguousarray(block.vectors, dtype="<f4")
        for name, row in sorted((text.encode(), row) for row, text in enumerate(block.ids)):
            digest.update(len(name).to_bytes(4, "little") + name)
            digest.update(rows[row].data)
    return digest.hexdigest()


def block_of(model: str, side: Side, rows: Sequence[tuple[str, bytes]]) -> Block:
    """Put a block together from ids and the bytes of their vectors, as a store gave them back.

    Raises
    ------
    ValueError
        The vectors are not of one length: something else wrote there.
    """
    widths = {len(content) for _, content in rows}
    if len(widths) > 1 or any(width % 4 for width in widths):
        raise ValueError(f"vectors of {model} {side} have {sorted(widths)} bytes, not one length")
    flat = np.frombuffer(b"".join(content for _, content in rows), dtype="<f4")
    return Block(model, side, [text for text, _ in rows], flat.reshape(len(rows), -1) if rows else _NONE)


_NONE: Vectors = np.empty((0, 0), dtype=np.float32)
