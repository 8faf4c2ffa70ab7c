"""Membership inference: was this person's data in the model? Asked of lists, of scores and of item vectors.

The attacker knows a profile, asks the served model with one half of it, and looks at where the other half
ends up. Shadow models on disjoint halves of everybody else show what that looks like for members and for
others (Shokri et al. 2017, section 4), each figure beside what models without that person give (difficulty
calibration, Watson et al. 2022; Carlini et al. 2022, "offline"), and a logistic regression tells the two
apart. For recommenders: Zhang et al. 2021, "Membership inference attacks against recommender systems".

The game that is scored is the definition of forgetting: the same people, asked of the published model and of
the oracle. An area of 0.5 says that the attacker cannot tell which of the two is in front of them.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...models.base import IntVector
from .outcome import AttackResult, auc, game, game_interval
from .scene import Scene, SceneError, rows_of, split_profiles
from .served import Served

Features: TypeAlias = NDArray[np.float64]
View: TypeAlias = Callable[[Served, list[IntVector], list[IntVector]], Features]

LIST_LENGTHS: Final = (10, 50)
TAUGHT: Final = 400
"""People of whom the attacker learns what a member looks like."""
_BLOCK = 256


def membership_lists(scene: Scene) -> AttackResult:
    """Tell members by the top-50 lists they are given: hits among the first 10 and 50, rank of the first.

    See :func:`membership`; serves as the attack on a public API.
    """
    return membership(scene, "membership_lists", list_features)


def membership_scores(scene: Scene) -> AttackResult:
    """Tell members by the scores of all items: mean, lowest, highest and rank of the hidden half.

    See :func:`membership`; serves as the attack on an API that returns scores.
    """
    return membership(scene, "membership_scores", score_features)


def membership_embeddings(scene: Scene) -> AttackResult:
    """Tell members by how alike the items of their profile are in what is published of items.

    See :func:`membership`; serves as the attack by who has a replica's files.

    Raises
    ------
    SceneError
        Nothing is published of items; or as :func:`membership`.
    """
    if scene.after.kind == "answers":
        raise SceneError("the method publishes no arrays of items; attack its scores: membership_scores")
    return membership(scene, "membership_embeddings", affinity_features)


def membership(scene: Scene, name: str, view: View) -> AttackResult:
    """Run a membership attack through one view.

    Parameters
    ----------
    scene : with an oracle and a ``fit``. Forgotten users with fewer than two items are left out.
    name : of the attack. view : (served, asked, hidden) -> features, float64 [people, f].

    Returns
    -------
    ``auc``: the attacker's score of the forgotten, published model against oracle; ``chance`` 0.5; ``power``:
    the model before against the oracle. ``details``: ``shadow_auc``, how well the attack does on its own
    shadows, held out people; ``left_out``.

    Raises
    ------
    SceneError
        No oracle, no ``fit``, or fewer than two people to attack.

    Notes
    -----
    Four fits of the model (shared between the views), then O(people n_items) a question.
    """
    oracle = scene.require_oracle()
    users, asked, hidden = split_profiles(scene.user_items, scene.users, scene.seed)
    if users.size < 2:
        raise SceneError(f"{users.size} forgotten users have two items or more; the game needs two people")
    score, shadow_auc = _learn(scene, view)
    usual = np.mean([view(shadow.served, asked, hidden) for shadow in scene.shadows], axis=0)
    found, control, without = (
        score(_beside(view(model, asked, hidden), usual)) for model in (scene.after, scene.before, oracle)
    )
    area = game(found, without)
    low, high = game_interval(found, without, scene.seed)
    return AttackResult(
        name, users.size, area, low, high, 0.5, area - 0.5, low - 0.5, high - 0.5,
        power=game(control, without),
        details={"shadow_auc": shadow_auc, "left_out": float(scene.users.size - users.size)},
    )  # fmt: skip


def _learn(scene: Scene, view: View) -> tuple[Callable[[Features], NDArray[np.float64]], float]:
    """Train the attacker on the shadows: features -> score, and its own area on people not used for it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, people = _lessons(scene, view)
    taught = people % 2 == 0
    if np.unique(labels[taught]).size < 2 or np.unique(labels[~taught]).size < 2:
        raise SceneError("too few people stay to teach an attacker what a member looks like")

    def fitted(rows: NDArray[np.bool_]) -> Callable[[Features], NDArray[np.float64]]:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
        model.fit(features[rows], labels[rows])
        return lambda x: np.asarray(model.decision_function(x), dtype=np.float64)

    own = fitted(taught)(features[~taught])
    is_member = labels[~taught]
    return fitted(np.ones(labels.size, np.bool_)), auc(own[is_member], own[~is_member])


def _lessons(scene: Scene, view: View) -> tuple[Features, NDArray[np.bool_], IntVector]:
    """Features of people in every shadow, whether they were members of it, and whose they are."""
    rng = np.random.default_rng([scene.seed, 1])
    stayers = np.flatnonzero(np.diff(scene.kept.indptr) > 1)
    chosen = np.sort(rng.choice(stayers, min(TAUGHT, stayers.size), replace=False))
    users, asked, hidden = split_profiles(scene.kept, chosen, scene.seed)
    seen = [view(shadow.served, asked, hidden) for shadow in scene.shadows]
    is_member = [shadow.members[users] for shadow in scene.shadows]
    features = []
    for number in range(len(seen)):
        other = number + 2 if number + 2 < len(seen) else number % 2  # a shadow of another pair
        first, second = other - other % 2, other - other % 2 + 1
        usual = np.where(is_member[first][:, None], seen[second], seen[first])  # the one without them
        features.append(_beside(seen[number], usual))
    return np.concatenate(features), np.concatenate(is_member), np.tile(np.arange(users.size), len(seen))


def _beside(features: Features, usual: Features) -> Features:
    return np.hstack([features, features - usual])


def list_features(served: Served, asked: list[IntVector], hidden: list[IntVector]) -> Features:
    """Share of the hidden items among the first 10 and 50 of the list, and 1 / rank of the first of them.

    Examples
    --------
    >>> from recunlearn.eval.attacks import served_weights
    >>> version = served_weights(np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    >>> list_features(version, [np.array([0])], [np.array([1, 2])]).tolist()
    [[1.0, 1.0, 1.0]]
    """
    return _by_block(served, asked, hidden, _list_row)


def score_features(served: Served, asked: list[IntVector], hidden: list[IntVector]) -> Features:
    """Mean, lowest, highest standardised score of the hidden items, and the mean log-odds of their rank."""
    return _by_block(served, asked, hidden, _score_row)


def affinity_features(served: Served, asked: list[IntVector], hidden: list[IntVector]) -> Features:
    """Mean, spread and highest likeness of the pairs of items in a profile: :meth:`Served.affinity`."""
    rows = []
    for a, b in zip(asked, hidden, strict=True):
        profile = np.union1d(a, b)
        likeness = served.affinity(profile)[np.triu_indices(profile.size, 1)]
        rows.append([likeness.mean(), likeness.std(), likeness.max(initial=-1.0)])
    return np.array(rows)


def _by_block(
    served: Served,
    asked: list[IntVector],
    hidden: list[IntVector],
    row: Callable[[NDArray[np.float64], IntVector, IntVector], list[float]],
) -> Features:
    rows = []
    for start in range(0, len(asked), _BLOCK):
        scores = served.score(rows_of(asked[start : start + _BLOCK], served.n_items))
        rows += [
            row(scores[k], a, b)
            for k, (a, b) in enumerate(
                zip(asked[start : start + _BLOCK], hidden[start : start + _BLOCK], strict=True)
            )
        ]
    return np.array(rows)


def _ranks(scores: NDArray[np.float64], asked: IntVector, hidden: IntVector) -> NDArray[np.float64]:
    """Ranks, from 1, of the hidden items among all that were not asked with; ties share their mean rank."""
    candidates = np.ones(scores.size, dtype=np.bool_)
    candidates[asked] = False
    ordered = np.sort(scores[candidates])
    above = ordered.size - np.searchsorted(ordered, scores[hidden], side="right")
    same = np.searchsorted(ordered, scores[hidden], side="right") - np.searchsorted(ordered, scores[hidden])
    return np.asarray(above + (same + 1) / 2, dtype=np.float64)


def _list_row(scores: NDArray[np.float64], asked: IntVector, hidden: IntVector) -> list[float]:
    ranks = _ranks(scores, asked, hidden)
    hits = [float((ranks <= length).sum()) / min(length, ranks.size) for length in LIST_LENGTHS]
    best = float(ranks.min())
    return [*hits, 1.0 / best if best <= max(LIST_LENGTHS) else 0.0]


def _score_row(scores: NDArray[np.float64], asked: IntVector, hidden: IntVector) -> list[float]:
    candidates = np.ones(scores.size, dtype=np.bool_)
    candidates[asked] = False
    spread = float(scores[candidates].std())
    standard = (scores[hidden] - scores[candidates].mean()) / (spread or 1.0)
    share = (_ranks(scores, asked, hidden) - 0.5) / candidates.sum()
    odds = np.log((1.0 - share) / share)
    return [float(standard.mean()), float(standard.min()), float(standard.max()), float(odds.mean())]
