"""Cornac's factorisations (Salah et al. 2020); it has no way to forget, so the user's row is dropped."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....models.base import Interactions
from ..protocol import Removal, kept_after
from .factors import FactorMethod


@dataclass
class CornacRow(FactorMethod):
    """A model of ``cornac.models`` with ``u_factors`` and ``i_factors``, by its class name.

    Parameters
    ----------
    model : such as "BPR" or "PMF". options : its constructor's, beside ``k``, ``max_iter`` and ``seed``.
    """

    model: str = "BPR"
    options: dict[str, Any] = field(default_factory=dict)

    def fit(self, user_items: Interactions, seed: int) -> None:
        """Fit to the triples; rows without any keep zero factors."""
        import cornac

        coo = user_items.tocoo()
        data = cornac.data.Dataset.build(zip(coo.row, coo.col, coo.data, strict=True), seed=seed)
        options = {"k": self.factors, "max_iter": self.iterations, "seed": seed, "verbose": False}
        model = getattr(cornac.models, self.model)(**{**options, **self.options})
        model.fit(data)
        self.users = _placed(model.u_factors, data.uid_map, user_items.shape[0])
        biases = getattr(model, "i_biases", None)
        items = model.i_factors if biases is None else np.column_stack([model.i_factors, biases])
        self.items = _placed(items, data.iid_map, user_items.shape[1])
        if biases is not None:
            here = np.diff(user_items.indptr) > 0
            self.users = np.column_stack([self.users, here.astype(np.float32)])
        self.kept = user_items

    def forget(self, removal: Removal) -> None:
        """Drop the rows of the accounts."""
        self.kept = kept_after(self.kept, removal)
        self.users[removal.users] = 0.0


def _placed(factors: Any, places: Any, size: int) -> Any:
    """Put Cornac's rows, in order of first appearance, where they are in the matrix."""
    placed = np.zeros((size, factors.shape[1]), np.float32)
    placed[np.fromiter(places.keys(), np.int64)] = factors[np.fromiter(places.values(), np.int64)]
    return placed
