"""Swaps and nothing else: versions that were made beforehand are published, while nobody works."""

import hashlib
import shutil
import time
from pathlib import Path

import msgspec
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import read_current, read_manifest, set_current
from serving_checks import Kept


class Flipping:
    """Publishes copies of a version under new numbers, and removes the one before, as a worker does."""

    def __init__(self, state: Path, copies: int, kept: Kept, pause: float) -> None:
        """Make the copies: the same files, and a manifest of their own.

        Parameters
        ----------
        copies : how many times :meth:`run` can publish in all.
        kept : told of each version as it is published.
        pause : seconds between two.
        """
        self._paths, self._kept, self._pause = StatePaths(state), kept, pause
        number, digest = read_current(self._paths)
        kept.keep(self._paths, number, digest, time.time())
        manifest = read_manifest(self._paths, number, digest)
        self._waiting: list[tuple[int, str]] = []
        for copy in range(number + 1, number + 1 + copies):
            shutil.copytree(self._paths.version(number), self._paths.version(copy))
            content = msgspec.json.encode(msgspec.structs.replace(manifest, version=copy))
            (self._paths.version(copy) / "manifest.json").write_bytes(content)
            self._waiting.append((copy, hashlib.sha256(content).hexdigest()))

    def run(self, times: int) -> None:
        """Publish the next ``times`` of them."""
        for _ in range(times):
            number, digest = self._waiting.pop(0)
            before, _ = read_current(self._paths)
            set_current(self._paths, number, digest)
            self._kept.keep(self._paths, number, digest, time.time())
            shutil.rmtree(self._paths.version(before))
            time.sleep(self._pause)
