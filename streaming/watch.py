"""What the worker tells whoever watches it: a poll, an intake, a batch. By default nobody does."""

from collections.abc import Sequence

from ..engine.engine import CycleReport
from .source import EventSource, Record


class Watch:
    """Is told what happens, on the thread on which it happens; does nothing with it."""

    def polled(self, source: EventSource) -> None:
        """Be told that the source was asked for records, and may be asked how far it is behind."""

    def took_in(self, records: Sequence[Record], recorded: int, dead_letters: int) -> None:
        """Be told that records are durable and their users fenced.

        ``recorded``: how many requests are new; ``dead_letters``: how many records were set aside.
        """

    def began(self, size: int) -> None:
        """Be told that a batch of ``size`` requests is being worked off."""

    def ended(self, report: CycleReport, ages: Sequence[float]) -> None:
        """Be told what became of a batch; ``ages``: seconds from received to erased, of each request."""
