"""Dead letters: kept as they came, read again after a fix, gone without a trace once they are done."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recunlearn.engine.engine import Engine
from recunlearn.engine.fence import FenceKey
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Ledger, LedgerError, Received
from recunlearn.engine.receipts import open_receipt, read_lines, state_public_key
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import Config, StateError, StatePaths, read_config, write_config
from recunlearn.engine.verification import verify_state
from recunlearn.streaming.dead_letters import LetterFiles, discard, replay
from recunlearn.streaming.document import FormatOptions
from recunlearn.streaming.formats import Reader
from recunlearn.streaming.journal import Journal, append, letter_files
from recunlearn.streaming.source import Record
from recunlearn.streaming.strict_json import UnreadableEvent
from recunlearn.streaming.watch import Watch
from recunlearn.streaming.worker import Worker

from .cut_off import is_cut_off
from .popularity import files_with, interactions
from .test_cli import invoke

ROWS = [(f"customer-{user}", item) for user in range(1, 9) for item in range(user % 3, 5)]
FIXED = Reader(FormatOptions("json", mapping={"user_id": "who"}))
POISON = b'{"id": "e-9", "type": "account.deleted", "nobody": 1}'


class Telling(Watch):
    """Sets an event when a batch begins."""

    def __init__(self, event):
        self._event = event

    def began(self, size):
        """Tell."""
        self._event.set()


@pytest.fixture
def state(tmp_path):
    """Fit a small state, and read events of which one names its user in another field."""
    fit(tmp_path, interactions(ROWS), {"popularity": {}})
    append(tmp_path / "journal", [other(1, "customer-1"), account(2, "customer-2"), POISON, b"{customer-2"])
    drain(tmp_path)
    return tmp_path


def other(request_id, user):
    """Make an event whose field names are not ours."""
    return json.dumps({"id": f"e-{request_id}", "type": "account.deleted", "who": user}).encode()


def account(request_id, user):
    """Make an account deletion."""
    return json.dumps({"id": f"e-{request_id}", "type": "account.deleted", "user_id": user}).encode()


def drain(state, **kwargs):
    """Work off what is there."""
    with Engine.open(state) as engine:
        return Worker(engine, lambda: Journal(state / "journal"), once=True, **kwargs).run()


def replayed(state, read=FIXED):
    """Read the dead letters of a state again."""
    with ledger_of(state) as ledger:
        return replay(letter_files(state / "journal"), "journal", ledger, read)


def ledger_of(state):
    """Open the ledger as another process does."""
    paths = StatePaths(state)
    return Ledger(paths.ledger, FenceKey.load(paths))


def open_letters(state):
    """Return offset -> reason of the letters that wait, by the ledger and by their files."""
    with ledger_of(state) as ledger:
        noted = {offset: one.reason for (_, offset), one in ledger.open_letters("journal").items()}
    kept = [letter.record.offset for letter in letter_files(state / "journal").letters()]
    assert kept == list(noted)
    return noted


@given(
    value=st.none() | st.binary(max_size=40),
    key=st.none() | st.binary(max_size=10),
    headers=st.dictionaries(st.text(max_size=5), st.binary(max_size=10), max_size=3),
    timestamp=st.none() | st.integers(0, 2**41),
)
def test_a_letter_keeps_all_of_its_record(tmp_path_factory, value, key, headers, timestamp):
    """Key, headers, value and times come back as they were, with line breaks, empty or missing."""
    files = LetterFiles(tmp_path_factory.mktemp("letters"))
    one = Record("users-0", 7, value, key, headers, timestamp)
    files.put(one, "not JSON")
    files.put(one, "not JSON")
    (letter,) = files.letters()
    assert (letter.record, letter.reason, letter.coordinates) == (one, "not JSON", ("users-0", 7))


def test_a_damaged_letter_is_named(tmp_path):
    """It is neither skipped nor guessed at."""
    files = LetterFiles(tmp_path / "letters")
    assert list(files.letters()) == []
    files.put(Record("users-0", 7, b"x"), "not JSON")
    (path,) = (tmp_path / "letters").iterdir()
    path.write_bytes(b"{}")
    with pytest.raises(StateError, match=r"users-0\.0+7\.letter is damaged"):
        list(files.letters())


def test_what_can_be_read_after_a_fix_is_carried_out_and_the_rest_stays(state):
    """The request is fenced at once and erased by the next run; nothing of the letter is left on disk."""
    assert open_letters(state) == {
        0: "field user_id is missing",
        2: "field user_id is missing",
        3: "not JSON",
    }
    done = replayed(state)
    assert (done.recorded, done.read, len(done.remaining), done.lost) == (1, 1, 2, [])
    assert open_letters(state) == {2: "field user_id is missing", 3: "not JSON"}
    assert not load_snapshot(state).has_user("customer-2")
    assert drain(state).erased == 1
    assert not load_snapshot(state).has_user("customer-1")
    assert files_with(state, "customer-1") == []
    again = replayed(state)
    assert (again.recorded, again.read, len(again.remaining)) == (0, 0, 2)


def test_a_replay_that_is_cut_off_anywhere_and_repeated_comes_to_the_same(state, monkeypatch):
    """Whatever step it dies at: one request, no letter lost, none left."""
    steps = 1
    while is_cut_off(lambda: replayed(state), steps, monkeypatch):
        steps += 1
        letter_files(state / "journal").keep(
            [
                (letter.record.partition, letter.record.offset)
                for letter in letter_files(state / "journal").letters()
            ]
        )
        with ledger_of(state) as ledger:
            assert len(ledger.pending()) <= 1
    assert steps >= 3
    assert sorted(open_letters(state)) == [2, 3]
    assert drain(state).erased == 1


def test_letters_that_a_crash_left_go_when_the_worker_starts(state):
    """A letter that the ledger does not know, and a half-written file, are removed; the others stay."""
    files = letter_files(state / "journal")
    files.put(Record("journal", 77, b"x"), "not JSON")
    (state / "journal" / "dead-letters" / "journal.8.letter.partial").write_bytes(b"x")
    with ledger_of(state) as ledger:
        files.keep(ledger.open_letters("journal"))
    assert sorted(open_letters(state)) == [0, 2, 3]
    assert len(list((state / "journal" / "dead-letters").iterdir())) == 3


def test_a_letter_that_asks_for_nothing_is_closed_by_a_replay(state):
    """A type that the configuration ignores now is no duty."""
    ignoring = Reader(FormatOptions("json", types={"account.deleted": "ignored"}))
    done = replayed(state, ignoring)
    assert (done.recorded, done.read) == (0, 2)
    assert open_letters(state) == {3: "not JSON"}


def test_a_damaged_record_is_not_read_again(state):
    """Nobody can vouch for its bytes, however well they read; its own reason stays."""
    files = letter_files(state / "journal")
    files.put(
        Record("journal", 0, other(1, "customer-1"), damage="its checksum is wrong"), "its checksum is wrong"
    )
    assert replayed(state).remaining["journal", 0] == "its checksum is wrong"
    assert open_letters(state)[0] == "its checksum is wrong"


def test_a_replay_does_not_take_a_reused_id_for_a_repetition(state):
    """The letter stays, with the reason of today."""
    append(state / "journal", [b'{"id": "e-2", "type": "account.deleted", "who": "customer-5"}'])
    drain(state)
    done = replayed(state)
    assert done.remaining["journal", 4] == "the request id was used for another subject before"
    assert open_letters(state)[4] == "the request id was used for another subject before"


def test_an_id_that_is_used_while_letters_are_read_again_closes_none_of_them(state, monkeypatch):
    """Looked up, the id is free; when it is recorded, another process has used it for somebody else."""
    plain = Ledger.check

    def overtaken(ledger, received):
        checked = plain(ledger, received)
        monkeypatch.undo()
        with ledger_of(state) as other_process:
            other_process.record([Received(AccountDeletion("e-1", "customer-7"))])
        return checked

    monkeypatch.setattr(Ledger, "check", overtaken)
    with pytest.raises(LedgerError, match="another process has just used the id"):
        replayed(state)
    assert sorted(open_letters(state)) == [0, 2, 3]
    assert replayed(state).remaining["journal", 0] == "the request id was used for another subject before"


def test_of_a_letter_that_asks_for_several_things_those_that_can_be_are_recorded(state):
    """One id was used for somebody else: the letter stays, and the other user is fenced already."""

    def read(record):
        if record.offset != 2:
            raise UnreadableEvent("not JSON")
        return [AccountDeletion("e-2", "customer-5"), AccountDeletion("e-10", "customer-6")]

    done = replayed(state, read)
    assert (done.recorded, done.read) == (1, 0)
    assert done.remaining["journal", 2] == "the request id was used for another subject before"
    with ledger_of(state) as ledger:
        assert [one.request.user_id for one in ledger.pending()] == ["customer-6"]


def test_a_letter_whose_bytes_are_gone_is_told(state):
    """The duty does not disappear with its bytes."""
    (state / "journal" / "dead-letters" / f"journal.{3:020d}.letter").unlink()
    assert replayed(state).lost == [("journal", 3)]
    with ledger_of(state) as ledger:
        assert ("journal", 3) in ledger.open_letters("journal")


def test_a_running_worker_carries_out_what_another_process_replays(state):
    """Nobody has to stop it, and no new event has to arrive."""
    erased = threading.Event()
    with Engine.open(state) as engine:
        worker = Worker(engine, lambda: Journal(state / "journal"), watch=Telling(erased))

        def look_on():
            try:
                replayed(state)
                assert erased.wait(30)
            finally:
                worker.stop()

        thread = threading.Thread(target=look_on)
        thread.start()
        report = worker.run()
        thread.join()
    assert report.erased == 1


def test_an_erased_users_id_in_an_unread_letter_is_found_until_it_is_discarded(state):
    """The letter may be another duty, so it is kept; the receipt and verify say that it is there."""
    where = f"journal/dead-letters/journal.{3:020d}.letter"
    public = state_public_key(StatePaths(state))
    (line,) = read_lines(StatePaths(state))
    assert open_receipt(line, public)["predicate"]["scan"]["found"] == [where]
    found = verify_state(state)
    assert not found.ok
    assert found.scan.found == [where]
    with ledger_of(state) as ledger:
        assert discard(letter_files(state / "journal"), "journal", ledger, [("journal", 3)]) == 1
    assert verify_state(state).ok
    assert files_with(state, "customer-2") == []


def test_a_format_in_another_file_than_the_states_is_refused(state, tmp_path):
    """A mapping that silently does nothing would turn every deletion into a dead letter."""
    (tmp_path / "run.toml").write_text('[format]\nname = "json"\n')
    told = invoke("--config", tmp_path / "run.toml", "run", "--state", state, "--once", rc=2)
    assert "config.toml" in told.stderr


def test_the_commands_list_show_replay_and_discard(state):
    """What an operator types: nothing of a payload is shown unless it is asked for."""
    listed = invoke("dead-letters", "list", "--state", state)
    assert "3 records wait" in listed.stdout
    assert "customer" not in listed.stdout
    rows = json.loads(invoke("dead-letters", "list", "--state", state, "--json").stdout)["dead_letters"]
    assert [(row["offset"], row["reason"], row["lost"]) for row in rows][:1] == [
        (0, "field user_id is missing", False)
    ]
    assert rows[0]["bytes"] == len(other(1, "customer-1"))
    shown = invoke("dead-letters", "show", "--state", state, "journal", 0)
    assert shown.stdout_bytes == other(1, "customer-1")
    invoke("dead-letters", "show", "--state", state, "journal", 1, rc=1)
    stayed = invoke("dead-letters", "replay", "--state", state, "--json", rc=3)
    assert json.loads(stayed.stdout) == {"recorded": 0, "read": 0, "remaining": 3, "lost": 0}
    paths = StatePaths(state)
    config = read_config(paths)
    write_config(
        paths,
        Config(config.models, config.options, {"format": {"name": "json", "mapping": {"user_id": "who"}}}),
    )
    replayed_now = invoke("dead-letters", "replay", "--state", state, rc=3)
    assert "1 records could be read now, 1 requests are new; 2 remain" in replayed_now.stdout
    invoke("dead-letters", "discard", "--state", state, "journal", 2, rc=2)
    for offset in (2, 3):
        invoke("dead-letters", "discard", "--state", state, "journal", offset, "--yes")
    invoke("dead-letters", "discard", "--state", state, "journal", 3, "--yes", rc=1)
    assert "0 records wait" in invoke("dead-letters", "list", "--state", state).stdout
    invoke("run", "--state", state, "--once")
    assert verify_state(state).ok
