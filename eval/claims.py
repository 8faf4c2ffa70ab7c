"""The claims a run puts to the test, each with what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .audience import Answer, Watch
from .format import count, seconds, share
from .report import Check, ModelOutcome, Removal, slowest

ERASURE = 0.999
"""Share of the influence on everybody else that must be gone from an iterative model."""

EXACTNESS = 1e-9
"""Relative distance to a retrain within which an exact model must be: rounding of float64, accumulated."""


@dataclass(frozen=True)
class Seen:
    """All that was seen and measured.

    Attributes
    ----------
    removals : with an outcome for each model.
    refusals : for each deleted account, its answer and that to somebody who never existed.
    watches : what the audience saw during each removal.
    status, verified : what ``status --json`` and ``verify --json`` said at the end.
    expected_interactions : how many must be kept, counted from the original data.
    """

    removals: Sequence[Removal]
    refusals: Sequence[tuple[Answer, Answer]]
    watches: Sequence[Watch]
    status: Mapping[str, Any]
    verified: Mapping[str, Any]
    expected_interactions: int


def check_claims(seen: Seen) -> list[Check]:
    """Put every claim to the test."""
    outcomes = [outcome for removal in seen.removals for outcome in removal.models]
    return [
        _not_served(seen),
        _influence_gone(outcomes),
        _proofs_true(outcomes),
        _nobody_else_lost(seen),
        _no_stumble(seen.watches),
        _nothing_on_disk(seen.verified),
        _receipts(seen),
    ]


def _not_served(seen: Seen) -> Check:
    refused = sum(gone.status == 404 and gone == stranger for gone, stranger in seen.refusals)
    fenced = max((slowest(removal.requests)[0] for removal in seen.removals), default=0.0)
    noticed = sum(len(watch.gone) for watch in seen.watches)
    return Check(
        "serving them",
        "Nobody who was deleted is served; the answer is that of somebody who never existed.",
        bool(seen.refusals) and refused == len(seen.refusals) == noticed,
        f"{refused} of {len(seen.refusals)} accounts: 404 as if unknown, fenced within {seconds(fenced)}",
    )


def _influence_gone(outcomes: Sequence[ModelOutcome]) -> Check:
    good = [o.distance <= EXACTNESS if o.exact else o.remaining <= 1 - ERASURE for o in outcomes]
    worst = max((o.remaining for o in outcomes), default=0.0)
    rows_only = min((o.treatments[1].others for o in outcomes), default=0.0)
    return Check(
        "influence",
        "Their influence is gone from everybody else's recommendations, not only their rows.",
        bool(good) and all(good),
        f"{share(worst)} left at most (dropping rows: {share(rows_only)}), against a retrain",
    )


def _proofs_true(outcomes: Sequence[ModelOutcome]) -> Check:
    true = sum(o.proof_holds for o in outcomes)
    certified = sum(o.certified for o in outcomes)
    return Check(
        "proofs",
        "What the models proved about themselves, without a retrain, is true.",
        bool(outcomes) and true == certified == len(outcomes),
        f"{certified} of {len(outcomes)} certified, {true} of {len(outcomes)} confirmed by a retrain",
    )


def _nobody_else_lost(seen: Seen) -> Check:
    kept = seen.status.get("interactions", -1)
    return Check(
        "the others",
        "Nothing else was forgotten.",
        kept == seen.expected_interactions,
        f"{count(kept)} interactions are kept, {count(seen.expected_interactions)} should be",
    )


def _no_stumble(watches: Sequence[Watch]) -> Check:
    answers = sum(watch.answers for watch in watches)
    stumbles = [stumble for watch in watches for stumble in watch.stumbles]
    versions = {version for watch in watches for version in watch.versions}
    worst = max((watch.slowest for watch in watches), default=0.0)
    return Check(
        "serving",
        "Serving did not notice: no error, no version that went back.",
        not stumbles and answers > 0 and len(versions) > len(watches),
        f"{count(answers)} answers over {len(versions)} versions, {len(stumbles)} stumbles, "
        f"slowest {seconds(worst)}",
    )


def _nothing_on_disk(verified: Mapping[str, Any]) -> Check:
    scan = verified["scan"]
    return Check(
        "on disk",
        "No file under the state directory holds any of it.",
        bool(verified["ok"]) and not scan["found"] and scan["files"] > 0,
        f"{count(scan['files'])} files, {scan['bytes'] / 1e6:.1f} MB scanned: {len(scan['found'])} remains",
    )


def _receipts(seen: Seen) -> Check:
    receipts, asked = seen.verified["receipts"], sum(len(r.requests) for r in seen.removals)
    return Check(
        "receipts",
        "Every request has a signed receipt that verifies.",
        receipts["valid"] == receipts["count"] == asked,
        f"{count(receipts['valid'])} valid receipts for {count(asked)} requests",
    )
