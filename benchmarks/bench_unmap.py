"""How long the interpreter is held by whoever is last to map the files of a version that was purged.

    python benchmarks/bench_unmap.py --folder .

Files of the sizes that a version of MovieLens 1M has are written, mapped, read, removed, and unmapped: with
nothing else that has them, and kept open by :class:`~recunlearn.engine.files_in_use.FilesInUse`. In turns,
``--times`` times. Prints Markdown.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from recunlearn.engine.durable import create_bytes
from recunlearn.engine.files_in_use import FilesInUse

SIZES = [5_761_655, 5_617_739, 3_117_439, 2_881_098, 1_858_619, 585_463, 293_002, 97_094, 59_241, 29_770]


class Mapped:
    """Arrays on files, as a snapshot has them."""

    def __init__(self, files: list[Path]) -> None:
        self.arrays = [np.memmap(file, mode="r") for file in files]
        for array in self.arrays:
            array.max()


def unmap(folder: Path, files_in_use: FilesInUse | None) -> tuple[float, float]:
    """Return how long it took to let go of the arrays, and then to close the files."""
    folder.mkdir()
    files = [folder / str(size) for size in SIZES]
    for file, size in zip(files, SIZES, strict=True):
        create_bytes(file, np.random.default_rng(size).bytes(size))
    mapped = Mapped(files)
    if files_in_use is not None:
        files_in_use.keep(mapped, files)
    for file in files:
        file.unlink()
    start = time.perf_counter()
    del mapped
    let_go = time.perf_counter()
    if files_in_use is not None:
        files_in_use.close_unused()
    return 1e3 * (let_go - start), 1e3 * (time.perf_counter() - let_go)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured; default: temporary")
    options = parser.parse_args()
    alone, kept = [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as name, FilesInUse() as files_in_use:
        for turn in range(options.times):
            alone.append(unmap(Path(name) / f"{turn}-alone", None)[0])
            kept.append(unmap(Path(name) / f"{turn}-kept", files_in_use))
    rows = {
        "unmapped by the last": alone,
        "unmapped, kept open": [let_go for let_go, _ in kept],
        "... then closed, without the lock": [closed for _, closed in kept],
    }
    print("| | median, ms | longest |\n|---|---|---|")
    for what, times in rows.items():
        print(f"| {what} | {np.median(times):.2f} | {max(times):.2f} |")


if __name__ == "__main__":
    main()
