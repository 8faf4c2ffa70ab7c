"""After AltEraser (Liu et al. 2022, "Forgetting fast in recommender systems"): alternating steps go on.

AltEraser turns the joint update into alternating subproblems, each solved by Newton's method. For the
weighted squared loss every subproblem is quadratic, so a Newton step solves it exactly: it is an exact ALS
half-step on what is kept, begun at the trained point. Written from the paper; not the authors' code.
"""

from dataclasses import dataclass

from ..protocol import Removal, kept_after
from .factors import FactorMethod


@dataclass
class AlternatingALS(FactorMethod):
    """A few exact alternating sweeps on what is kept.

    Parameters
    ----------
    sweeps : how many.
    """

    sweeps: int = 3

    def forget(self, removal: Removal) -> None:
        """Go on from the trained point, on what is kept."""
        self.kept = kept_after(self.kept, removal)
        self.idle()

    def idle(self) -> None:
        """Make the same sweeps on the data as they are."""
        self.users, self.items = self.loss.swept(self.kept, self.users, self.items, self.sweeps)
