"""A disk that forgets: what would be on it if the power went at any step of a piece of work.

POSIX promises the bytes of a file after its fsync, and a name after the fsync of its directory; of all
else any part may be there or not. :class:`Disk` follows both kinds of promise while the work runs (below
``durable``'s one call of fsync), and :meth:`Disk.image` gives what may be left: ``lost`` drops all that was
not promised, ``torn`` keeps a random part of it.

SQLite does its own syncing. With synchronous=FULL a COMMIT that returned is on disk, and what was written
since the last one may be torn: its two files are taken as they are after each step, and in a torn image the
last commit is cut in the middle (a part of the log; or, while the log is emptied, some pages of the ledger).
"""

import os
import random
import stat
import sys
from pathlib import Path

from recunlearn.engine import durable

_PAGE = 4096
_SQLITE = ("ledger.sqlite", "ledger.sqlite-wal")


class Disk:
    """Follows what is promised of the files below ``root`` while work is done on them."""

    def __init__(self, root, skipped=None):
        self.root, self.skipped = root, skipped
        self.synced, self.names, self.held = {}, {}, {}
        self.sites, self.images, self.variants = [], [], ("lost", "torn")
        self.ledger, self.ledger_before = {}, {}
        self.draw = random.Random(17)  # noqa: S311  a seed, not a secret
        self.root_node = self._settle(root)

    def _settle(self, folder):
        """Take all that is there as promised."""
        for path in folder.iterdir():
            if path.is_dir():
                self._settle(path)
            elif not path.name.endswith("-shm"):
                self.synced[self._node(path)] = path.read_bytes()
        self.names[self._node(folder)] = self._listing(folder)
        return self._node(folder)

    def _node(self, path):
        """Return a number that stays this file's: it is held open, so that no other is given its inode."""
        number = path.stat().st_ino
        if number not in self.held:
            self.held[number] = os.open(path, os.O_RDONLY)
        return number

    def _listing(self, folder):
        return {
            path.name: (path.is_dir(), self._node(path))
            for path in folder.iterdir()
            if not path.name.endswith("-shm")
        }

    def fsync(self, descriptor, name):
        """Stand in for ``durable._fsync``."""
        frames, frame = [], sys._getframe(1)
        while frame is not None and len(frames) < 4:
            if "/engine/" in frame.f_code.co_filename or "/streaming/" in frame.f_code.co_filename:
                frames.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
            frame = frame.f_back
        # Where it was asked for: the primitive, and for the two syncs of a primitive which of them.
        site = frames[1] if frames[0] in ("durable.sync_file", "durable.sync_directory") else frames[0]
        status = os.fstat(descriptor)
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "file"
        site = f"{site}: {kind}"
        if site not in self.sites:
            self.sites.append(site)
        if site == self.skipped:
            return
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if kind == "directory":
            self.names[self._node(path)] = self._listing(path)
        else:
            self.synced[self._node(path)] = path.read_bytes()

    def reached(self, step):
        """Stand in for ``durable.reached``: what may be left if the power goes here."""
        self._look_at_ledger()
        self.images += [(step, variant, self.image(variant, step)) for variant in self.variants]

    def _look_at_ledger(self):
        self.ledger_before = self.ledger
        self.ledger = {}
        for name in _SQLITE:
            path = self.root / name
            if path.exists():
                self.ledger[name] = path.read_bytes()

    def image(self, variant, step=""):
        """Return path -> bytes, or None for a directory."""
        left = dict(self._left(self.root_node, self.root, Path(), variant == "torn"))
        for name in _SQLITE:
            left.pop(Path(name), None)
        torn = variant == "torn" and step.startswith("after: ") and self._torn_commit()
        left.update({Path(name): content for name, content in (torn or self.ledger).items()})
        return left

    def _torn_commit(self):
        """Cut the last commit, or the last emptying of the log, in the middle."""
        before, now = (
            {name: one.get(name, b"") for name in _SQLITE} for one in (self.ledger_before, self.ledger)
        )
        log = _SQLITE[1]
        if len(now[log]) >= len(before[log]):  # a commit: the log may have been begun anew
            same = len(before[log]) if now[log].startswith(before[log]) else 0
            return {**now, log: now[log][: self.draw.randint(same, len(now[log]))]}
        pages = [now[_SQLITE[0]][at : at + _PAGE] for at in range(0, len(now[_SQLITE[0]]), _PAGE)]
        old = [before[_SQLITE[0]][at : at + _PAGE] for at in range(0, len(now[_SQLITE[0]]), _PAGE)]
        mixed = b"".join(self.draw.choice(pair) for pair in zip(pages, old, strict=True))
        return {_SQLITE[0]: mixed or before[_SQLITE[0]], log: before[log]}

    def _left(self, node, actual, relative, is_torn):
        promised = self.names.get(node, {})
        there = self._listing(actual) if is_torn and actual is not None and actual.is_dir() else {}
        for name in sorted({*promised, *there}):
            entry = self.draw.choice((promised.get(name), there.get(name))) if is_torn else promised[name]
            if entry is None:
                continue
            is_folder, child = entry
            if is_folder:
                yield relative / name, None
                yield from self._left(
                    child, None if actual is None else actual / name, relative / name, is_torn
                )
            else:
                yield relative / name, self._bytes(child, is_torn)

    def _bytes(self, node, is_torn):
        promised = self.synced.get(node, b"")
        if not is_torn:
            return promised
        actual = Path(f"/proc/self/fd/{self.held[node]}").read_bytes()
        if actual.startswith(promised):
            cut = actual[: self.draw.randint(len(promised), len(actual))]
            return self.draw.choice((cut, cut + bytes(len(actual) - len(cut))))  # the size, but not the bytes
        return self.draw.choice((promised, actual))

    def close(self):
        """Let go of the files."""
        for descriptor in self.held.values():
            os.close(descriptor)


def cut_everywhere(work, root, monkeypatch, skipped=None):
    """Do a piece of work once; returns the disk with an image for each step and kind of loss."""
    root.mkdir(exist_ok=True)
    disk = Disk(root, skipped)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(durable, "_fsync", disk.fsync)
            patch.setattr(durable, "reached", disk.reached)
            work(root)
            disk.reached("the end")
    finally:
        disk.close()
    return disk


def lay_out(image, root):
    """Write an image as files."""
    root.mkdir()
    for path, content in image.items():
        if content is None:
            (root / path).mkdir(mode=0o700)
        else:
            (root / path).write_bytes(content)
            (root / path).chmod(0o600)
