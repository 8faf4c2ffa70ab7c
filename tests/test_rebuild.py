"""verify --deep: what is published is what a fit to the interaction store gives, or it is found out."""

import json

import numpy as np
import polars as pl
import pytest
import typer.testing
from recunlearn import cli
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.ledger import Received
from recunlearn.engine.rebuild import compare
from recunlearn.engine.requests import AccountDeletion, InteractionRemoval
from recunlearn.engine.verification import verify_state
from recunlearn.models import MODELS

SETTINGS = {
    "canonical_mf": {"regularization": 1.0, "alpha": 1.0},
    "ease": {"regularization": 1.0},
    "item_knn": {"K": 4},
    "sharded_mf": {"shards": 3, "factors": 4},
    "spectral_mf": {"factors": 4},
}
NAMES = [name for name in MODELS if name in SETTINGS]


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Make a state of every model, from which users and an interaction were erased in two cycles."""
    draw = np.random.default_rng(11)
    taken = np.argwhere(draw.random((40, 18)) < 0.25)
    frame = pl.DataFrame(
        {"user_id": taken[:, 0], "item_id": taken[:, 1], "value": draw.integers(1, 4, len(taken)) * 1.0}
    )
    folder = tmp_path_factory.mktemp("deep") / "state"
    fit(folder, frame, {name: SETTINGS[name] for name in NAMES})
    pair = frame.filter(pl.col("user_id") == 9).row(0)
    with Engine.open(folder) as engine:
        for batch in (
            [AccountDeletion("e-1", 3), AccountDeletion("e-2", 30)],
            [InteractionRemoval("e-3", pair[0], pair[1])],
        ):
            engine.ledger.record([Received(request) for request in batch])
            assert engine.apply(engine.pending()).failed == 0
    return folder


def test_every_model_is_where_its_proof_says(state):
    """After erasures each published model is within both bounds of a fresh fit; nothing is vacuous."""
    found = verify_state(state, deep=True)
    assert found.problems == []
    assert set(found.deep) == set(NAMES)
    for name, one in found.deep.items():
        assert one.ok, (name, one)
        assert one.allowed is not None, name
        assert one.allowed < 1e-3, name
    for name in {"item_knn", "sharded_mf"} & set(NAMES):
        assert found.deep[name].distance == 0.0, name


def test_the_command_reports_distance_and_allowance(state):
    """JSON has distance, allowed and ok for each model, only when asked; names go to standard error."""
    runner = typer.testing.CliRunner()
    result = runner.invoke(cli.app, ["verify", "--state", str(state), "--deep", "--json"])
    assert result.exit_code == 0, result.output
    assert {frozenset(one) for one in json.loads(result.stdout)["deep"].values()} == {
        frozenset({"distance", "allowed", "ok"})
    }
    assert "fitting ease from scratch" in result.stderr
    assert (
        "ease against a fresh fit"
        in runner.invoke(cli.app, ["verify", "--state", str(state), "--deep"]).stdout
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_still_holds_somebody_is_found_out(name):
    """A model fitted to one user more than is kept is further off than both bounds allow."""
    draw = np.random.default_rng(5)
    import scipy.sparse as sp

    x = sp.csr_matrix((draw.random((30, 12)) < 0.4) * 1.0)
    without = x.copy().tolil()
    without[7] = 0
    options = {"regularization": 1.0} if name == "spectral_mf" else {}
    settings = {**SETTINGS[name], **options}
    holding, fresh = MODELS[name](**settings).fit(x), MODELS[name](**settings).fit(without.tocsr())
    found = compare(holding, fresh)
    assert not found.ok
    assert found.distance > 10 * (found.allowed or 0.0)


def test_the_command_fails_when_a_model_is_not_what_is_kept(state, monkeypatch):
    """A distance beyond what is allowed is a problem that names the model, and exit code 1."""
    from recunlearn.engine import verification
    from recunlearn.engine.rebuild import Rebuilt

    monkeypatch.setattr(verification, "rebuild_models", lambda *_: {"ease": Rebuilt(0.5, 1e-9)})
    result = typer.testing.CliRunner().invoke(cli.app, ["verify", "--state", str(state), "--deep"])
    assert result.exit_code == 1
    assert "model ease is 0.5 from a fit to what is kept, allowed are 1e-09" in result.stderr
