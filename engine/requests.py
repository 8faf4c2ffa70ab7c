"""What can be asked of the engine: the domain's own types, whatever wire format they came in."""

from datetime import datetime
from typing import ClassVar, TypeAlias

import msgspec

ExternalId: TypeAlias = str | int
"""An id of the platform's. ``42`` and ``"42"`` are the same id; ``"042"`` is another."""


class AccountDeletion(msgspec.Struct, frozen=True, gc=False):
    """Forget a user: all their interactions and their influence.

    Attributes
    ----------
    request_id : the platform's id of this request; a request is done once, however often it arrives.
    user_id : whom to forget.
    requested_at : when the platform says it was asked, with time zone; None if it did not say.
    """

    kind: ClassVar[str] = "account"

    request_id: str
    user_id: ExternalId
    requested_at: datetime | None = None


class InteractionRemoval(msgspec.Struct, frozen=True, gc=False):
    """Forget one interaction of a user and its influence.

    The user goes on being served, from the version with the interaction until the one without it is
    published; a later fit refuses the interaction, whatever file it comes in.

    Attributes
    ----------
    request_id, user_id, requested_at : as for :class:`AccountDeletion`.
    item_id : the item of the interaction.
    """

    kind: ClassVar[str] = "interaction"

    request_id: str
    user_id: ExternalId
    item_id: ExternalId
    requested_at: datetime | None = None


class Anonymisation(msgspec.Struct, frozen=True, gc=False):
    """Forget who a user is, not what they did: their interactions stay, under a new random id.

    Their influence on the models stays too, so this is no deletion and never called one. The old id is
    fenced and purged like a deleted one; nothing that is kept leads from it to the new one.

    Attributes
    ----------
    request_id, user_id, requested_at : as for :class:`AccountDeletion`.
    """

    kind: ClassVar[str] = "anonymisation"

    request_id: str
    user_id: ExternalId
    requested_at: datetime | None = None


class Readmission(msgspec.Struct, frozen=True, gc=False):
    """Admit a person who comes back under an id that was erased: later data of theirs is taken again.

    It waits for every earlier request of the user, and lowers no fence that was put up after it. What was
    erased does not come back.

    Attributes
    ----------
    request_id, user_id : as for :class:`AccountDeletion`.
    requested_at : when they came back. If it and the time of the deletion are known, it must be the later
        one, or the re-admission is refused; data from before it is refused too, where it has times.
    """

    kind: ClassVar[str] = "readmission"

    request_id: str
    user_id: ExternalId
    requested_at: datetime | None = None


Request: TypeAlias = AccountDeletion | InteractionRemoval | Anonymisation | Readmission


def canonical_id(external_id: ExternalId) -> str:
    """Return the one text by which an id is known inside the engine.

    Raises
    ------
    TypeError
        Neither a string nor an integer (a bool is not an integer here).
    ValueError
        An empty string, or one with a character that UTF-8 cannot carry.

    Examples
    --------
    >>> canonical_id(42) == canonical_id("42"), canonical_id("042")
    (True, '042')
    """
    if type(external_id) is str and external_id.isascii() and external_id:
        return external_id  # nearly all are; the intake looks at several for each request
    if isinstance(external_id, bool) or not isinstance(external_id, str | int):
        raise TypeError(f"an id is a {type(external_id).__name__}; ids are strings or integers")
    text = str(external_id)
    if not text:
        raise ValueError("an id is empty; ids are strings of at least one character, or integers")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("an id has a lone surrogate; ids are valid Unicode") from error
    return text


def is_distinctive(external_id: str) -> bool:
    """Tell whether an id can be looked for in free text: a short number is found everywhere.

    Examples
    --------
    >>> is_distinctive("42"), is_distinctive("4200042"), is_distinctive("anna")
    (False, True, True)
    """
    return len(external_id) >= 6 or (len(external_id) >= 3 and not external_id.isdecimal())
