"""The command line: its exit codes, its JSON, its messages; as processes, as people run it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer.testing
from recunlearn import cli
from recunlearn.engine.fitting import fit
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.streaming.journal import backlog

from .popularity import files_with, interactions

ROWS = [(f"user-{u}", f"item-{i}") for u in range(6) for i in range(5) if (u + i) % 3]


def recunlearn(*arguments, rc=0):
    """Run a command in a process of its own; returns (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "recunlearn.cli", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == rc, done.stderr + done.stdout
    return done.stdout, done.stderr


def invoke(*arguments, rc=0):
    """Run a command in this process; returns its output."""
    result = typer.testing.CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if rc != "raises":
        assert result.exit_code == rc, (result.output, result.exception)
    return result


@pytest.fixture
def state(tmp_path):
    """Fit a small state with the test double."""
    fit(tmp_path / "state", interactions(ROWS), {"popularity": {}})
    return tmp_path / "state"


def write_csv(path, rows):
    """Write interactions as CSV."""
    path.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in rows))
    return path


def test_the_story_from_a_file_to_a_forgotten_user(tmp_path):
    """fit, forget, run --once and status, as processes: the user is gone, from answers and from disk."""
    data, state = write_csv(tmp_path / "data.csv", ROWS), tmp_path / "state"
    fitted = json.loads(recunlearn("fit", "--data", data, "--state", state, "--model", "ease", "--json")[0])
    assert (fitted["version"], fitted["users"], fitted["rejected"]["total"]) == (1, 6, 0)
    asked = json.loads(invoke("forget", "--state", state, "--user", "user-3", "--user", "nobody",
                              "--interaction", "user-1:item-1", "--json").stdout)  # fmt: skip
    assert asked["appended"] == len(asked["request_ids"]) == 3
    waiting = json.loads(invoke("status", "--state", state, "--json").stdout)
    assert waiting["requests"] == {"pending": 3, "fenced": 0, "erased": 0, "failed": 0}
    assert waiting["oldest_pending_seconds"] > 0
    ran = json.loads(recunlearn("run", "--state", state, "--once", "--json")[0])
    assert (ran["version"], ran["erased"], ran["failed"]) == (2, 3, 0)
    done = json.loads(recunlearn("status", "--state", state, "--json")[0])
    assert list(done) == [
        "version", "users", "items", "interactions", "requests", "oldest_pending_seconds", "models",
        "due", "other_requests", "waiting_for_stores", "old_readers",
    ]  # fmt: skip
    assert done["requests"] == {"pending": 0, "fenced": 0, "erased": 3, "failed": 0}
    assert (done["users"], done["interactions"]) == (5, fitted["interactions"] - 3 - 1)
    assert done["models"]["ease"]["exact"] is True
    assert not files_with(state, "user-3", "nobody")


def test_help_is_fast_and_every_command_has_it():
    """--help imports nothing heavy; each command says what it does."""
    code = (
        "import sys\nfrom recunlearn import cli\n"
        "print([m for m in ('numpy', 'polars', 'scipy', 'numba') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        assert len(invoke(name, "--help").output.splitlines()) > 5
        assert command.callback.__doc__


def test_rejected_rows_are_reported_with_their_lines(tmp_path):
    """Bad rows are named on stderr and in the JSON, and the good ones are fitted."""
    data = tmp_path / "data.csv"
    data.write_text("user_id,item_id,value\na,x,1\nb,x,minus\na,y,0\nb,y,2\n,x,1\n")
    result = invoke("fit", "--data", data, "--state", tmp_path / "s", "--model", "popularity", "--json")
    report = json.loads(result.stdout)
    assert report["interactions"] == 2
    assert [row["line"] for row in report["rejected"]["lines"]] == [3, 4, 6]
    assert "3 rows rejected" in result.stderr


def test_the_value_column_is_used_if_there_is_one(tmp_path):
    """A column named value counts, in CSV, NDJSON and Parquet; without it every value is 1."""
    import polars as pl

    frame = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["x", "x"], "value": [3.0, 4.0]})
    frame.write_csv(tmp_path / "d.csv")
    frame.write_ndjson(tmp_path / "d.ndjson")
    frame.write_parquet(tmp_path / "d.parquet")
    frame.drop("value").write_csv(tmp_path / "plain.csv")
    for name, total in (("d.csv", 7.0), ("d.ndjson", 7.0), ("d.parquet", 7.0), ("plain.csv", 2.0)):
        invoke("fit", "--data", tmp_path / name, "--state", tmp_path / f"s-{name}", "--model", "popularity")
        model = load_snapshot(tmp_path / f"s-{name}")._models["popularity"]
        assert model.item_counts.tolist() == [total]


def test_a_data_set_is_fitted_by_its_name(tmp_path, monkeypatch):
    """--data takes the name of a known data set, shows its licence, and prefers a file of that name."""
    from recunlearn.engine.tables import table_from_frame
    from recunlearn.eval import datasets

    def loaded(name, *, show_notice):
        show_notice("for research only")
        return datasets.NamedDataset(
            name, table_from_frame(interactions(ROWS)), {}, "for research only", "here"
        )

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    result = invoke("fit", "--data", "movielens-100k", "--state", tmp_path / "s", "--model", "popularity")
    assert "for research only" in result.stderr
    assert load_snapshot(tmp_path / "s").manifest.counts.users == 6
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "movielens-100k", ROWS[:3])  # without an ending it cannot be read, and that is said
    invoke("fit", "--data", "movielens-100k", "--state", tmp_path / "t", "--model", "popularity", rc=1)


def test_settings_reach_the_model_and_stay_for_a_refit(tmp_path):
    """--set MODEL.KEY=VALUE is what the model is made with, now and when the state is fitted again."""
    data, state = write_csv(tmp_path / "d.csv", ROWS), tmp_path / "s"
    invoke("fit", "--data", data, "--state", state, "--model", "popularity", "--set", "popularity.weight=2.5")
    invoke("fit", "--state", state)
    snap = load_snapshot(state)
    assert snap.version == 2
    assert snap.manifest.models["popularity"].settings == {"weight": 2.5}


@pytest.mark.parametrize(
    ("arguments", "rc", "message"),
    [
        (["fit", "--state", "S", "--model", "nonsense"], 2, "no model 'nonsense'"),
        (["fit", "--state", "S", "--model", "popularity", "--set", "weight=1"], 2, "MODEL.KEY=VALUE"),
        (["fit", "--state", "S", "--data", "no-such-file.csv"], 1, "no-such-file.csv"),
        (["fit", "--state", "S", "--model", "popularity", "--set", "popularity.colour=1"], 1, "colour"),
        (["forget", "--state", "S"], 2, "name whom to forget"),
        (["forget", "--state", "S", "--interaction", "user-1"], 2, "USER:ITEM"),
        (["forget", "--state", "S", "--interaction", "a:b:c"], 2, "colon"),
        (["forget", "--state", "S", "--user", ""], 2, "empty"),
        (["forget", "--state", "S", "--file", "no-such-file"], 1, "no-such-file"),
        (["run", "--state", "S", "--source", "pigeon"], 2, "no source 'pigeon'"),
        (["run"], 2, "--state"),
    ],
)
def test_wrong_use_and_what_is_not_so_are_told_apart(state, arguments, rc, message):
    """Exit code 2 for a wrong command, 1 for something that is not so; the message names the value."""
    result = invoke(*[state if argument == "S" else argument for argument in arguments], rc=rc)
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("command", [["forget", "--user", "x"], ["run", "--once"], ["status"], ["fit"]])
def test_a_directory_that_is_no_state_is_said_so(tmp_path, command):
    """The message names the directory and the way out; exit code 1, no traceback."""
    stdout, stderr = recunlearn(command[0], "--state", tmp_path / "nothing", *command[1:], rc=1)
    assert "is not a state directory" in stderr
    assert "recunlearn fit" in stderr
    assert "Traceback" not in stdout + stderr


def test_a_file_of_requests_is_read_line_by_line(state, tmp_path):
    """Events and plain ids are appended; a line that is neither is named, and the others are not lost."""
    events = tmp_path / "requests.ndjson"
    events.write_text(
        '{"id": "e-1", "type": "account.deleted", "user_id": "user-1"}\n\nuser-2\n{"id": 1}\n'
        '{"id": "e-2", "type": "interaction.removed", "user_id": "user-4", "item_id": "item-1"}\n'
    )
    result = invoke("forget", "--state", state, "--file", events, "--json", rc=1)
    assert json.loads(result.stdout)["rejected"] == [{"line": 4, "reason": "field type is missing"}]
    assert backlog(state / "journal", 0).records == 3


def test_failed_duties_end_a_run_with_exit_code_3(state):
    """A record that cannot be read as a request is a failure of the run, shown by status too."""
    invoke("forget", "--state", state, "--user", "user-1")
    (segment,) = (state / "journal").glob("*.log")
    with segment.open("ab") as file:
        file.write(b"{not json\n")
    ran = invoke("run", "--state", state, "--once", "--json", rc=3)
    assert json.loads(ran.stdout)["dead_letters"] == 1
    told = invoke("status", "--state", state, "--json")
    assert json.loads(told.stdout)["requests"] == {"pending": 0, "fenced": 0, "erased": 1, "failed": 1}
    told = invoke("status", "--state", state)
    assert "1 failed" in told.stdout
    assert "not fulfilled" in told.stderr


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_running_worker_takes_requests_up_and_stops_cleanly(tmp_path, stop):
    """`run` erases what `forget` appends meanwhile, refuses a second writer, and ends with exit code 0."""
    data, state = write_csv(tmp_path / "d.csv", ROWS), tmp_path / "s"
    recunlearn("fit", "--data", data, "--state", state, "--model", "item_knn")
    worker = subprocess.Popen(
        [sys.executable, "-m", "recunlearn.cli", "run", "--state", str(state)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    try:
        invoke("forget", "--state", state, "--user", "user-1")
        deadline = time.monotonic() + 60
        while load_snapshot(state).version != 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        result = invoke("run", "--state", state, "--once", rc="raises")
        assert f"in use by process {worker.pid}" in str(result.exception)
        worker.send_signal(stop)
        stdout, stderr = worker.communicate(timeout=60)
    finally:
        worker.kill()
    assert worker.returncode == 0, stderr
    assert "1 erased" in stdout
    assert "user-1" not in stderr
