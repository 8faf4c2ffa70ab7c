"""SIGKILL at random times in a long run: no request is lost, none is done twice, one receipt each.

``RECUNLEARN_KILLS=200 RECUNLEARN_REQUESTS=1000`` is the run whose figures the docs give.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "random_kills.py"
KILLS = int(os.environ.get("RECUNLEARN_KILLS", "10"))
REQUESTS = int(os.environ.get("RECUNLEARN_REQUESTS", "100"))


def test_killed_at_random_nothing_is_lost_and_nothing_done_twice(tmp_path):
    """After all kills: every request erased once with one receipt, the models as if there had been none."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(KILLS), str(REQUESTS)],
        capture_output=True, text=True, timeout=120 + 10 * KILLS, check=False,
        env={**os.environ, "POLARS_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    killed, found = map(json.loads, done.stdout.splitlines())
    print(done.stdout)
    assert killed["killed"] == KILLS, done.stderr[-3000:]
    assert found["problems"] == []
    assert found["kept"]
    assert found["erased"] == found["requests"] == found["receipts"] == found["valid_receipts"] == REQUESTS
    assert found["waiting"] == 0
    assert found["outcomes"] == ["removed"]
    assert found["deep"]["item_knn"][0] == 0.0
    distance, allowed = found["deep"]["spectral_mf"]
    assert distance <= allowed
    assert 0.0 < allowed < 1e-3
    assert found["taken_up_again"] > 0
    assert found["as_uninterrupted"]
    assert found["compared"] >= 6
