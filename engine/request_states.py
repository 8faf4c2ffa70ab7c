"""The states of a request and what may follow what: the one table that code, ledger and docs go by."""

from collections.abc import Mapping
from typing import NamedTuple


class Transition(NamedTuple):
    """One allowed step, and who may cause it."""

    before: str
    after: str
    cause: str


STEPS: tuple[Transition, ...] = (
    Transition("received", "fenced", "the intake, in the transaction that records the request"),
    Transition("received", "admitted", "a re-admission: every earlier request of the user is done"),
    Transition("received", "refused", "a re-admission that was asked before the deletion it would undo"),
    Transition("received", "cancelled", "whoever asked took it back"),
    Transition("fenced", "erasing", "a cycle takes it up"),
    Transition("fenced", "failed", "a model cannot forget it: loud, and tried again by the next run"),
    Transition("fenced", "cancelled", "whoever asked took it back, before erasing"),
    Transition("erasing", "erased", "the cycle published a version without it and purged what held it"),
    Transition("erasing", "anonymised", "the same, for an anonymisation: the rows stay under another id"),
    Transition("erasing", "fenced", "the cycle was cut off before it published; it is done again"),
    Transition("erasing", "failed", "a model cannot forget it"),
    Transition("failed", "fenced", "the next run"),
    Transition("failed", "cancelled", "whoever asked took it back"),
)
"""Every allowed step. The ledger's tables refuse any other (:mod:`.ledger_schema`)."""

DONE: tuple[str, ...] = ("erased", "anonymised", "admitted", "refused")
"""States in which a request ends and gets a receipt."""

OPEN: tuple[str, ...] = ("received", "fenced", "erasing", "failed")
"""States in which a request is a duty that is not fulfilled."""

_STATES = (
    "received",
    "fenced",
    "erasing",
    "erased",
    "anonymised",
    "failed",
    "admitted",
    "refused",
    "cancelled",
)

TRANSITIONS: Mapping[str, frozenset[str]] = {
    state: frozenset(step.after for step in STEPS if step.before == state) for state in _STATES
}
"""State -> the states that may follow it."""
