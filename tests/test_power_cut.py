"""The power goes at any step: after a restart nothing tells it from no cut, and nothing promised is lost.

``RECUNLEARN_FSYNC_TABLE=1`` also leaves out each fsync in turn, and prints which of that is noticed.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from recunlearn.engine.durable import SyncFailedError

from . import kill_points, power_cut

LEAST = {"cycle": 70, "fit": 40, "refit": 35}


def outcome_after(image, name, state):
    """Restart on what the power cut left; returns what became of it, or the error."""
    power_cut.lay_out(image, state)
    try:
        kill_points.WORKS[name](state)
        return kill_points.describe(state)
    except (Exception, SyncFailedError) as error:  # noqa: BLE001  whatever it is, it is not what it must be
        return repr(error)
    finally:
        shutil.rmtree(state)


@pytest.fixture(scope="module")
def memory():
    """Make a folder in memory, if there is such a place: what is promised is followed, not the disk asked."""
    place = Path("/dev/shm")  # noqa: S108  a folder of one's own is made in it
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def folder(memory):
    """Make a folder for one test."""
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def templates(memory):
    """Make what each piece of work begins from, and what it comes to undisturbed."""
    made = {}
    for name in LEAST:
        folder = memory / name
        folder.mkdir()
        kill_points.prepare(name, folder / "template")
        if (folder / "template").exists():
            shutil.copytree(folder / "template", folder / "undisturbed")
        kill_points.WORKS[name](folder / "undisturbed")
        made[name] = folder / "template", kill_points.describe(folder / "undisturbed")
    return made


def cuts(name, template, folder, monkeypatch, skipped=None):
    """Do the work once, and return the disk with all that could be left of it."""
    state = folder / "state"
    if template.exists():
        shutil.copytree(template, state)
    disk = power_cut.cut_everywhere(kill_points.WORKS[name], state, monkeypatch, skipped)
    shutil.rmtree(state)
    return disk


@pytest.mark.parametrize("name", LEAST)
def test_the_power_may_go_at_any_step(name, templates, folder, monkeypatch):
    """What was not synced is lost or torn: the restart ends in the state that no cut would have led to."""
    template, expected = templates[name]
    images = cuts(name, template, folder, monkeypatch).images
    assert len(images) >= 2 * LEAST[name]
    for step, variant, image in images:
        assert outcome_after(image, name, folder / "after") == expected, (step, variant)
    print(f"{name}: {len(images)} power cuts survived")


def caught(name, site, templates, folder, monkeypatch):
    """Tell whether some power cut shows that the sync at ``site`` is left out."""
    template, expected = templates[name]
    images = cuts(name, template, folder, monkeypatch, site).images
    return any(outcome_after(image, name, folder / "after") != expected for *_, image in images)


@pytest.mark.parametrize(
    "site", ["durable.create: file", "durable.replace: directory", "durable.append: file"]
)
def test_a_missing_sync_is_noticed(site, templates, folder, monkeypatch):
    """These tests can fail: without a sync that carries a promise, some power cut loses something."""
    assert caught("cycle", site, templates, folder, monkeypatch)


@pytest.mark.skipif("RECUNLEARN_FSYNC_TABLE" not in os.environ, reason="by hand: RECUNLEARN_FSYNC_TABLE=1")
def test_each_sync_left_out_in_turn(templates, folder, monkeypatch):
    """Print, for each place where something is synced, whether leaving it out is noticed."""
    table = {}
    for name, (template, _) in templates.items():
        for site in cuts(name, template, folder, monkeypatch).sites:
            table[site] = table.get(site, False) or caught(name, site, templates, folder, monkeypatch)
    for site, was_caught in sorted(table.items()):
        print(f"{site:60} {'caught' if was_caught else 'not caught'}")
    assert sum(table.values()) > len(table) / 2
