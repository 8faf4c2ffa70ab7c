"""How the demo asks for removals: through the embedded journal, or a topic of Kafka's (:mod:`.topic`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .outcome import Asked
from .processes import run_command


class Channel(Protocol):
    """Where requests go, and how a worker reads them there."""

    @property
    def worker_options(self) -> Sequence[str]:
        """Return the options of ``recunlearn run`` that name the source."""
        ...

    @property
    def listening(self) -> str:
        """Return what the worker's log says once it reads; empty: there is nothing to wait for."""
        ...

    def ask(self, asked: Asked) -> None:
        """Send a removal; it is durable at the source when this returns."""
        ...


@dataclass(frozen=True)
class JournalChannel:
    """Asks by ``recunlearn forget``.

    Attributes
    ----------
    state : the state directory, which holds the journal.
    """

    state: Path
    worker_options: Sequence[str] = ()
    listening: str = ""

    def ask(self, asked: Asked) -> None:
        """Append to the journal."""
        arguments = [a for user in asked.accounts for a in ("--user", str(user))]
        for user, item in zip(asked.pair_users, asked.pair_items, strict=True):
            arguments += ["--interaction", f"{user}:{item}"]
        run_command("forget", "--state", str(self.state), *arguments, "--json")
