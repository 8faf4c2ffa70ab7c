"""The methods that can be named in a study. A new one is one file and one row here.

A method of your own needs no row: a study may name it ``path/to/file.py:Class``.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..protocol import Method
from ..regimes import StudyError


@dataclass(frozen=True)
class Entry:
    """A row of the registry.

    Attributes
    ----------
    module, factory : where it is: imported when it is used, for some need packages of their own.
    what : how it forgets, in one line; shown in the report.
    arguments : given to the factory before the study's settings.
    """

    module: str
    factory: str
    what: str
    arguments: tuple[str, ...] = ()


METHODS: Final[Mapping[str, Entry]] = {
    "spectral_mf": Entry("ours", "Ours", "ours: downdate, filter until certified", ("spectral_mf",)),
    "ease": Entry("ours", "Ours", "ours: exact downdate of the ridge inverse", ("ease",)),
    "item_knn": Entry("ours", "Ours", "ours: exact subtraction of co-occurrences", ("item_knn",)),
    "canonical_mf": Entry("ours", "Ours", "ours: convex, warm descent until certified", ("canonical_mf",)),
    "sharded_mf": Entry(
        "ours", "Ours", "SISA (Bourtoule et al. 2021): retrain the shards touched", ("sharded_mf",)
    ),
    "forgettable_als": Entry(
        "ours", "Ours", "ours, approximate: leave-one-out, then sweeps to a standstill", ("forgettable_als",)
    ),
    "alternating_als": Entry(
        "alternating",
        "AlternatingALS",
        "after AltEraser (Liu et al. 2022): a few exact alternating steps from the trained point",
    ),
    "balanced_shards": Entry(
        "balanced_shards",
        "BalancedShards",
        "after RecEraser (Chen et al. 2022): shards of like-minded users, balanced; plain mean",
    ),
    "influence_mf": Entry(
        "influence",
        "InfluenceMF",
        "influence function (Koh & Liang 2017): one Newton step away from the removed loss",
    ),
    "selective_influence_mf": Entry(
        "influence",
        "SelectiveInfluenceMF",
        "after SCIF (Li et al. 2023): the same step over touched items and their users only",
    ),
    "implicit_als_retrain": Entry(
        "implicit_peers", "RetrainedALS", "implicit's ALS, fitted from scratch each time"
    ),
    "implicit_als_row": Entry(
        "implicit_peers", "RowALS", "implicit's ALS, partial_fit_users with an empty row"
    ),
    "implicit_bpr_row": Entry("implicit_peers", "RowBPR", "implicit's BPR, the user's row dropped"),
    "cornac_row": Entry("cornac_peers", "CornacRow", "Cornac's models, the user's row dropped"),
}
"""Name -> where it is."""


def make_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Make a method by its name in the registry, or by ``module:Class`` or ``file.py:Class``.

    Raises
    ------
    StudyError
        The name is unknown, a package is missing, or a setting is not one of the method's.

    Examples
    --------
    >>> type(make_method("ease", {"regularization": 100.0})).__name__
    'Ours'
    """
    factory, arguments = _factory(name)
    try:
        method = factory(*arguments, **settings)
    except (TypeError, ValueError) as error:
        raise StudyError(f"method {name!r} with settings {dict(settings)}: {error}") from error
    if not isinstance(method, Method):
        raise StudyError(
            f"method {name!r} gives a {type(method).__name__}; subclass {Method.__module__}.Method"
        )
    return method


def describe_method(name: str) -> str:
    """Say in one line how a method forgets."""
    return METHODS[name].what if name in METHODS else "as its own file says"


def _factory(name: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
    if name in METHODS:
        entry = METHODS[name]
        return getattr(_imported(f"{__name__}.{entry.module}", name), entry.factory), entry.arguments
    module, separator, attribute = name.rpartition(":")
    if not separator:
        raise StudyError(
            f"method {name!r} is not known; choose one of {', '.join(METHODS)}, or file.py:Class"
        )
    found = _from_file(Path(module)) if module.endswith(".py") else _imported(module, name)
    if not hasattr(found, attribute):
        raise StudyError(f"method {name!r}: {module} has no {attribute}")
    return getattr(found, attribute), ()


def _imported(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise StudyError(f"method {name!r} needs {error.name or error}; pip install it") from error


def _from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise StudyError(f"there is no file {path}; a method is named path/to/file.py:Class")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
