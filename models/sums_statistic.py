"""What is summed, and what is wrong with sums: for those who only speak of them, and compile nothing."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["whole", "fractions", "tfidf", "bm25", "normalised"]

COARSE_BITS: Final = 24
"""A unit of the coarse counter is 2^-24 of a contribution; of the fine one, 2^-38 of that."""


class SumsError(ValueError):
    """Sums that cannot be: not of these rows, out of range, or of something else."""


@dataclass(frozen=True)
class Statistic:
    """What is summed: ``C = sum_u w_u w_u'`` over rows weighed by what each row alone decides.

    Attributes
    ----------
    kind : the weights. "whole": the values, whole numbers (EASE, cosine). "fractions": the values in fixed
        point (cosine). "tfidf", "bm25": as in ItemKNN, values of 1 for BM25. "normalised":
        ``x_u / (sum x_u)^a`` (SpectralMF; its degrees are summed too).
    n_items : columns; TF-IDF and BM25 weigh by it.
    user_power : a, of "normalised".
    binary : every value counts as 1.
    """

    kind: Kind
    n_items: int
    user_power: float = 0.0
    binary: bool = False

    @property
    def unit(self) -> float:
        """What a coarse unit is worth: 1.0, or 2^-24 with fine parts of 2^-38 of it."""
        return 1.0 if self.kind == "whole" else 2.0**-COARSE_BITS

    @property
    def has_fine(self) -> bool:
        """Whether sums have parts of a unit."""
        return self.kind != "whole"

    @property
    def has_degrees(self) -> bool:
        """Whether the values of each item are summed too."""
        return self.kind == "normalised"
