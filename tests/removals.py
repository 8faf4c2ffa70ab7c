"""Random interactions and random ways to take parts of them away, for hypothesis."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from hypothesis import strategies as st
from recunlearn.models import ForgettableModel

from . import naive

BINARY = st.just(1.0)
COUNTS = st.integers(1, 9).map(float)
FRACTIONS = st.sampled_from([0.25, 0.5, 0.7, 1.0, 2.0, 3.3])


@st.composite
def interactions(draw: Any, values: Any = COUNTS, max_users: int = 8, max_items: int = 7) -> Any:
    """Draw a dense matrix of interactions: any shape, empty rows and columns, full rows, repeated rows."""
    n_users, n_items = draw(st.integers(1, max_users)), draw(st.integers(1, max_items))
    x = np.zeros((n_users, n_items))
    for u in range(n_users):
        kind = draw(st.sampled_from(["any", "any", "any", "full", "full but one", "as before"]))
        if kind == "as before" and u:
            x[u] = x[u - 1]
            continue
        for i in range(n_items):
            if kind == "full" or (kind == "full but one" and i) or draw(st.booleans()):
                x[u, i] = draw(values)
    return x


@dataclass
class Removal:
    """One batch: accounts and pairs of others, and what is left after it."""

    users: list[int]
    pairs: list[tuple[int, int]]
    left: Any = field(repr=False)

    def apply(self, model: ForgettableModel) -> None:
        """Forget the batch."""
        model.forget(
            users=self.users, pair_users=[u for u, _ in self.pairs], pair_items=[i for _, i in self.pairs]
        )


@st.composite
def histories(draw: Any, values: Any = COUNTS, max_batches: int = 4, **sizes: int) -> Any:
    """Draw interactions and batches of removals that apply to them one after the other."""
    x = draw(interactions(values, **sizes))
    left, gone, batches = x, set[int](), []
    for _ in range(draw(st.integers(1, max_batches))):
        alive = [u for u in range(x.shape[0]) if u not in gone]
        users = draw(st.lists(st.sampled_from(alive), unique=True, max_size=3)) if alive else []
        there = [(int(u), int(i)) for u, i in np.argwhere(left)]
        pairs = draw(st.lists(st.sampled_from(there), unique=True, max_size=6)) if there else []
        left = naive.without(left, users, pairs)
        gone |= set(users)
        batches.append(Removal(users, pairs, left))
    return x, batches


def same_bits(a: sp.csr_matrix[Any], b: sp.csr_matrix[Any]) -> bool:
    """Tell whether two CSR matrices are equal to the bit, pattern included."""
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in ("indptr", "indices", "data"))
