"""What others published of their own methods: shown as such, and never beside what is measured here."""

from typing import Final, NamedTuple


class Statement(NamedTuple):
    """A statement of a paper about its own method; ``where`` it was read."""

    method: str
    says: str
    on: str
    where: str


PUBLISHED: Final = (
    Statement(
        "RecEraser (Chen et al., WWW 2022)",
        "efficient unlearning by shards, better ranking than the unlearning methods before it",
        "three public data sets; BPR, WMF, LightGCN",
        "abstract, arXiv 2201.06820",
    ),
    Statement(
        "AltEraser (Liu et al. 2022)",
        "second-order alternating updates forget faster than a warm start by first-order steps; approximate",
        "three real data sets; neural models",
        "abstract, 'Forgetting fast in recommender systems'",
    ),
    Statement(
        "SCIF (Li et al. 2023)",
        "no retraining at all; 'adequate' completeness by its own membership oracle",
        "two benchmark data sets",
        "abstract, arXiv 2304.10199",
    ),
    Statement(
        "ReCUR (Yang & Li)",
        "over 95 % of utility kept after deleting up to 20 % of interactions; up to ten times faster",
        "four real data sets; graph networks",
        "abstract, its repository tenyang1999/ReCUR",
    ),
    Statement(
        "ERASE (Lubitzsch et al. 2026)",
        "approximate unlearning matches retraining in some settings; repeated unlearning exposes weaknesses",
        "seven methods, nine data sets, nine models",
        "abstract, arXiv 2603.08341",
    ),
)
"""From abstracts, as far as they state something; tables are not copied: other splits and machines."""
