"""The ledger's tables; SQLite itself holds every change of state to the table of transitions.

Clear ids are in ``open_ids`` alone, which is emptied whole whenever one of them is to go. ``secure_delete``
overwrites what is deleted and pages that are freed, but when SQLite moves cells between pages, copies stay
in the gaps of pages that are still in use: of ten thousand erasures, some left their ids there.
"""

from .request_states import DONE, OPEN, STEPS

SCHEMA_VERSION = 4
"""Kept in the file as ``user_version``; another one is refused, never guessed at."""

FIRST_STATES = ("received", "fenced")
"""In which a request may be recorded: a re-admission waits, everything else is fenced at once."""


def _quoted(texts: tuple[str, ...]) -> str:
    return ", ".join(f"'{text}'" for text in texts)


def _view(name: str, states: tuple[str, ...]) -> str:
    chosen = f"SELECT * FROM requests WHERE state IN ({_quoted(states)})"  # noqa: S608  our own constants
    return f"CREATE VIEW IF NOT EXISTS {name} AS {chosen}"


_STEPS = tuple(f"{step.before}>{step.after}" for step in STEPS)

FENCE_KEY, TRANSACTIONS = "fence.key", "transactions"
"""What is noted in every ledger: a check value of the key of its hashes, how many transactions it had."""

NOTED = """CREATE TABLE IF NOT EXISTS noted (
    name TEXT PRIMARY KEY, value BLOB NOT NULL        -- of the ledger itself, and of files beside it
) WITHOUT ROWID"""

SCHEMA: tuple[str, ...] = (
    """CREATE TABLE IF NOT EXISTS requests (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    request_key BLOB NOT NULL UNIQUE,        -- keyed hash of its id
    request_id TEXT,                         -- once it is done; a keyed hash if it names its user
    kind TEXT NOT NULL CHECK (kind IN ('account', 'interaction', 'anonymisation', 'readmission')),
    subject BLOB NOT NULL,                   -- keyed hash of the user, or of the user and the item
    source_partition TEXT, source_offset INTEGER,
    requested_at REAL, received_at REAL NOT NULL, fenced_at REAL, done_at REAL,
    state TEXT NOT NULL,
    outcome TEXT CHECK (outcome IN ('removed', 'anonymised', 'readmitted', 'refused', 'nothing')),
    cycle INTEGER REFERENCES cycles (cycle),
    reason TEXT, attempts INTEGER NOT NULL DEFAULT 0,
    receipt INTEGER                          -- its index in the receipt log
)""",
    "CREATE INDEX IF NOT EXISTS requests_by_state ON requests (state, seq)",
    "CREATE INDEX IF NOT EXISTS requests_by_cycle ON requests (cycle) WHERE cycle IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS open_ids (
    seq INTEGER PRIMARY KEY REFERENCES requests (seq),
    request_id TEXT NOT NULL, user_id TEXT NOT NULL, item_id TEXT
)""",
    "CREATE INDEX IF NOT EXISTS open_ids_by_user ON open_ids (user_id)",
    f"""CREATE INDEX IF NOT EXISTS requests_without_receipt ON requests (seq)
    WHERE receipt IS NULL AND state IN ({_quoted(DONE)})""",
    _view("done_requests", DONE),
    _view("open_requests", OPEN),
    "CREATE INDEX IF NOT EXISTS requests_by_receipt ON requests (receipt) WHERE receipt IS NOT NULL",
    f"""CREATE TRIGGER IF NOT EXISTS requests_move BEFORE UPDATE OF state ON requests
    WHEN OLD.state || '>' || NEW.state NOT IN ({_quoted(_STEPS)})
    BEGIN SELECT RAISE(ABORT, 'this transition is not allowed'); END""",
    f"""CREATE TRIGGER IF NOT EXISTS requests_begin BEFORE INSERT ON requests
    WHEN NEW.state NOT IN ({_quoted(FIRST_STATES)})
    BEGIN SELECT RAISE(ABORT, 'a request does not begin in this state'); END""",
    """CREATE TABLE IF NOT EXISTS fence (
    subject BLOB PRIMARY KEY, owner BLOB NOT NULL,    -- keyed hash of the user: the subject of an account
    kind TEXT NOT NULL CHECK (kind IN ('account', 'interaction')),
    first INTEGER NOT NULL, last INTEGER NOT NULL,    -- requests that hold it up, by their numbers
    erased INTEGER NOT NULL DEFAULT 0                 -- nothing of the subject may be left, no request waits
) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS fence_of_the_known ON fence (owner) WHERE erased = 0",
    """CREATE TABLE IF NOT EXISTS admissions (
    subject BLOB PRIMARY KEY, seq INTEGER NOT NULL,
    since REAL NOT NULL                               -- what is older was erased: Unix seconds
) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS cycles (
    cycle INTEGER PRIMARY KEY AUTOINCREMENT,
    version INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'published', 'finished')),
    record BLOB                              -- JSON: what was published and what was purged, for the receipts
)""",
    """CREATE TABLE IF NOT EXISTS positions (
    source TEXT NOT NULL, partition TEXT NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (source, partition)
) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS sources (source TEXT PRIMARY KEY, identity TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS dead_letters (
    source TEXT NOT NULL, partition TEXT NOT NULL, offset INTEGER NOT NULL,
    reason TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (source, partition, offset)
) WITHOUT ROWID""",
    NOTED,
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
"""The statements that make an empty ledger; each may be repeated."""
