"""The embedded journal: append-only, torn tails told, consumed records gone from disk."""

import json
import logging
import subprocess
import sys
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from recunlearn.streaming import journal as journal_module
from recunlearn.streaming.journal import Journal, append, backlog, letter_files

from .popularity import files_with


def values(records):
    """Return the payloads of records."""
    return [record.value for record in records]


def segment(directory):
    """Return the last segment."""
    return sorted(directory.glob("*.log"))[-1]


def test_records_come_in_order_with_their_offsets(tmp_path):
    """What is appended is polled once, in order, numbered from 0, with the time it was appended."""
    append(tmp_path, [b"a", b"b"])
    journal = Journal(tmp_path)
    first = journal.poll(1, 10)
    append(tmp_path, [b"c"])
    second = journal.poll(1, 10)
    assert values([*first, *second]) == [b"a", b"b", b"c"]
    assert [record.offset for record in [*first, *second]] == [0, 1, 2]
    assert first[0].timestamp_ms > 1_700_000_000_000
    assert journal.poll(0, 10) == []


def test_what_is_committed_is_gone_from_disk(tmp_path):
    """A committed record is in no file; the ones after it stay."""
    append(tmp_path, [b"payload-one", b"payload-two", b"payload-three"])
    journal = Journal(tmp_path)
    journal.poll(1, 10)
    journal.commit({"journal": 2})
    assert not files_with(tmp_path, "payload-one", "payload-two")
    assert files_with(tmp_path, "payload-three")
    journal.commit({"journal": 3})
    assert not files_with(tmp_path, "payload")
    append(tmp_path, [b"later"])
    assert [(r.offset, r.value) for r in journal.poll(1, 10)] == [(3, b"later")]


def test_a_lone_line_of_json_is_a_record_too(tmp_path):
    """Somebody may append a plain line, with or without a line break, LF or CRLF; blank lines are none."""
    journal = Journal(tmp_path)
    segment(tmp_path).write_bytes(b'{"a": 1}\r\n\n  \n{"b": 2}')
    assert values(journal.poll(1, 10)) == [b'{"a": 1}', b'{"b": 2}']
    append(tmp_path, [b"c"])
    assert values(journal.poll(1, 10)) == [b"c"]


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    """A line that a crash cut off is a record of its own, unreadable; what follows is whole."""
    append(tmp_path, [b'{"whole": 1}', b'{"torn": 22222}'])
    path = segment(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    append(tmp_path, [b'{"next": 3}'])
    first, torn, third = values(Journal(tmp_path).poll(1, 10))
    assert (first, third) == (b'{"whole": 1}', b'{"next": 3}')
    assert torn.startswith(b"J1 ")
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(torn)


def test_a_flipped_byte_is_told(tmp_path):
    """A payload that is no longer what was appended does not come back as a payload."""
    append(tmp_path, [b'{"user_id": 42}'])
    path = segment(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"42", b"43"))
    (value,) = values(Journal(tmp_path).poll(1, 10))
    assert value.startswith(b"J1 ")


def test_seeking_goes_where_the_ledger_says(tmp_path):
    """A consumer that starts again continues from the position given; the first record is 0."""
    append(tmp_path, [b"a", b"b", b"c"])
    journal = Journal(tmp_path)
    journal.seek({"journal": 2})
    assert values(journal.poll(1, 10)) == [b"c"]
    journal.seek({})
    assert values(journal.poll(1, 2)) == [b"a", b"b"]


def test_a_journal_that_was_lost_is_read_from_its_start(tmp_path, caplog):
    """If the journal is shorter than what was read of it, nothing in it is skipped."""
    append(tmp_path, [b"new"])
    journal = Journal(tmp_path)
    with caplog.at_level(logging.WARNING):
        journal.seek({"journal": 50})
    journal.commit({"journal": 50})
    assert values(journal.poll(1, 10)) == [b"new"]
    assert "reading all of it" in caplog.text


def test_dead_letters_keep_the_bytes(tmp_path):
    """A record that is set aside is there with its bytes, coordinates and reason, readable by its owner."""
    append(tmp_path, [b"\xff poison"])
    journal = Journal(tmp_path)
    (record,) = journal.poll(1, 10)
    journal.dead_letters([(record, "not UTF-8")])
    (letter,) = letter_files(tmp_path).letters()
    assert (letter.record, letter.reason) == (record, "not UTF-8")
    (path,) = (tmp_path / "dead-letters").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"\xff poison" in path.read_bytes()
    assert values(Journal(tmp_path).poll(0, 10)) == [b"\xff poison"]


def test_a_payload_with_a_line_break_is_refused_whole(tmp_path):
    """Nothing of such a batch is appended."""
    with pytest.raises(ValueError, match="line break"):
        append(tmp_path, [b"good", b"bad\nline"])
    assert not list(tmp_path.glob("*.log"))


def test_the_backlog_counts_what_waits(tmp_path):
    """Records from the position on, with the age of the oldest."""
    assert backlog(tmp_path, 0) == journal_module.Backlog(0, None)
    append(tmp_path, [b"a", b"b", b"c"])
    waiting = backlog(tmp_path, 1)
    assert waiting.records == 2
    assert waiting.oldest > 1_700_000_000


def test_many_appenders_and_a_consumer_lose_nothing(tmp_path, monkeypatch):
    """While processes and threads append and the consumer purges, every record comes exactly once."""
    monkeypatch.setattr(journal_module, "_SEGMENT_BYTES", 300)
    code = (
        "import sys; from pathlib import Path\n"
        "from recunlearn.streaming.journal import append\n"
        "for k in range(40): append(Path(sys.argv[1]), [b'%s-%d' % (sys.argv[2].encode(), k)])\n"
    )
    journal = Journal(tmp_path)
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in ("one", "two")
    ]
    thread = threading.Thread(target=lambda: [append(tmp_path, [b"three-%d" % k]) for k in range(60)])
    thread.start()
    seen = []
    while len(seen) < 140:
        records = journal.poll(60, 7)
        assert records, "the consumer starves"
        seen += values(records)
        journal.commit({"journal": records[-1].offset + 1})
    thread.join()
    assert all(process.wait(60) == 0 for process in processes)
    expected = {b"%s-%d" % (name, k) for name in (b"one", b"two") for k in range(40)}
    assert sorted(seen) == sorted(expected | {b"three-%d" % k for k in range(60)})
    assert journal.poll(0, 10) == []


class JournalMachine(RuleBasedStateMachine):
    """Any interleaving of appends, foreign lines, tears, polls, commits and restarts, against a list."""

    offsets = Bundle("offsets")

    @initialize(limit=st.integers(20, 200))
    def start(self, limit):
        """Open an empty journal with small segments."""
        import tempfile
        from pathlib import Path

        self.directory = Path(tempfile.mkdtemp())
        self.kept_limit, journal_module._SEGMENT_BYTES = journal_module._SEGMENT_BYTES, limit
        self.lines, self.committed, self.read, self.count = [], 0, 0, 0
        self.journal = Journal(self.directory)

    @rule(many=st.integers(1, 4))
    def append(self, many):
        """Append some records."""
        payloads = [b"record-%d" % (self.count + k) for k in range(many)]
        self.count += many
        append(self.directory, payloads)
        self.lines += payloads

    @rule()
    def foreign_line(self):
        """Somebody appends a bare line."""
        self.count += 1
        line = b"bare-%d" % self.count
        append(self.directory, [])
        with segment(self.directory).open("ab") as file:
            file.write(line + b"\n")
        self.lines.append(line)

    @rule()
    def torn_line(self):
        """Leave a part of a line, as a crash does."""
        append(self.directory, [])
        with segment(self.directory).open("ab") as file:
            file.write(b"J1 00000000 torn")
        self.lines.append(b"J1 00000000 torn")
        append(self.directory, [b"after"])
        self.lines.append(b"after")

    @rule(limit=st.integers(1, 5))
    def poll(self, limit):
        """Poll: records come in order, from where the last poll ended."""
        records = self.journal.poll(0, limit)
        expected = self.lines[self.read : self.read + limit]
        assert values(records) == expected
        assert [record.offset for record in records] == list(range(self.read, self.read + len(expected)))
        self.read += len(expected)

    @rule(share=st.floats(0, 1))
    def commit(self, share):
        """Commit some of what was read."""
        self.committed = max(self.committed, int(self.read * share))
        self.journal.commit({"journal": self.committed})

    @rule()
    def restart(self):
        """Start the consumer again from what it committed."""
        self.journal = Journal(self.directory)
        self.journal.seek({"journal": self.committed})
        self.read = self.committed

    @invariant()
    def nothing_committed_is_left(self):
        """No committed line is in any file; the backlog is what was not."""
        if not hasattr(self, "directory"):
            return
        content = b"".join(path.read_bytes() + b"\n" for path in self.directory.glob("*.log"))
        left = {line.split(b" ")[-1] for line in content.splitlines()}
        assert (
            not {line for line in self.lines[: self.committed] if line.startswith((b"rec", b"bare"))} & left
        )
        assert backlog(self.directory, self.committed).records == len(self.lines) - self.committed

    def teardown(self):
        """Remove the journal."""
        import shutil

        if hasattr(self, "directory"):
            journal_module._SEGMENT_BYTES = self.kept_limit
            shutil.rmtree(self.directory)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
