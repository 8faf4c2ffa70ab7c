"""From sums to models: what a fit on all rows publishes, made of the sums of the rows alone.

EASE and ItemKNN come out with the same bits as from the rows; SpectralMF within its certificate, solved from
a seeded start. No earlier model is read: what is published is a function of the sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .base import Arrays, ForgettableModel, Interactions, IntVector, Scalar
from .certificate import Certificate
from .ease import EASE, fresh_inverse
from .gram_operator import ItemGram, SummedGram
from .item_knn import ItemKNN, bm25_factor, inverse_norms, nearest
from .ridge_inverse import Probes
from .spectral_mf import SpectralMF
from .spectral_solver import Solution, norm_of, nothing
from .subspace import shrinkage
from .sums import Kind, Statistic, Sums, SumsError
from .threads import one_blas_thread

SUMMED: Final = (EASE.name, ItemKNN.name, SpectralMF.name)
"""The models that are made of sums."""

USERS_AT_A_TIME: Final = 65_536
"""Whose vectors are folded in at home, in float64 at first."""

FIXED_POINT_ROUNDING: Final = 2**12
"""In float64's eps (2^-52), relative: a product is at least 2^-22 and off by at most 2^-63 and 4 ulp."""


@dataclass(frozen=True)
class Published:
    """A model as it is published for those who have rows at home.

    Attributes
    ----------
    name : in the registry.
    settings : the constructor's arguments, lambda as it was chosen.
    arrays : EASE: ``inverse``. ItemKNN: ``similarity``. SpectralMF: ``item_factors``, ``item_scale``. All:
        ``counts``, int64 [n_items], the users of each item.
    record : what the model's proof is made of again.
    subspace : SpectralMF: float64 [n_items, k], from which forgetting goes on where all rows are; None where
        it was not sent along: those who only serve need none.
    """

    name: str
    settings: Mapping[str, Scalar]
    arrays: Arrays
    record: Mapping[str, Scalar]
    subspace: NDArray[np.float64] | None = None


def statistic_of(
    name: str, settings: Mapping[str, Scalar], n_items: int, *, fractions: bool = False
) -> Statistic:
    """Name the sums that a model is made of.

    Parameters
    ----------
    name, settings : the model, as the registry and its constructor know it; {}: as it is by default.
    n_items : columns.
    fractions : cosine over values that are not whole numbers, in fixed point.

    Raises
    ------
    ValueError
        The model, with these settings, is not a function of sums.

    Examples
    --------
    >>> statistic_of("item_knn", {"weighting": "tfidf"}, 7)
    Statistic(kind='tfidf', n_items=7, user_power=0.0, binary=False)
    """
    model = _model(name, settings)
    if isinstance(model, SpectralMF):
        if model.regularization == "auto" or model.values == "log":
            raise ValueError(
                "SpectralMF with regularization 'auto' or values 'log' needs rows, not their sums; give a "
                "number for lambda, and 'counts' or 'binary' for values"
            )
        return Statistic("normalised", n_items, model.user_power, model.values == "binary")
    if fractions and not (isinstance(model, ItemKNN) and model.weighting in ("cosine", "tfidf")):
        raise ValueError(f"{name} sums whole numbers; fractions are for ItemKNN by cosine or TF-IDF")
    kind: Kind = "whole"
    if isinstance(model, ItemKNN):
        kind = model.weighting if model.weighting != "cosine" else "fractions" if fractions else "whole"
    return Statistic(kind, n_items)


def published_from_sums(name: str, settings: Mapping[str, Scalar], sums: Sums) -> Published:
    """Make the model of all rows that were summed up.

    Raises
    ------
    SumsError
        The sums are of another statistic than :func:`statistic_of` says.
    ValueError
        The model is not a function of sums, or cannot be solved (EASE: lambda vanishes beside the counts).

    Notes
    -----
    EASE O(n^3); ItemKNN one pass over the pairs; SpectralMF about 20 products with a dense [n, n] matrix.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from recunlearn.models.sums import sums_of
    >>> x = sp.csr_matrix([[1.0, 1, 0], [0, 1, 1]])
    >>> published = published_from_sums("ease", {}, sums_of(x, statistic_of("ease", {}, 3)))
    >>> bool((published.arrays["inverse"] == EASE().fit(x).inverse).all())
    True
    """
    model = _model(name, settings)
    fractions = sums.statistic.kind == "fractions"
    wanted = statistic_of(name, settings, sums.statistic.n_items, fractions=fractions)
    if sums.statistic != wanted:
        raise SumsError(f"{name} is made of sums of {wanted}; these are sums of {sums.statistic}")
    if isinstance(model, EASE):
        return _ease(model, sums)
    if isinstance(model, ItemKNN):
        return _item_knn(model, sums)
    with one_blas_thread():
        return _spectral(model, sums)


def model_at_home(published: Published, rows: Interactions) -> ForgettableModel:
    """Serve one's own rows from what was published: user vectors are folded in here.

    Parameters
    ----------
    published : from :func:`published_from_sums`, here or elsewhere.
    rows : canonical CSR [n, n_items], which never left.

    Notes
    -----
    With some of the rows the model recommends, and to forget is to subtract from the sums. With all of them
    it is the model of a fit on them: it can be published, and forgets.
    """
    model_type: type[ForgettableModel] = type(_model(published.name, published.settings))
    arrays = {name: array for name, array in published.arrays.items() if name != "counts"}
    if model_type is SpectralMF:
        factors = np.asarray(arrays["item_factors"])
        subspace = np.zeros(factors.shape) if published.subspace is None else published.subspace
        users = np.zeros((rows.shape[0], factors.shape[1]), factors.dtype)
        arrays |= {"user_factors": users, "subspace": subspace}
        model = SpectralMF.restore(published.settings, arrays, published.record, rows)
        for start in range(0, rows.shape[0], USERS_AT_A_TIME):
            some = slice(start, start + USERS_AT_A_TIME)
            users[some] = model.recalculate_user(np.arange(users[some].shape[0]), rows[some])
    home = model_type.restore(published.settings, arrays, published.record, rows)
    if isinstance(home, EASE):
        home.serve_items(np.asarray(published.arrays["counts"]))
    return home


def _model(name: str, settings: Mapping[str, Scalar]) -> EASE | ItemKNN | SpectralMF:
    arguments: dict[str, Any] = dict(settings)
    if name == EASE.name:
        return EASE(**arguments)
    if name == ItemKNN.name:
        return ItemKNN(**arguments)
    if name == SpectralMF.name:
        return SpectralMF(**arguments)
    raise ValueError(f"{name} is not made of sums; choose one of {', '.join(SUMMED)}")


def _ease(model: EASE, sums: Sums) -> Published:
    gram = sums.gram()
    inverse = fresh_inverse(gram, sums.counts, model.regularization)
    bound = Probes.of_gram(gram).bound(inverse, model.regularization)
    arrays: Arrays = {"inverse": inverse, "counts": sums.counts}
    return Published(model.name, model.settings(), arrays, {"bound": bound, "has_forgotten": False})


def _item_knn(model: ItemKNN, sums: Sums) -> Published:
    pairs = sums.co_occurrence()
    if model.weighting == "bm25":
        factor = bm25_factor(sums.counts, 1.0, model.K1, model.B)
    else:
        factor = inverse_norms(pairs.diagonal(np.arange(sums.statistic.n_items)))
    arrays: Arrays = {"similarity": nearest(pairs, factor, model.K), "counts": sums.counts}
    return Published(model.name, model.settings(), arrays, {"has_forgotten": False})


def _spectral(model: SpectralMF, sums: Sums) -> Published:
    degrees = np.where(sums.degrees > 0, sums.degrees, 1).astype(np.float64)
    gram = SummedGram(sums.gram(), degrees, model.item_power, users=sums.users, rounding=FIXED_POINT_ROUNDING)
    return spectral_of(model, gram, sums.counts)


def spectral_of(model: SpectralMF, gram: ItemGram, counts: IntVector) -> Published:
    """Solve from an operator, wherever its rows are, and publish what those at home need.

    Parameters
    ----------
    gram : of all rows. counts : int64 [n_items], the users of each item.
    """
    users, n_items = gram.shape
    given = model.regularization if isinstance(model.regularization, float) else 1.0
    solution, spent = model.solve(gram, None) if users else (nothing(gram, given), 0)
    items = model.item_factors_of(gram, counts, solution.directions())
    certificate = _certify(model, solution, spent, n_items)
    arrays: Arrays = {"item_factors": items, "item_scale": gram.item_scale, "counts": counts}
    settings = {**model.settings(), "regularization": solution.threshold}
    return Published(model.name, settings, arrays, certificate.record(), solution.pairs.vectors)


def _certify(model: SpectralMF, solution: Solution, spent: int, n_items: int) -> Certificate:
    """State what is proven of the scores served at home, all silos together, rounding included."""
    norm = norm_of(solution.pairs, solution.threshold)
    distance = solution.distance + _rounding(model, solution, n_items)
    bound = 0.0 if norm == 0.0 else distance / (norm - distance) if norm > distance else float("inf")
    rank = int((solution.pairs.values > solution.threshold**2).sum())
    short = bound > model.tolerance
    reason = f"the bound {bound:.2g} is above the tolerance {model.tolerance:g}" if short else ""
    return Certificate(not short, bound, None, rank, spent + solution.applications, reason)


def _rounding(model: SpectralMF, solution: Solution, n_items: int) -> float:
    """Bound what rounding adds: of Q~ = V f^1/2 to the published dtype, of P = X~ Q^ at home.

    ``|P^ Q^' - P Q~'|_F <= |P^ - P|_F |Q^|_2 + |P|_2 |Q^ - Q~|_F`` with ``|P^ - P|_F <= |X~|_2 |Q^ - Q~|_F +
    u |P|_F`` and a sum of at most n_items products in float64; X~ is not negative.
    """
    values = np.maximum(solution.pairs.values, 0.0)
    shares = shrinkage(values, solution.threshold)
    largest = float(np.sqrt(values[0]))
    unit = float(np.finfo(model.dtype).eps) / 2
    length = float(np.sqrt(shares.sum()))
    off = unit * length
    users = largest * off + unit * float(np.sqrt(values @ shares))
    users += n_items * float(np.finfo(np.float64).eps) * largest * length
    return 1.001 * (users * (1.0 + off) + largest * off)
