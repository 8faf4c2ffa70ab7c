"""Fitting a state: from a file of interactions, or again from what the state itself keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from .. import __version__
from ..models.base import ForgettableModel
from . import durable
from .config_notes import take_over
from .delivery import Delivery
from .engine import open_receipts, recover
from .fence import FenceKey
from .interactions import canonical_frame, read_store, to_user_items, write_store
from .ledger import Ledger
from .purge import purge
from .refusal import without_fenced
from .state import Config, StateError, StatePaths, WriterLock, read_config, write_config
from .version import Store, VersionError, read_current, read_manifest, set_current, write_version

_BEGUN = frozenset({"lock", "keys", "config.toml.partial"})
"""What a first fit leaves that was cut off at its very start."""


@dataclass(frozen=True)
class FitReport:
    """What a fit published.

    Attributes
    ----------
    version, users, items, interactions : of the published version.
    refused_interactions, refused_users : what the fence kept out: erased before, or asked to be.
    """

    version: int
    users: int
    items: int
    interactions: int
    refused_interactions: int
    refused_users: int


def fit(
    state_dir: str | Path,
    interactions: pl.DataFrame | None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    show_progress: bool = False,
    on_model: Callable[[str], None] = lambda name: None,
) -> FitReport:
    """Fit models and publish them as the next version of a state, which is made if it is not there.

    Parameters
    ----------
    interactions : columns user_id, item_id (int64 or string), value, time (optional); None: what the state
        keeps, to fit its models again from scratch.
    models : registry name -> settings, the default model first; None: those of the state's config.toml.
    show_progress : let the models draw progress bars.
    on_model : called with the name of each model before it is fitted.

    Raises
    ------
    StateError
        In use by another writer, of another layout, or there is nothing to fit from.
    ValueError
        A model is unknown, a setting is not one of its settings, or no interaction is left to fit.

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
        unfitted = _construct(chosen)
        key = FenceKey.create(paths) if config is None else FenceKey.load(paths)
        previous = None if config is None else _previous(paths, key, interactions is None)
        frame = _what_to_fit(paths, interactions, previous)
        if config is None:
            write_config(paths, Config(chosen))
        with _ledger(paths, key) as ledger:
            kept, refused_users = without_fenced(frame, ledger, key)
        if not len(kept):
            raise ValueError(
                f"no interaction is left to fit: {len(frame)} given, all of erased users; name other data"
            )
        report = _publish(paths, kept, unfitted, previous, show_progress, on_model)
        write_config(paths, replace(config or Config(chosen), models=chosen))
        with _ledger(paths, key) as ledger:
            take_over(paths, ledger, key, is_ours=True)
    return FitReport(**report, refused_interactions=len(frame) - len(kept), refused_users=refused_users)


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
    paths: StatePaths, interactions: pl.DataFrame | None, previous: Previous | None
) -> pl.DataFrame:
    if interactions is not None:
        return canonical_frame(interactions)
    if previous is None:
        raise StateError(f"{paths.root} has nothing to fit from; name the data: recunlearn fit --data FILE")
    frame = read_store(paths, previous.store)
    if frame is None:
        raise ValueError(f"{paths.root} keeps no interaction to fit from; name other data")
    return frame


def _publish(
    paths: StatePaths,
    frame: pl.DataFrame,
    models: dict[str, ForgettableModel],
    previous: Previous | None,
    show_progress: bool,
    on_model: Callable[[str], None],
) -> dict[str, int]:
    user_items, users, items = to_user_items(frame)
    for name, model in models.items():
        on_model(name)
        model.fit(user_items, show_progress=show_progress)
    number = 1 if previous is None else previous.number + 1
    durable.make_directory(paths.versions, durable.SHARED_FOLDER)
    for leftover in (paths.version(number), *sorted(paths.interactions.glob(f"*-{number:06d}.parquet"))):
        if leftover.exists():
            durable.remove(leftover)
    store = write_store(paths, number, frame)
    digest = write_version(
        paths,
        number,
        models,
        users,
        items,
        store,
        software=__version__,
        parent=None if previous is None else previous.digest,
    )
    set_current(paths, number, digest)
    purge(paths, read_manifest(paths, number, digest))
    return {
        "version": number, "users": len(users), "items": len(items), "interactions": int(user_items.nnz),
    }  # fmt: skip
