"""A silo in a process of its own: answers solve after solve, and forgets users between them.

Run as a script: ``rounds_silo.py FOLDER NAME FIRST LAST`` (see test_rounds.py); its rows of solve k are in
``FOLDER/NAME/rows-k.npz``.
"""

import sys
from pathlib import Path

import numba
import scipy.sparse as sp
from recunlearn.engine.signing import SigningKey, read_public_key
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.rounds.silo import Member, take_part


def main(folder, name, first, last):
    """Take part in the solves from ``first`` to ``last``; print how many questions were answered in each."""
    numba.set_num_threads(1)
    key = SigningKey.load(folder / name / "silo.pem")
    me = Member(name, key, read_public_key((folder / "hub.pub").read_bytes()))
    for number in range(first, last + 1):
        rows = sp.load_npz(folder / name / f"rows-{number}.npz")
        print(take_part(Board(folder / "board"), me, number, rows, patience=180.0), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
