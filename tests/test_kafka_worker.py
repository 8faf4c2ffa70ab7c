"""`recunlearn run --source kafka` as a process against a real broker: configured, killed, taken over from."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import Fence
from recunlearn.engine.fitting import fit
from recunlearn.engine.snapshot import load_snapshot

from .popularity import interactions
from .topics import account, make_topic, new_topic, produce, wait_until

pytestmark = pytest.mark.xdist_group("kafka")
ROWS = [(user, item) for user in range(60) for item in range(8) if (user + item) % 3]
_COMMAND = (sys.executable, "-m", "recunlearn.cli")


@pytest.fixture
def state(tmp_path):
    """Fit a small state that another process can open."""
    fit(tmp_path / "state", interactions(ROWS), {"ease": {"regularization": 10.0}})
    return tmp_path / "state"


@pytest.fixture
def start():
    """Start a command; whatever still runs afterwards is killed, by its id."""
    running = []

    def begin(*arguments, **environment):
        process = subprocess.Popen(
            [*_COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finished(process, seconds=90):
    """Wait for the end; returns (exit code, stdout, stderr)."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def options(broker, topic):
    """Say where to read; Tansu holds a new member back for half of its session, and three seconds more."""
    servers = broker.bootstrap_servers
    return (
        "--source", "kafka", "--bootstrap-servers", servers, "--topic", topic, "--session-timeout", "3",
    )  # fmt: skip


def test_a_topic_is_drained_once(any_broker, state, start):
    """Valid requests are erased once, unreadable records are set aside, and a second run finds nothing."""
    topic = new_topic(any_broker.bootstrap_servers, 2)
    values = [account("e-1", 1), b"{broken", account("e-2", 2), account("e-1", 1), account("e-3", 999)]
    produce(any_broker.bootstrap_servers, topic, values)
    arguments = ("run", "--state", state, "--once", "--json", *options(any_broker, topic))
    code, out, err = finished(start(*arguments))
    assert code == 3, err
    report = json.loads(out)
    assert (report["recorded"], report["erased"], report["dead_letters"]) == (3, 3, 1)
    assert not {1, 2} & set(load_snapshot(state).user_ids())
    code, out, err = finished(start(*arguments))
    assert code == 0, err
    assert json.loads(out)["recorded"] == 0


def test_options_come_from_flag_then_environment_then_file_then_state(any_broker, state, start, tmp_path):
    """The nearer one wins, each layer is heard, and a key that no option has is refused."""
    servers = any_broker.bootstrap_servers
    topic = new_topic(servers)
    produce(servers, topic, [account("e-1", 1)])
    with (state / "config.toml").open("a") as file:
        file.write('[kafka]\nbootstrap_servers = "127.0.0.1:1"\ntopic = "of-the-state"\n')
    config = tmp_path / "run.toml"
    config.write_text(
        '[run]\nsource = "kafka"\nonce = true\n'
        f'[kafka]\nbootstrap_servers = "{servers}"\ntopic = "of-the-file"\nsession_timeout = 3.0\n'
    )
    run = ("--config", config, "run", "--state", state)
    code, _, err = finished(start(*run))
    assert (code, "has no topic of-the-file" in err) == (1, True), err
    code, _, err = finished(start(*run, RECUNLEARN_RUN_TOPIC="of-the-environment"))
    assert (code, "has no topic of-the-environment" in err) == (1, True), err
    code, _, err = finished(start(*run, "--topic", topic, RECUNLEARN_RUN_TOPIC="of-the-environment"))
    assert code == 0, err
    config.write_text('[kafka]\nsasl_password = "secret-horse"\n')
    code, _, err = finished(start(*run))
    assert (code, "sasl_password" in err, "secret-horse" in err) == (2, True, False), err


def test_a_topic_made_anew_is_refused_until_that_is_accepted(kafka, state, start):
    """Positions of the old topic are not applied to the new one; with --on-lost continue it is read whole."""
    from kafka import KafkaAdminClient

    topic = new_topic(kafka.bootstrap_servers)
    produce(kafka.bootstrap_servers, topic, [account("e-1", 1), account("e-2", 2)])
    arguments = ("run", "--state", state, "--once", "--json", *options(kafka, topic))
    assert finished(start(*arguments))[0] == 0
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    admin.delete_topics([topic])
    wait_until(lambda: topic not in admin.list_topics())
    admin.close()
    make_topic(kafka.bootstrap_servers, topic)
    produce(kafka.bootstrap_servers, topic, [account("e-3", 3)])
    code, _, err = finished(start(*arguments))
    assert (code, "is not what was read before" in err, "Traceback" in err) == (1, True, False), err
    code, out, err = finished(start(*arguments, "--on-lost", "continue"))
    assert (code, json.loads(out)["erased"]) == (0, 1), err


def test_a_standby_takes_over_from_a_worker_that_was_killed(kafka, state, start):
    """It waits while the other has the state, then goes on within seconds; nothing is lost or done twice."""
    topic = new_topic(kafka.bootstrap_servers, 2)
    arguments = ("run", "--state", state, *options(kafka, topic))
    active = start(*arguments)
    fence = Fence(state)
    produce(kafka.bootstrap_servers, topic, [account("e-1", 1)])
    wait_until(lambda: fence.is_fenced(1))
    standby = start(*arguments, "--standby")
    assert "standing by" in standby.stderr.readline()
    code, _, err = finished(start(*arguments))
    assert (code, "in use by process" in err) == (1, True), err
    active.kill()
    active.wait()
    killed_at = time.monotonic()
    produce(kafka.bootstrap_servers, topic, [account("e-1", 1), account("e-2", 2)])
    wait_until(lambda: fence.is_fenced(2))
    assert time.monotonic() - killed_at < 20
    fence.close()
    wait_until(lambda: not {1, 2} & set(load_snapshot(state).user_ids()))
    stopped_at = time.monotonic()
    standby.send_signal(signal.SIGTERM)
    code, _, err = finished(standby)
    assert code == 0, err
    assert time.monotonic() - stopped_at < 20
    with Engine.open(state) as engine:
        assert engine.ledger.counts()["erased"] == 2
