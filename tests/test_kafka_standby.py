"""Two workers of one state: one writes, the other waits; whatever is killed, stopped or goes on.

``RECUNLEARN_TAKEOVERS=12 pytest tests/test_kafka_standby.py`` measures what docs/howto/kafka.md gives.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest
from recunlearn.engine.fence import Fence, FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger
from recunlearn.engine.state import StatePaths

from .popularity import interactions
from .topics import account, members, new_topic, produce, wait_until

pytestmark = pytest.mark.xdist_group("kafka")
TAKEOVERS = int(os.environ.get("RECUNLEARN_TAKEOVERS", "1"))
USERS = 62 + TAKEOVERS
ROWS = [(user, item) for user in range(USERS) for item in range(8) if (user + item) % 3]
SESSION_SECONDS = 2
TAKES_OVER_WITHIN = 10.0
"""Seconds that docs/howto/kafka.md promises, from the end of the active worker to the next user fenced."""


class Workers:
    """Workers of one state and one topic, started and ended by their process ids."""

    def __init__(self, state, servers, topic):
        self._command = [
            sys.executable, "-m", "recunlearn.cli", "run", "--state", str(state), "--standby",
            "--source", "kafka", "--bootstrap-servers", servers, "--topic", topic, "--group", topic,
            "--session-timeout", str(SESSION_SECONDS),
        ]  # fmt: skip
        self._output = state.parent / "workers.txt"
        self._running = []

    def start(self):
        """Start one more."""
        with self._output.open("ab") as output:
            process = subprocess.Popen(self._command, stdout=output, stderr=output)
        self._running.append(process)
        return process

    def are_waiting(self):
        """Return how often a worker said that it stands by."""
        return self._output.read_text().count("standing by")

    def stop(self):
        """Kill what still runs."""
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def state(tmp_path):
    """Fit a small state."""
    fit(tmp_path / "state", interactions(ROWS), {"item_knn": {"K": 5}})
    return tmp_path / "state"


@pytest.fixture
def topic(kafka):
    """Make a topic."""
    return new_topic(kafka.bootstrap_servers, 2)


@pytest.fixture
def workers(kafka, state, topic):
    """Say how to start workers; all end with the test."""
    workers = Workers(state, kafka.bootstrap_servers, topic)
    yield workers
    workers.stop()


@pytest.fixture
def fence(state):
    """Open the fence as a server has it."""
    fence = Fence(state)
    yield fence
    fence.close()


def requests_in(state):
    """Return the ledger's counts, as a reader sees them."""
    paths = StatePaths(state)
    with Ledger(paths.ledger, FenceKey.load(paths)) as ledger:
        return ledger.counts()


def test_two_workers_never_write_at_once_and_one_takes_over_in_time(
    kafka, state, topic, workers, fence, capsys
):
    """Stopped for longer than its session, the active one keeps the state, and goes on; killed, not."""
    servers = kafka.bootstrap_servers
    active = workers.start()
    produce(servers, topic, [account("e-0", 0)])
    wait_until(lambda: requests_in(state)["erased"] == 1)
    standby = workers.start()
    wait_until(lambda: workers.are_waiting() == 1)
    stop_for_longer_than_the_session(active, standby, state, servers, topic)
    wait_until(lambda: requests_in(state)["erased"] == 2)
    assert holder_of(state) == active.pid
    seconds = []
    for number in range(2, TAKEOVERS + 2):
        seconds.append(take_over(active, standby, fence, lambda number=number: send(servers, topic, number)))
        assert holder_of(state) == standby.pid
        active, standby = standby, workers.start() if number <= TAKEOVERS else None
        wait_until(lambda number=number: workers.are_waiting() == min(number, TAKEOVERS))
    wait_until(lambda: requests_in(state)["erased"] == TAKEOVERS + 2)
    if TAKEOVERS > 1:
        with capsys.disabled():
            middle = statistics.median(seconds)
            print(f"{TAKEOVERS} takeovers: median {middle:.1f} s, longest {max(seconds):.1f} s")
    assert max(seconds) < TAKES_OVER_WITHIN


def send(servers, topic, number):
    """Send a request that was carried out already, and a new one; returns the new one's user."""
    produce(servers, topic, [account(f"e-{one}", one) for one in (number - 1, number)])
    return number


def stop_for_longer_than_the_session(active, standby, state, servers, topic):
    """Stop the active worker until the group gave it up; nobody writes meanwhile. Then it goes on."""
    active.send_signal(signal.SIGSTOP)
    before = requests_in(state)
    send(servers, topic, 1)
    wait_until(lambda: not members(servers, topic))
    time.sleep(1.0)  # four looks of the standby's
    assert standby.poll() is None
    assert holder_of(state) == active.pid
    assert requests_in(state) == before
    active.send_signal(signal.SIGCONT)


def take_over(active, standby, fence, send_one):
    """Kill the active worker; returns after how many seconds the next user was fenced."""
    active.kill()
    killed = time.monotonic()
    user = send_one()
    wait_until(lambda: fence.is_fenced(user))
    assert active.wait() == -signal.SIGKILL
    assert standby.poll() is None
    return time.monotonic() - killed


def holder_of(state):
    """Return the process id in the lock of the state."""
    return json.loads(StatePaths(state).lock.read_text())["pid"]
