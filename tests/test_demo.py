"""The demo, played for real on small data: every claim measured, nothing left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from kafka import KafkaAdminClient
from recunlearn.eval.broker import BrokerError, why_missing
from recunlearn.eval.generate import social_interactions
from recunlearn.eval.outcome import Asked
from recunlearn.eval.report import read_report
from recunlearn.eval.topic import open_topic

from .real import need
from .test_cli import invoke
from .topics import everything_in, wait_until

COMMAND = [sys.executable, "-c", "from recunlearn.cli import main; main()", "demo"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write a small social data set with string users and integer items."""
    matrix = social_interactions(150, 80, 3000, seed=5).tocoo()
    path = tmp_path_factory.mktemp("data") / "plays.csv"
    users = [f"user-{row:04d}" for row in matrix.row]
    pl.DataFrame({"user_id": users, "item_id": matrix.col.astype(np.int64)}).write_csv(path)
    return path


@pytest.fixture
def demo(tmp_path):
    """Start the demo without a terminal, writing into ``tmp_path / "out"``; it does not outlive the test."""
    with contextlib.ExitStack() as started:

        def start(data, *options):
            arguments = ["--data", str(data), "--output", str(tmp_path / "out"), "--accounts", "5"]
            arguments += ["--interactions", "20", *options]
            process = subprocess.Popen(
                [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


def processes_about(path):
    """List the processes whose command line names a path."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(str(path) in word for word in words) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def test_the_demo_keeps_every_claim_and_leaves_nothing_behind(demo, data, tmp_path):
    """From fit to report: exit 0, all claims held, the page and the record written, nothing else left."""
    output = tmp_path / "out"
    process = demo(data, "--json")
    printed, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors + printed
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "report.json"]
    report = read_report(output / "report.json")
    assert json.loads(printed) == json.loads((output / "report.json").read_bytes())
    assert report.ok
    assert len(report.checks) == 7
    assert [r.accounts for r in report.removals] == [1, 5]
    assert len(report.removals[1].requests) == 25
    assert report.person.after is None
    assert "fitting spectral_mf, ease, item_knn" in errors
    assert "Traceback" not in errors
    for removal in report.removals:
        for model in removal.models:
            assert model.treatments[0].others == 1.0
            assert model.treatments[1].others == pytest.approx(1.0, rel=1e-9)
            assert model.remaining < 1e-3
            assert model.proof_holds
        for request in removal.requests:
            assert 0 <= request.fenced <= request.erased < 120
    assert msgspec.json.decode((output / "report.json").read_bytes())["ok"] is True
    assert processes_about(output) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_and_no_file(demo, data, tmp_path, number):
    """Ctrl-C, or SIGTERM, while worker and server run: exit code 130, nobody survives, nothing is left."""
    output = tmp_path / "out"
    process = demo(data, "--model", "ease")
    for line in process.stderr:
        if line.startswith("starting worker and server"):
            break
    assert len(processes_about(output)) >= 3  # the demo, its worker and its server
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert gone(output)
    assert list(output.iterdir()) == []


def gone(path, patience=10.0):
    """Tell whether all processes about a path end; what was killed may take a moment to be reaped."""
    deadline = time.monotonic() + patience
    while processes_about(path):
        if time.monotonic() > deadline:
            return False
    return True


@pytest.mark.xdist_group("kafka")
def test_the_story_through_a_topic_of_kafka(demo, data, tmp_path):
    """The demo starts a broker of its own, every claim holds, and neither process nor file is left."""
    need(why_missing())
    output = tmp_path / "out"
    process = demo(data, "--source", "kafka", "--model", "ease", "--json")
    printed, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors + printed
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "report.json"]
    report = read_report(output / "report.json")
    assert (report.ok, len(report.checks)) == (True, 7)
    assert "--source kafka" in report.command
    assert [len(removal.requests) for removal in report.removals] == [1, 25]
    assert all(0 <= one.fenced <= one.erased for removal in report.removals for one in removal.requests)
    assert gone(output)


@pytest.mark.xdist_group("kafka")
def test_a_topic_of_the_demo_does_not_outlive_it(any_broker, tmp_path):
    """On brokers of one's own it is made under a new name, filled as a platform would, and deleted."""
    servers = any_broker.bootstrap_servers
    admin = KafkaAdminClient(bootstrap_servers=servers)
    with open_topic(servers, tmp_path) as channel:
        topic = channel.worker_options[channel.worker_options.index("--topic") + 1]
        assert topic in admin.list_topics()
        channel.ask(Asked([7, "u-8"], [9], ["i-1"]))
        messages = everything_in(servers, topic)
    events = [json.loads(message.value) for message in messages]
    assert {(message.key, event["user_id"]) for message, event in zip(messages, events, strict=True)} == {
        (b"7", 7), (b"u-8", "u-8"), (b"9", 9),
    }  # fmt: skip
    assert [event["item_id"] for event in events if event["type"] == "interaction.removed"] == ["i-1"]
    wait_until(lambda: topic not in admin.list_topics(), 10)
    admin.close()


@pytest.mark.xdist_group("kafka")
def test_an_event_that_the_topic_does_not_take_is_not_taken_for_sent(any_broker, tmp_path):
    """The demo ends with the reason, instead of waiting for a deletion that nobody was told of."""
    with (
        open_topic(any_broker.bootstrap_servers, tmp_path) as channel,
        pytest.raises(BrokerError, match="does not take events: MessageSizeTooLargeError"),
    ):
        channel.ask(Asked([7, "u" * (2 << 20)], [], []))


@pytest.mark.xdist_group("kafka")
def test_no_broker_is_refused_with_the_way_out(tmp_path, monkeypatch):
    """The extra is not installed, nobody answers, or the option makes no sense: one line each."""
    output = ("--output", tmp_path / "out")
    told = invoke("demo", *output, "--bootstrap-servers", "127.0.0.1:1", rc=2)
    assert "those of --source kafka" in told.stderr
    monkeypatch.setattr("recunlearn.eval.topic._CONNECT_MS", 300)
    told = invoke("demo", *output, "--source", "kafka", "--bootstrap-servers", "127.0.0.1:1", rc=1)
    assert "no Kafka broker answered at 127.0.0.1:1" in told.stderr
    monkeypatch.setattr("recunlearn.eval.broker.find_spec", lambda name: None)
    told = invoke("demo", *output, "--source", "kafka", rc=1)
    assert "pip install 'recunlearn[broker]'" in told.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_too_small_data_are_refused_with_the_way_out(demo, tmp_path):
    """Three users are no story: one line that says so, exit code 1, nothing started or left."""
    data = tmp_path / "tiny.csv"
    data.write_text("user_id,item_id\na,1\nb,1\nc,2\n")
    process = demo(data, "--model", "ease")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "3 users are too few" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "out").iterdir()) == []
