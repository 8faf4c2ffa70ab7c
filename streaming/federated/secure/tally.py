"""The coordinator's side of a round, without any I/O: from masked sums to the total."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ....models.sums import Sums
from ..message import digest_of
from .masks import KEY_BYTES, shift
from .terms import Confirmation, Masked, RoundError, Terms, digest_of_all, read_all
from .vector import read_total, size_of


def total_of(
    terms: Terms,
    headers: Mapping[str, bytes],
    confirmations: Mapping[str, bytes],
    numbers: Callable[[str], bytes],
) -> Sums:
    """Add up a round: what all silos have together.

    Parameters
    ----------
    terms : of the round.
    headers, confirmations : silo -> signed :class:`~.terms.Masked`, :class:`~.terms.Confirmation`.
    numbers : reads the masked numbers of a silo, little-endian; one silo's are in memory at a time.

    Returns
    -------
    Sums : to be added to what is held or, in a round of deletions, subtracted from it.

    Raises
    ------
    RoundError
        A silo is missing (named), or what it sent is not what it signed.
    SumsError
        The total is no sums: somebody has masked otherwise than agreed, or what cannot be.

    Notes
    -----
    Time O(n^2) for each silo, O(n^2) memory.
    """
    masked = read_all(terms, Masked, headers)
    confirmed = read_all(terms, Confirmation, confirmations)
    everybody = digest_of_all(masked)
    total = np.zeros(size_of(terms.statistic), np.uint64)
    for party, said in confirmed.items():
        if said.everybody != everybody or len(said.seed) != KEY_BYTES:
            raise RoundError(f"silo {party} has agreed to other masked sums than these: begin another round")
        total += shift(_read(party, masked[party], numbers(party), total.size), [], [said.seed])
    if terms.what == "deletion":
        total = np.uint64(0) - total
    return read_total(total, terms.statistic)


def _read(party: str, said: Masked, content: bytes, size: int) -> NDArray[np.uint64]:
    if len(content) != 8 * size or digest_of(content) != said.vector:
        raise RoundError(
            f"the masked sums of silo {party} are not the {8 * size} bytes that it signed; have them sent "
            "again"
        )
    return np.frombuffer(content, "<u8").astype(np.uint64, copy=False)
