"""What a store of vectors can do: a new place to publish is one file that does it, and one registry row."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .vectors import Block, VersionVectors


class StoreError(Exception):
    """A store does not take, or does not hold, what it must.

    The message names the store and the way out; never an id, nor a password.
    """


@dataclass(frozen=True)
class StoreSettings:
    """One ``[[export]]`` of config.toml.

    Attributes
    ----------
    name : what receipts and logs call the store.
    kind : a row of :data:`~.registry.KINDS`.
    url : where it is; without a password.
    password : from a file or the environment; never shown.
    options : the other keys; each kind refuses those it does not know.
    """

    name: str
    kind: str
    url: str
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)

    def refuse_others(self, known: Collection[str]) -> None:
        """Refuse an option that this kind of store does not know: a setting without effect is worse.

        Raises
        ------
        StoreError
            There is one.
        """
        if others := sorted(self.options.keys() - set(known)):
            raise StoreError(
                f"[[export]] {self.name}: {self.kind} has no {others[0]}; it has {', '.join(sorted(known))}"
            )


class VectorStore(Protocol):
    """A connection to one store, for one thread.

    Each method may be cut off anywhere and called again; a reader of the store finds one version, whole,
    at any moment. All raise :class:`StoreError`.
    """

    def held(self) -> str | None:
        """Return the SHA-256 of the manifest of the version that readers are led to; None without one."""
        ...

    def push(self, vectors: VersionVectors) -> None:
        """Write a version beside what is there, then lead readers to it, in one step."""
        ...

    def purge(self) -> Mapping[str, str]:
        """Erase all but the version that readers are led to, also from what the server wrote to disk.

        Returns
        -------
        What was done about the server's own files, for receipts: a few words for each kind of file.
        """
        ...

    def read(self) -> Sequence[Block]:
        """Read back every vector of the version that readers are led to."""
        ...

    def others(self) -> Sequence[str]:
        """Name what is there of other versions; nothing, after :meth:`purge`."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...
