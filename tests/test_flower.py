"""Secure sums over Flower: one server, three clients, each a process, in an environment of Flower's own.

Flower 1.42 wants an older web framework than this project is tested with, so it is not among the dev extras:
``make flower`` makes an environment for it, ``.venv/flower``. Another one: ``RECUNLEARN_FLOWER=f/bin``.
"""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
import scipy.sparse as sp
from recunlearn.engine.signing import SigningKey, public_pem
from recunlearn.models.summed import statistic_of
from recunlearn.models.sums import merge, sums_of
from recunlearn.streaming.federated.sums_file import read_arrow

from .real import need

NAMES = ("east", "north", "south")
ITEMS = int(os.environ.get("RECUNLEARN_FLOWER_ITEMS", "200"))
USERS = int(os.environ.get("RECUNLEARN_FLOWER_USERS", "40"))

TOOLS = Path(
    os.environ.get("RECUNLEARN_FLOWER", Path(__file__).parent.parent / ".venv/flower/bin")
).absolute()


@pytest.fixture
def tools():
    """Find Flower's commands; where they must be there and are not, fail."""
    if not (TOOLS / "flwr").exists():
        need(f"no Flower in {TOOLS} (make flower)")
    return TOOLS


def rows_of(seed):
    """Draw rows of a silo."""
    draw = np.random.default_rng(seed)
    return sp.csr_matrix((draw.random((USERS, ITEMS)) < 0.05).astype(np.float64))


def free_port():
    """Find a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def running(command, log, environment):
    """Run a process; ended by its group, for Flower starts processes of its own."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, start_new_session=True, cwd=log.parent
        )
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it, or what it started and has outlived it
            process.wait()


def wait_for(port):
    """Wait until something answers on a port."""
    end = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < end, f"nothing answers on {port}"
            time.sleep(0.1)
        else:
            return


def lay_out(folder, statistic):
    """Give everybody their keys, rows and one another's names."""
    keys = {}
    for k, name in enumerate(NAMES):
        (folder / name).mkdir()
        keys[name] = SigningKey.generate(folder / name / "key.pem")
        sp.save_npz(folder / name / "rows.npz", rows_of(k))
    hub = SigningKey.generate(folder / "hub.pem")
    peers = msgspec.json.encode({name: public_pem(key.public).decode() for name, key in keys.items()})
    (folder / "peers.json").write_bytes(peers)
    (folder / "statistic.json").write_bytes(msgspec.json.encode(statistic))
    for name in NAMES:
        (folder / name / "peers.json").write_bytes(peers)
        (folder / name / "hub.pub").write_bytes(public_pem(hub.public))
    sp.save_npz(folder / "north" / "deletion.npz", rows_of(1)[:3])


def test_a_server_and_three_clients_add_exactly_and_forget(tmp_path, tools):
    """SuperLink and three SuperNodes, QUERY messages: the plain sum to the bit, then that of who is left."""
    statistic = statistic_of("item_knn", {"weighting": "tfidf"}, ITEMS)
    lay_out(tmp_path, statistic)
    port = free_port()
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "PATH": f"{tools}:{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    link = [tools / "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    link += ["--disable-runtime-dependency-installation"]
    with ExitStack() as stack:
        stack.enter_context(running(link, tmp_path / "link.log", environment))
        wait_for(port)
        for name in NAMES:
            node = [tools / "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"]
            node += ["--host", "127.0.0.1", "--port", str(free_port())]
            node += ["--node-config", f'folder="{tmp_path / name}"']
            stack.enter_context(running(node, tmp_path / f"{name}.log", environment))
        app = Path(__file__).with_name("flower_app")
        ran = subprocess.run(
            [tools / "flwr", "run", app, "here", "--run-config", f'folder="{tmp_path}"'],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        end = time.monotonic() + 480
        while not (tmp_path / "seconds").exists():
            assert time.monotonic() < end, (tmp_path / "link.log").read_text()[-4000:]
            time.sleep(0.2)
    parts = [sums_of(rows_of(k), statistic) for k in range(3)]
    expected = {
        "held": merge(parts, statistic),
        "left": merge([parts[0], sums_of(rows_of(1)[3:], statistic), parts[2]], statistic),
    }
    for name, sums in expected.items():
        users = int((tmp_path / f"{name}.users").read_text())
        assert read_arrow((tmp_path / f"{name}.arrow").read_bytes(), statistic, users).same_as(sums)
    print("seconds for one round, for two:", (tmp_path / "seconds").read_text())
