"""Fitting a state: from a file of interactions, or again from what the state itself keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from .. import __version__
from ..models.base import ForgettableModel
from . import durable
from .config_notes import take_over
from .delivery import Delivery
from .engine import open_receipts, recover
from .fence import FenceKey
from .fitted import Fitted, LetIn, Taken, folder_of_dealt
from .interactions import canonical_frame, read_store, to_user_items, write_store
from .ledger import Ledger
from .purge import purge
from .refusal import Admit, admission
from .state import Config, StateError, StatePaths, WriterLock, read_config, write_config
from .version import Store, VersionError, read_current, read_manifest, set_current, write_version

if TYPE_CHECKING:
    from .cluster.fitting import OverPartitions
    from .cluster.rows import Rows
    from .tables import Rejections

_BEGUN = frozenset({"lock", "keys", "config.toml.partial"})
"""What a first fit leaves that was cut off at its very start."""


@dataclass(frozen=True)
class FitReport:
    """What a fit published.

    Attributes
    ----------
    version, users, items, interactions : of the published version.
    refused_interactions, refused_users : what the fence kept out: erased before, or asked to be.
    rejected : rows that could not be used, where the fit read them itself.
    """

    version: int
    users: int
    items: int
    interactions: int
    refused_interactions: int
    refused_users: int
    rejected: "Rejections | None" = None


def fit(
    state_dir: str | Path,
    interactions: "pl.DataFrame | Rows | None",
    models: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    over: "OverPartitions | None" = None,
    show_progress: bool = False,
    on_model: Callable[[str], None] = lambda name: None,
) -> FitReport:
    """Fit models and publish them as the next version of a state, which is made if it is not there.

    Parameters
    ----------
    interactions : columns user_id, item_id (int64 or string), value, time (optional); with ``over``,
        :class:`~.cluster.rows.ParquetRows`; None: what the state keeps, to fit its models again from scratch.
    models : registry name -> settings, the default model first; None: those of the state's config.toml.
    over : how the rows are summed up by partition, with the same models as a result; None: in one piece.
    show_progress : let the models draw progress bars.
    on_model : called with the name of each model before it is fitted.

    Raises
    ------
    StateError
        In use by another writer, of another layout, or there is nothing to fit from.
    ValueError
        A model is unknown, a setting is not one of its settings, or no interaction is left to fit. With
        ``over``: a model is no function of sums, or not over these values.

    Notes
    -----
    Whoever is fenced stays out: interactions of erased users, and single interactions that were erased,
    are refused and counted, whatever file they come back in; so are interactions of users who were admitted
    again from before they came back, where the data has times.
    """
    paths = StatePaths(Path(state_dir))
    config = _begin(paths, interactions is None)
    with WriterLock(paths):
        chosen = models if models is not None else (config or read_config(paths)).models
        _construct(chosen)  # what is wrong with a setting is said before anything is read
        if over is not None:
            over.require(chosen)
        key = FenceKey.create(paths) if config is None else FenceKey.load(paths)
        previous = None if config is None else _previous(paths, key, interactions is None)
        rows = _what_to_fit(paths, interactions, previous, over)
        if config is None:
            write_config(paths, Config(chosen))
        with _ledger(paths, key) as ledger:
            admit = admission(ledger, key)
        number = _make_room(paths, previous)
        taken = _take(paths, number, rows, admit, over)
        let_in = taken.let_in
        if not let_in.kept:
            raise ValueError(
                f"no interaction is left to fit: {let_in.given} given, all of erased users; name other data"
            )
        fitted = taken.fit(chosen, show_progress, on_model)
        _publish(paths, number, fitted, previous)
        write_config(paths, replace(config or Config(chosen), models=chosen))
        with _ledger(paths, key) as ledger:
            take_over(paths, ledger, key, is_ours=True)
    return FitReport(
        number,
        len(fitted.users),
        len(fitted.items),
        let_in.kept,
        let_in.given - let_in.kept,
        let_in.refused_users,
        let_in.rejected,
    )


def _begin(paths: StatePaths, is_refit: bool) -> Config | None:
    """Look at what is there: returns the state's config, or None for a new state, whose directory is made."""
    if paths.config.exists() or is_refit:
        return read_config(paths)
    if paths.root.exists() and not {entry.name for entry in paths.root.iterdir()} <= _BEGUN:
        raise StateError(f"{paths.root} is not empty and not a state directory; name a new directory")
    durable.make_directory(paths.root)
    return None


@dataclass(frozen=True)
class Previous:
    """The version that a fit replaces: its number, the digest of its manifest, its interaction store."""

    number: int
    digest: str | None
    store: Store


def _construct(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, ForgettableModel]:
    """Make the models, unfitted."""
    from ..models import MODELS

    models = {}
    if not settings:
        raise ValueError(f"no model is named; there are {', '.join(MODELS)}")
    for name, arguments in settings.items():
        if name not in MODELS:
            raise ValueError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
        try:
            models[name] = MODELS[name](**arguments)
        except TypeError as error:
            raise ValueError(f"model {name} does not take these settings: {error}") from None
    return models


def _ledger(paths: StatePaths, key: FenceKey) -> Ledger:
    """Open the ledger; one is made only for a state that never published: a lost one is not replaced."""
    return Ledger(paths.ledger, key) if paths.versions.exists() else Ledger.create(paths, key)


def _previous(paths: StatePaths, key: FenceKey, is_needed: bool) -> Previous | None:
    """Finish what a crash cut off, and return the published version.

    A damaged one is an error only if it ``is_needed``: a fit from other data is the way out of it.
    """
    if not paths.versions.exists():
        return None  # the first fit did not come to an end
    with _ledger(paths, key) as ledger:
        take_over(paths, ledger, key)
        try:
            recover(paths, ledger, open_receipts(paths, ledger), Delivery.later(paths))
            number, digest = read_current(paths)
            manifest = read_manifest(paths, number, digest)
        except VersionError:
            if is_needed:
                raise
            names = [int(entry.name) for entry in paths.versions.iterdir() if entry.name.isdigit()]
            return Previous(max([ledger.published_version(), *names]), None, Store({}, 1))
    return Previous(number, digest, Store(manifest.interactions, manifest.partitions))


def _what_to_fit(
    paths: StatePaths,
    interactions: "pl.DataFrame | Rows | None",
    previous: Previous | None,
    over: "OverPartitions | None",
) -> "pl.DataFrame | Rows":
    if interactions is not None:
        if isinstance(interactions, pl.DataFrame) == (over is not None):
            raise ValueError(
                "rows in memory are fitted in one piece; over partitions, pass both "
                "ParquetRows.of(path, columns) and over=OverPartitions(...)"
            )
        return canonical_frame(interactions) if isinstance(interactions, pl.DataFrame) else interactions
    if previous is None:
        raise StateError(f"{paths.root} has nothing to fit from; name the data: recunlearn fit --data FILE")
    if not previous.store.files:
        raise ValueError(f"{paths.root} keeps no interaction to fit from; name other data")
    if over is not None:
        return over.rows_of_store(paths, previous.store)
    frame = read_store(paths, previous.store)
    assert frame is not None  # noqa: S101  for the type checkers: there are files
    return frame


def _make_room(paths: StatePaths, previous: Previous | None) -> int:
    """Choose the number of the next version, and remove what a fit of it left that was cut off."""
    number = 1 if previous is None else previous.number + 1
    durable.make_directory(paths.versions, durable.SHARED_FOLDER)
    names = (f"*-{number:06d}.parquet", folder_of_dealt(paths, number).name)
    leftovers = [left for name in names for left in sorted(paths.interactions.glob(name))]
    for leftover in (paths.version(number), *leftovers):
        if leftover.exists():
            durable.remove(leftover)
    return number


def _take(
    paths: StatePaths, number: int, rows: "pl.DataFrame | Rows", admit: Admit, over: "OverPartitions | None"
) -> Taken:
    """Let in what may be kept."""
    if over is not None and not isinstance(rows, pl.DataFrame):
        return over.take(paths, number, rows, admit)
    assert isinstance(rows, pl.DataFrame)  # noqa: S101  for the type checkers
    kept, refused_users = admit(rows)
    return _InOnePiece(paths, number, kept, LetIn(len(rows), len(kept), refused_users))


@dataclass(frozen=True)
class _InOnePiece:
    """Rows in memory, to be fitted as one matrix."""

    paths: StatePaths
    number: int
    frame: pl.DataFrame
    let_in: LetIn

    def fit(
        self, settings: Mapping[str, Mapping[str, Any]], show_progress: bool, on_model: Callable[[str], None]
    ) -> Fitted:
        """Fit the models one after the other, and write the store."""
        models = _construct(settings)
        user_items, users, items = to_user_items(self.frame)
        for name, model in models.items():
            on_model(name)
            model.fit(user_items, show_progress=show_progress)
        return Fitted(models, users, items, write_store(self.paths, self.number, self.frame))


def _publish(paths: StatePaths, number: int, fitted: Fitted, previous: Previous | None) -> None:
    digest = write_version(
        paths,
        number,
        fitted.models,
        fitted.users,
        fitted.items,
        fitted.store,
        software=__version__,
        parent=None if previous is None else previous.digest,
    )
    set_current(paths, number, digest)
    purge(paths, read_manifest(paths, number, digest))
