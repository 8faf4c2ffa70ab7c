"""A peer: matrix factorisation by federated averaging, and FedEraser on it (Liu et al. 2021).

Item factors Y travel; user factors never leave their silo, for they are a ridge regression on Y. All silos
together descend ``1/2 |B - X Y'|^2 + lambda/2 (|X|^2 + |Y|^2)``, B what was taken (1) and what not (0).

A round: every silo gets Y and the Gram of all user factors, makes some local epochs, and sends how far Y
moved and its own Gram; the server averages by users. A local epoch solves the silo's X exactly and makes one
gradient step on Y, scaled by the Gram: with all rows in one silo that is alternating least squares.

FedEraser (arXiv 2012.13891) keeps each silo's update of every ``interval``-th round. To forget, it starts
from the first model and replays what is kept: silos train ``ratio`` of the epochs without the one who leaves,
for the direction of the update; its length is the kept one's. With an interval of 2 and a ratio of 1/2 that
is a quarter of the epochs of retraining.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg as sl
from numpy.typing import NDArray

from ..models.base import Interactions

Factors: TypeAlias = NDArray[np.float32]
"""[n_items, factors]: what travels."""
Silos: TypeAlias = Mapping[int, Interactions]
"""Silo -> its rows, ones."""
Gram: TypeAlias = NDArray[np.float32]
"""[factors, factors]: ``X'X`` for one user."""


@dataclass(frozen=True)
class Recipe:
    """How a federation trains.

    Attributes
    ----------
    factors, regularization : of the model.
    rounds, epochs : of training, and local ones in each.
    interval : rounds from one whose updates are kept to the next.
    seed : of the first model.
    """

    factors: int = 32
    regularization: float = 15.0
    rounds: int = 20
    epochs: int = 4
    interval: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Ridge:
    """Lambda, for the factors of a user, and for those of items beside the Gram of one user."""

    users: float
    items: float


@dataclass
class Traffic:
    """What a run took: rounds, messages and bytes of them both ways, epochs of all silos together."""

    rounds: int = 0
    messages: int = 0
    bytes: int = 0
    epochs: int = 0

    def exchange(self, silos: int, epochs: int, *sent: NDArray[np.float32]) -> None:
        """Count a round: as much to each silo as from each."""
        self.rounds += 1
        self.messages += 2 * silos
        self.bytes += 2 * silos * sum(array.nbytes for array in sent)
        self.epochs += silos * epochs


@dataclass(frozen=True)
class Trained:
    """What training leaves: the model, and what the server keeps to be able to forget.

    Attributes
    ----------
    items : the model. first : the one that training began with.
    kept : silo -> its update, for each round that is kept.
    traffic : what it took.
    """

    items: Factors
    first: Factors
    kept: list[dict[int, Factors]]
    traffic: Traffic

    @property
    def kept_bytes(self) -> int:
        """Bytes that the server keeps to be able to forget."""
        return sum(update.nbytes for silos in self.kept for update in silos.values())


def train(silos: Silos, n_items: int, recipe: Recipe) -> Trained:
    """Train from the seeded start."""
    draw = np.random.default_rng(recipe.seed)
    first = draw.normal(0.0, 0.1, (n_items, recipe.factors)).astype(np.float32)
    items, gram, kept, traffic = first, None, list[dict[int, Factors]](), Traffic()
    for number in range(recipe.rounds):
        updates, gram = one_round(silos, items, gram, recipe, recipe.epochs, traffic)
        if number % recipe.interval == 0:
            kept.append(updates)
        items = items + average(updates, silos)
    return Trained(items, first, kept, traffic)


def erase(trained: Trained, silos: Silos, recipe: Recipe, ratio: float = 0.5) -> tuple[Factors, Traffic]:
    """Forget as FedEraser does: replay what was kept, each update calibrated by a little training.

    Parameters
    ----------
    silos : what is left: without the silo that left, or without the user who left in theirs.
    ratio : of the local epochs that a calibration makes.

    Notes
    -----
    The paper takes the first kept update as it is, for it starts from a model that nobody's data have shaped.
    Here that one is calibrated too: a silo that stays may have lost a user.
    """
    items, gram, traffic = trained.first, None, Traffic()
    epochs = max(1, round(ratio * recipe.epochs))
    for updates in trained.kept:
        fresh, gram = one_round(silos, items, gram, recipe, epochs, traffic)
        calibrated = {silo: _as_long_as(updates[silo], direction) for silo, direction in fresh.items()}
        items = items + average(calibrated, silos)
    return items, traffic


def one_round(
    silos: Silos, items: Factors, gram: Gram | None, recipe: Recipe, epochs: int, traffic: Traffic
) -> tuple[dict[int, Factors], Gram]:
    """Let every silo train; their updates, and the Gram of all user factors, a user's share."""
    updates, grams = {}, {}
    ridge = Ridge(
        recipe.regularization, recipe.regularization / sum(rows.shape[0] for rows in silos.values())
    )
    for silo, rows in silos.items():
        updates[silo], grams[silo] = update_of(rows, items, gram, ridge, epochs)
    total = average(grams, silos)
    traffic.exchange(len(silos), epochs, items, total)
    return updates, total


def update_of(
    rows: Interactions, items: Factors, gram: Gram | None, ridge: Ridge, epochs: int
) -> tuple[Factors, Gram]:
    """Train a silo for some epochs; how far Y moved, and the Gram of its user factors for a user, in float32.

    The step is 1 where the silo is as all are, and less where its own Gram is steeper than that of all.
    """
    moved, users = items.astype(np.float64), max(rows.shape[0], 1)
    own = np.zeros((items.shape[1],) * 2)
    for _ in range(epochs):
        here = users_of(rows, moved, ridge.users)
        own = here.T @ here / users
        slope = own + ridge.items * np.eye(own.shape[0])
        scale = slope if gram is None else gram + ridge.items * np.eye(own.shape[0])
        gradient = moved @ slope - rows.T @ here / users
        steepest = float(sl.eigh(slope, scale, eigvals_only=True)[-1])
        moved -= sl.solve(scale, gradient.T, assume_a="pos").T / max(steepest, 1.0)
    return (moved - items).astype(np.float32), own.astype(np.float32)


def users_of(rows: Interactions, items: NDArray[Any], regularization: float) -> NDArray[np.float64]:
    """Solve the user factors of rows: float64 [n, factors], a ridge regression each."""
    wide = items.astype(np.float64)
    gram = wide.T @ wide + regularization * np.eye(items.shape[1])
    return np.asarray(sl.solve(gram, (rows @ wide).T, assume_a="pos").T)


def average(updates: Mapping[int, NDArray[np.float32]], silos: Silos) -> NDArray[np.float32]:
    """Average what silos sent, by their users."""
    users = sum(rows.shape[0] for rows in silos.values())
    total = sum(updates[silo].astype(np.float64) * silos[silo].shape[0] for silo in sorted(updates))
    return np.asarray(total / users, dtype=np.float32)


def _as_long_as(kept: Factors, direction: Factors) -> Factors:
    """Return ``|U| V / |V|``: FedEraser's calibration, equation 3."""
    length = float(np.linalg.norm(direction))
    return direction if length == 0.0 else direction * np.float32(np.linalg.norm(kept) / length)
