"""Two states side by side: the same bytes published, or scores as near as certificates say."""

import json

import numpy as np
from recunlearn.engine.engine import Engine
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.engine.state import StatePaths
from recunlearn.models.score_distance import score_distance

from .popularity import ask


def published(state):
    """Read every byte that is published, and the manifest without its time."""
    files = {
        str(path.relative_to(state)): path.read_bytes()
        for folder in ("versions", "interactions")
        for path in sorted((state / folder).rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    snap = load_snapshot(state)
    manifest = json.loads((StatePaths(state).version(snap.version) / "manifest.json").read_bytes())
    return files, {**manifest, "created": None, "parent": None}


def check_same(one, other, *, but=None):
    """Check that two states publish the same bytes, but for one model's."""
    (files, manifest), (theirs, their_manifest) = published(one), published(other)
    assert files.keys() == theirs.keys()
    differing = {name for name in files if files[name] != theirs[name]}
    assert all(f"/{but}/" in name for name in differing), differing
    for each in (manifest, their_manifest):
        each["models"].pop(but, None)
        each["files"] = {name: record for name, record in each["files"].items() if f"{but}/" not in name}
    assert manifest == their_manifest


def check_within_bounds(one, other):
    """Check that two states' SpectralMF serve scores as near to each other as both certificates say."""
    ours, theirs = (load_snapshot(state)._models["spectral_mf"] for state in (one, other))
    assert ours.certificate.certified
    assert theirs.certificate.certified
    scale = ours._item_scale[:, None]
    a, b = ((np.asarray(m.user_factors, float), m.item_factors * scale) for m in (ours, theirs))
    nothing = np.zeros((a[0].shape[0], 1)), np.zeros((a[1].shape[0], 1))
    apart = score_distance(*a, *b) / score_distance(*b, *nothing)
    assert apart <= 1.01 * (ours.certificate.bound + theirs.certificate.bound)


def leave(state):
    """Forget thirty people and a single interaction, as `run` does."""
    with Engine.open(state) as engine:
        people = engine._users.series.gather(list(range(0, 240, 8))).to_list()
        item = engine._items.series[int(engine._user_items[1].indices[0])]
        asked = [AccountDeletion(f"r-{user}", user) for user in people]
        done = ask(engine, *asked, InteractionRemoval("single", engine._users.series[1], item))
        assert done.erased == 31
