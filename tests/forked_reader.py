"""A reader that is opened, asked, then used in processes that were forked off: ``forked_reader.py STATE``.

The parent publishes versions 2 to 21 after the fork and fences user 3. Each of three children follows by
itself, asks all the while, and exits 0 if every answer was whole, none went back, and user 3 is refused.
"""

import faulthandler
import os
import sys
import time

from marked_state import ITEMS, Marked, MarkedState
from recunlearn import SnapshotReader
from recunlearn.engine.snapshot import UnknownUserError
from recunlearn.models import MODELS

LAST = 21


def is_whole(snap):
    """Tell whether an answer is of one version alone."""
    items, scores = snap.recommend(7)
    return items.tolist() == [f"v{snap.version}/i{k}" for k in range(ITEMS)] and set(scores) == {snap.version}


def follow(reader, go):
    """Ask until the last version is there; returns what the process is to exit with."""
    os.read(go, 1)  # version 2 is published by now, and nobody has looked
    seen = [reader.current().version]
    deadline = time.monotonic() + 30
    while seen[-1] != LAST and time.monotonic() < deadline:
        snap = reader.current()
        if not is_whole(snap) or snap.version < seen[-1]:
            return 2
        seen.append(snap.version)
        time.sleep(0.001)  # there are more readers than cores
    try:
        reader.current().recommend(3)
    except UnknownUserError:
        reader.close()
        return 0 if seen[0] >= 2 and seen[-1] == LAST else 3
    return 4


def main():
    """Fork, publish, and pass on the worst that a child says."""
    faulthandler.dump_traceback_later(60, exit=True)
    MODELS[Marked.name] = Marked
    state = MarkedState(sys.argv[1])
    reader = SnapshotReader(state.root)
    assert is_whole(reader.current())
    gate, go = os.pipe()
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            os._exit(follow(reader, gate))
        children.append(child)
    state.publish(2)
    state.fence(3)
    os.write(go, b"...")
    for version in range(3, LAST + 1):
        state.publish(version)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    while reader.current().version != LAST:
        time.sleep(0.001)
    reader.close()
    sys.exit(max(codes, key=abs))


if __name__ == "__main__":
    main()
