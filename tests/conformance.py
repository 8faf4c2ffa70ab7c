"""What the conformance suite runs over: one line a model, random data and removals, comparisons."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from hypothesis import strategies as st
from recunlearn.models import EASE, CanonicalMF, ForgettableModel, ItemKNN, ShardedMF, SpectralMF

from . import naive
from .removals import Removal

Same = Callable[[Any, Any], None]
SHAPES = [(1, 1), (7, 5), (7, 5), (14, 9), (20, 70)]
TWISTS = ["none", "none", "empty rows and columns", "users alike", "a user of everything", "a lonely item"]


def dense(array: Any) -> Any:
    """Return an array as it is, a sparse matrix dense."""
    return array.toarray() if sp.issparse(array) else array


def to_the_bit(a: ForgettableModel, b: ForgettableModel) -> None:
    """Assert that what two models publish is equal to the bit."""
    ours, theirs = a.published(), b.published()
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(dense(ours[key]), dense(theirs[key]), err_msg=key)
        assert ours[key].dtype == theirs[key].dtype


def to_rounding(a: ForgettableModel, b: ForgettableModel) -> None:
    """Assert that what two models publish is equal up to 1e-9 of its largest entry."""
    for key, ours in a.published().items():
        theirs = dense(b.published()[key])
        np.testing.assert_allclose(
            dense(ours), theirs, rtol=0, atol=1e-9 * np.abs(theirs).max(initial=1e-300)
        )


def within_the_certificates(a: Any, b: Any) -> None:
    """Assert that two models are no further apart than their two certificates allow."""
    ours, theirs = (m.user_factors.astype(float) @ m.item_factors.astype(float).T for m in (a, b))
    if isinstance(a, SpectralMF):
        weights = a.user_items.toarray()
        scale = np.where(weights.any(axis=0), weights.sum(axis=0), 1.0) ** a.item_power
        ours, theirs = ours / scale, theirs / scale
    size = max(np.linalg.norm(ours), np.linalg.norm(theirs))
    rounding = 1e-9 * np.linalg.norm(a.user_items.toarray())
    allowed = (a.certificate.bound + b.certificate.bound) * size if size > rounding else 0.0
    assert np.isfinite(allowed), (a.certificate, b.certificate)
    assert np.linalg.norm(ours - theirs) <= 1.001 * allowed + rounding, (a.certificate, b.certificate)


@dataclass(frozen=True)
class Case:
    """How to make a model for small data, and when two of them are the same.

    Attributes
    ----------
    make : the model, unfitted. same : asserts that two fitted models are one.
    refuses_readers : reading while another thread forgets raises; else it is safe.
    """

    make: Callable[[], Any]
    same: Same
    refuses_readers: bool = False

    def __str__(self) -> str:
        model = self.make()
        told = {k: v for k, v in model.settings().items() if isinstance(v, str) or k == "regularization"}
        return " ".join([model.name, *(f"{v}" for v in told.values() if v is not None)])

    def fit(self, x: Any) -> Any:
        """Fit to a dense matrix of interactions."""
        return self.make().fit(sp.csr_matrix(x))


CASES = [
    Case(lambda: SpectralMF(2, 0.83, dtype="float64"), within_the_certificates),
    Case(lambda: SpectralMF(2, values="counts"), within_the_certificates),
    Case(lambda: EASE(3.0), to_rounding, refuses_readers=True),
    Case(lambda: ItemKNN(4, "cosine"), to_the_bit),
    Case(lambda: ItemKNN(4, "tfidf"), to_the_bit),
    Case(lambda: ItemKNN(4, "bm25"), to_the_bit),
    Case(lambda: CanonicalMF(0.83, 2.0, dtype="float64"), within_the_certificates),
    Case(lambda: ShardedMF(2, 3, iterations=2, num_threads=1), to_the_bit),
]


def again(model: Any, x: Any) -> Any:
    """Fit a model with the same settings (lambda as it was chosen) to other data."""
    return type(model)(**model.settings()).fit(sp.csr_matrix(x))


@dataclass
class World:
    """Interactions, and batches of removals that apply to them one after the other."""

    x: Any = field(repr=False)
    batches: list[Removal]

    def __repr__(self) -> str:
        return f"World({self.x.tolist()}, {self.batches})"


@st.composite
def matrices(draw: Any) -> Any:
    """Draw a dense matrix of small counts."""
    n_users, n_items = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    present = rng.random((n_users, n_items)) < draw(st.sampled_from([0.1, 0.3, 0.6]))
    x = present * rng.integers(1, draw(st.sampled_from([1, 4])) + 1, (n_users, n_items)) * 1.0
    twist = draw(st.sampled_from(TWISTS))
    if twist == "empty rows and columns":
        x[::3], x[:, ::4] = 0, 0
    elif twist == "users alike":
        x[1::2] = x[0]
    elif twist == "a user of everything":
        x[-1] = 1
    elif twist == "a lonely item":
        x[:, -1], x[0, -1] = 0, 2
    return x


@st.composite
def worlds(draw: Any, most: int = 3) -> Any:
    """Draw a matrix and up to ``most`` batches of accounts and pairs; a pair may be of a user who goes."""
    x = draw(matrices())
    left, gone, batches = x, set[int](), []
    for _ in range(draw(st.integers(1, most))):
        alive = [u for u in range(x.shape[0]) if u not in gone]
        users = draw(st.lists(st.sampled_from(alive), unique=True, max_size=3)) if alive else []
        there = [(int(u), int(i)) for u, i in np.argwhere(left)]
        pairs = draw(st.lists(st.sampled_from(there), unique=True, max_size=5)) if there else []
        left = naive.without(left, users, pairs)
        gone |= set(users)
        batches.append(Removal(users, pairs, left))
    return World(x, batches)


def state(model: ForgettableModel) -> dict[str, Any]:
    """Copy everything public that a model consists of, to compare with later."""
    kept = model.user_items
    arrays = {key: np.array(dense(value)) for key, value in model.published().items()}
    return {**arrays, "kept": kept.toarray(), "nnz": kept.nnz, "proof": model.proof()}


def assert_unchanged(before: dict[str, Any], model: ForgettableModel) -> None:
    """Assert that a model is, to the bit, what it was."""
    now = state(model)
    assert before.keys() == now.keys()
    for key in before:
        np.testing.assert_array_equal(before[key], now[key], err_msg=key)


def carried_over(model: Any) -> Any:
    """Restore a model from what it published, all of it read-only and the records through strict JSON."""

    def frozen(array: Any) -> Any:
        copy = array.copy()
        for part in (copy.data, copy.indices, copy.indptr) if sp.issparse(copy) else (copy,):
            part.flags.writeable = False
        return copy

    settings, record = (
        json.loads(json.dumps(dict(part), allow_nan=False))
        for part in (model.settings(), model.proof_record())
    )
    arrays = {key: frozen(value) for key, value in model.published().items()}
    return type(model).restore(settings, arrays, record, frozen(model.user_items))
