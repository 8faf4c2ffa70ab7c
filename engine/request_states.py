"""The states of a request and what may follow what: the one table that code, ledger and docs go by."""

from collections.abc import Mapping

TRANSITIONS: Mapping[str, frozenset[str]] = {
    "received": frozenset({"fenced", "cancelled"}),
    "fenced": frozenset({"erasing", "failed", "cancelled"}),
    "erasing": frozenset({"erased", "fenced", "failed"}),
    "failed": frozenset({"fenced", "cancelled"}),
    "erased": frozenset(),
    "cancelled": frozenset(),
}
"""State -> the states that may follow it."""
