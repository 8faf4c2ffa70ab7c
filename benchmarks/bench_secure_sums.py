"""What a round of secure sums costs each side: processor seconds and bytes, which no data change.

``python benchmarks/bench_secure_sums.py --items 3706 --silos 3 [--model item_knn]``
"""

import argparse
import tempfile
import time
from pathlib import Path

from recunlearn.engine.signing import SigningKey, public_pem
from recunlearn.models.summed import statistic_of
from recunlearn.models.sums import Sums
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.secure import exchange
from recunlearn.streaming.federated.secure.party import Identity
from recunlearn.streaming.federated.secure.terms import Terms


def main() -> None:
    """Run one round over files, all in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=3706)
    parser.add_argument("--silos", type=int, default=3)
    parser.add_argument("--model", default="item_knn")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        silos, coordinator, sent = run(Path(made), asked.model, asked.items, asked.silos)
    print(
        f"{asked.model}, {asked.items} items, {asked.silos} silos: {silos / asked.silos:.2f} s of each silo, "
        f"{coordinator:.2f} s of the coordinator, {sent / 1e6:.1f} MB from each silo"
    )


def run(folder: Path, model: str, items: int, silos: int) -> tuple[float, float, int]:
    """Return processor seconds of all silos and of the coordinator, and what one silo sends in bytes."""
    names = [f"silo-{k:03d}" for k in range(silos)]
    keys = {name: SigningKey.generate(folder / f"{name}.pem") for name in (*names, "hub")}
    peers = {name: public_pem(keys[name].public).decode() for name in names}
    statistic, board = statistic_of(model, {}, items), Board(folder / "board")
    terms = Terms(1, "bench", 1, 1, "rows", statistic, peers)
    exchange.begin(board, terms, keys["hub"])
    spent = {"silos": 0.0, "coordinator": 0.0}
    total = None
    while total is None:
        start = time.process_time()
        for name in names:
            (folder / name).mkdir(exist_ok=True)
            me = Identity(name, keys[name], peers)
            exchange.take_part(
                board, folder / name, me, keys["hub"].public, 1, lambda _: ("", Sums.nothing(statistic))
            )
        middle = time.process_time()
        total = exchange.collect(board, terms)
        spent["silos"] += middle - start
        spent["coordinator"] += time.process_time() - middle
    assert total.same_as(Sums.nothing(statistic))
    sent = sum(path.stat().st_size for path in (board.inbox(names[0]) / "secure-000001").iterdir())
    return spent["silos"], spent["coordinator"], sent


if __name__ == "__main__":
    main()
