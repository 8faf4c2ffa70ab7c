"""After RecEraser (Chen et al. 2022): shards of like-minded users, all of about one size.

RecEraser's user-based balanced partition: users go to the nearest of k anchors in the space of pre-trained
embeddings, the closest pairs first, while the shard has room. Its attention over shards is learned; here the
shards are averaged. Written from the paper; not the authors' code. The partition itself was made with the
forgotten users' data and stays as it is, there as here.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....models import ShardedMF
from ....models.base import Interactions
from .factors import Weights
from .ours import Ours

ROUNDS = 5
SLACK = 1.1
"""A shard takes at most this many times its even share."""


class BalancedShards(Ours):
    """Sharded ALS with RecEraser's partition; settings as :class:`recunlearn.models.ShardedMF`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("sharded_mf", **settings)

    def fit(self, user_items: Interactions, seed: int) -> None:
        """Embed the users by one ALS fit, deal them out, fit each shard."""
        model = ShardedMF(**{**self.settings, "random_state": seed})
        embedding = Weights(model.factors, model.regularization, model.alpha).fitted(user_items, seed)
        shards = balanced_shards(np.asarray(embedding.user_factors, np.float64), model.shards, seed)
        self.model = model.fit(user_items, shard_of=shards)


def balanced_shards(embedding: NDArray[np.float64], shards: int, seed: int) -> NDArray[np.int64]:
    """Deal rows out to ``shards`` balanced clusters: int64 [n].

    Notes
    -----
    O(ROUNDS n shards (k + log(n shards))).

    Examples
    --------
    >>> points = np.repeat([[0.0], [9.0]], 5, axis=0)
    >>> dealt = balanced_shards(points, 2, seed=0)
    >>> np.bincount(dealt).tolist(), len(set(dealt[:5])), len(set(dealt[5:]))
    ([5, 5], 1, 1)
    """
    rng = np.random.default_rng(seed)
    n = embedding.shape[0]
    anchors = embedding[rng.choice(n, min(shards, n), replace=False)].copy()
    room = int(np.ceil(SLACK * n / shards))
    dealt = np.zeros(n, dtype=np.int64)
    for _ in range(ROUNDS):
        distances = ((embedding[:, None, :] - anchors) ** 2).sum(axis=2)
        dealt = _nearest_with_room(distances, room)
        anchors = np.array([embedding[dealt == k].mean(axis=0) if (dealt == k).any() else anchor
                            for k, anchor in enumerate(anchors)])  # fmt: skip
    return dealt


def _nearest_with_room(distances: NDArray[np.float64], room: int) -> NDArray[np.int64]:
    n, shards = distances.shape
    dealt, left = np.full(n, -1, dtype=np.int64), [room] * shards
    for pair in np.argsort(distances, axis=None, kind="stable"):
        row, shard = divmod(int(pair), shards)
        if dealt[row] < 0 and left[shard]:
            dealt[row] = shard
            left[shard] -= 1
    return dealt
