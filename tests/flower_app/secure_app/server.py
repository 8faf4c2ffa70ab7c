"""The coordinator: adds up what the silos have, then subtracts who leaves; results into files."""

import time
from pathlib import Path

import msgspec
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from recunlearn.engine.signing import SigningKey
from recunlearn.models.sums import Statistic
from recunlearn.streaming.federated.board import Board
from recunlearn.streaming.federated.secure.flower import add_up
from recunlearn.streaming.federated.secure.terms import Terms
from recunlearn.streaming.federated.sums_file import write_arrow

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run two rounds."""
    folder = Path(str(context.run_config["folder"]))
    peers = msgspec.json.decode((folder / "peers.json").read_bytes(), type=dict[str, str])
    statistic = msgspec.json.decode((folder / "statistic.json").read_bytes(), type=Statistic)
    key, board = SigningKey.load(folder / "hub.pem"), Board(folder / "board")
    start = time.monotonic()
    held = add_up(grid, board, Terms(1, "test", 1, 1, "rows", statistic, peers), key, patience=240)
    seconds = time.monotonic() - start
    gone = add_up(grid, board, Terms(1, "test", 1, 2, "deletion", statistic, peers), key, patience=240)
    left = held.subtract(gone)
    for name, sums in (("held", held), ("left", left)):
        (folder / f"{name}.users").write_text(str(sums.users))
        (folder / f"{name}.arrow").write_bytes(write_arrow(sums))
    (folder / "seconds").write_text(f"{seconds} {time.monotonic() - start}")
