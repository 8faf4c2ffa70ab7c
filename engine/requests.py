"""What can be asked of the engine: the domain's own types, whatever wire format they came in."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

ExternalId: TypeAlias = str | int
"""An id of the platform's. ``42`` and ``"42"`` are the same id; ``"042"`` is another."""


@dataclass(frozen=True, slots=True)
class AccountDeletion:
    """Forget a user: all their interactions and their influence.

    Attributes
    ----------
    request_id : the platform's id of this request; a request is done once, however often it arrives.
    user_id : whom to forget.
    requested_at : when the platform says it was asked, with time zone; None if it did not say.
    """

    request_id: str
    user_id: ExternalId
    requested_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class InteractionRemoval:
    """Forget one interaction of a user and its influence.

    The user goes on being served, from the version with the interaction until the one without it is
    published; a later fit refuses the interaction, whatever file it comes in.

    Attributes
    ----------
    request_id, user_id, requested_at : as for :class:`AccountDeletion`.
    item_id : the item of the interaction.
    """

    request_id: str
    user_id: ExternalId
    item_id: ExternalId
    requested_at: datetime | None = None


Request: TypeAlias = AccountDeletion | InteractionRemoval


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
