"""The durable request ledger (SQLite): what was asked, how far it is, who is fenced, how far was read.

Clear ids are here from *received* to *erased* only; then a keyed hash is left. ``secure_delete`` zeroes
what is freed, and :meth:`Ledger.purge` empties the write-ahead log.

Its parts are a file each: the tables (:mod:`.ledger_file`), the intake (:mod:`.ledger_intake`), what is
taken back (:mod:`.ledger_cancel`), the dead letters (:mod:`.ledger_letters`), the cycles
(:mod:`.ledger_cycles`), the reports (:mod:`.ledger_reports`);
the states a request may be in are :data:`~.request_states.TRANSITIONS`.
"""

from .ledger_cancel import Cancelled
from .ledger_cycles import Cycles, TakenBackError
from .ledger_file import LedgerError
from .ledger_intake import Intake
from .ledger_letters import Letters
from .ledger_records import Cycle, DeadLetter, DoneRequest, Pending, Received
from .ledger_reports import Reports
from .ledger_sources import Sources
from .request_states import TRANSITIONS

__all__ = [
    "TRANSITIONS",
    "Cancelled",
    "Cycle",
    "DeadLetter",
    "DoneRequest",
    "Ledger",
    "LedgerError",
    "Pending",
    "Received",
    "TakenBackError",
]


class Ledger(Intake, Sources, Cycles, Letters, Reports):
    """One connection to the ledger: for one thread; each thread and process opens its own.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from recunlearn.engine.fence import FenceKey
    >>> from recunlearn.engine.requests import AccountDeletion
    >>> from recunlearn.engine.state import StatePaths
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     paths = StatePaths(Path(directory))
    ...     with Ledger.create(paths, FenceKey(bytes(32))) as ledger:
    ...         ledger.record([Received(AccountDeletion("e-1", 42))])
    ...         ledger.record([Received(AccountDeletion("e-1", "42"))])
    ...         ledger.pending()
    1
    0
    [Pending(seq=1, request=AccountDeletion(request_id='e-1', user_id='42', requested_at=None))]
    """
