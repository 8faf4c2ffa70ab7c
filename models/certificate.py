"""What an iterative factorisation can show about itself without a retrain."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any, Self

from .base import Proof, Scalar


@dataclass(frozen=True, slots=True)
class Certificate:
    """A proven statement about published factors; it never says more than it can show.

    Attributes
    ----------
    certified : the tolerance asked for (and, after forgetting, the erasure asked for) was met and shown.
    bound : proven upper bound on ``|S - S*|_F / |S|_F``: S the published scores in the model's own norm,
        S* the unique optimum on what is kept. inf where nothing can be shown.
    erased_at_least : proven lower bound on the share of the removed influence, measured on the rows that
        stay, that is gone; None before any forgetting.
    rank : singular values of S that are not zero.
    iterations : passes that this fit or this forgetting took, in the solver's own unit.
    reason : why not certified; empty when it is.

    Examples
    --------
    >>> Certificate(True, 3e-5, None, 64, 9).proof().exact
    False
    """

    certified: bool
    bound: float
    erased_at_least: float | None
    rank: int
    iterations: int
    reason: str = ""

    def record(self) -> dict[str, Scalar]:
        """Return the fields, JSON-ready: a bound that is not finite becomes None."""
        return {**asdict(self), "bound": self.bound if isfinite(self.bound) else None}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild what :meth:`record` returned."""
        bound = record["bound"]
        return cls(**{**record, "bound": inf if bound is None else bound})

    def proof(self) -> Proof:
        """Say the same in the terms that every model shares."""
        return Proof(
            exact=False,
            bound=self.bound,
            erased_at_least=self.erased_at_least,
            certified=self.certified,
            reason=self.reason,
        )
