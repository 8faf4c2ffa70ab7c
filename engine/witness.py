"""The receipt log as a witness: whether the ledger beside it, or the log itself, is an older copy."""

from .ledger import Ledger, LedgerError
from .receipts import ReceiptLog, not_noted
from .signing import ReceiptError
from .state import StatePaths


def check_against_ledger(paths: StatePaths, ledger: Ledger, log: ReceiptLog) -> None:
    """Compare the receipt log with the ledger: a crash leaves receipts that are not noted, and nothing else.

    If both are old copies, nothing in the state directory can tell: then only a checkpoint that is kept
    elsewhere can.

    Raises
    ------
    LedgerError
        The log has receipts of requests that the ledger does not have: it was set back, and whoever was
        erased since is not fenced by it.
    ReceiptError
        The ledger knows of receipts that the log does not have.
    """
    noted = ledger.last_receipt()
    if log.size <= noted:
        raise ReceiptError(
            f"{paths.receipt_log} ends before receipt {noted}, which the ledger knows: it is an older copy"
        )
    waiting = {request.seq: request.subject.hex() for request in ledger.without_receipt()}
    for place, request in not_noted(ledger, log, paths).items():
        if waiting.get(request["seq"]) != request["subject_hash"]:
            raise LedgerError(
                f"{paths.ledger} is older than {paths.receipt_log}: it does not know the request of receipt "
                f"{place}, so it would let in again who was erased since; restore the ledger that belongs to "
                "it, or fit a new state directory and send all deletions again"
            )
