"""Merging many results two at a time, evenly."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Result = TypeVar("Result")


def merged(results: Iterable[Result], merge: Callable[[Result, Result], Result]) -> Result:
    """Merge like a binary counter: each is passed over O(log results) times, and O(log results) are held.

    Parameters
    ----------
    results : one or more; taken one after the other.

    Examples
    --------
    >>> merged("abcde", lambda a, b: f"({a}{b})")
    '(((ab)(cd))e)'
    """
    levels: list[Result | None] = []
    for result in results:
        carried, level = result, 0
        while level < len(levels) and (held := levels[level]) is not None:
            carried, levels[level], level = merge(held, carried), None, level + 1
        levels[level : level + 1] = [carried]
    held_ones = [held for held in levels if held is not None]
    total = held_ones[0]
    for held in held_ones[1:]:
        total = merge(held, total)
    return total
