"""A report with made-up figures, for tests of how reports are written."""

from recunlearn.eval.report import (
    Check,
    Dataset,
    Listed,
    Lists,
    ModelOutcome,
    Removal,
    Report,
    RequestTiming,
    Step,
    Treatment,
)


def outcome(name="spectral_mf", exact=False, left=4e-4):
    """Build the outcome of one model with ``left`` of its influence left."""
    middle = [] if exact else [Step("closed form", 0.2, 0.4), Step("refined once", left * 3, left * 8)]
    return ModelOutcome(
        name=name,
        exact=exact,
        treatments=[
            Treatment("do nothing", 1.0, 1.0),
            Treatment("only drop the rows", 1.0, 0.12),
            Treatment("recunlearn", left, left / 8),
        ],
        steps=[
            Step("asked", 1.0),
            Step("rows emptied", 1.0),
            *middle,
            Step("published", left, None if exact else left * 4),
        ],
        distance=left / 70,
        proof_distance=left / 70,
        largest_difference=1e-15 if exact else None,
        bound=left / 10,
        erased_at_least=1.0 if exact else 1 - 4 * left,
        certified=True,
        reason="",
        oracle_bound=0.0,
        oracle_share=1e-10,
        oracle_list=[2, 1, 9],
        forget_seconds=0.03,
        retrain_seconds=0.4,
    )


def sample_report(held=True, titles=("Toy Story (1995)", "Fargo (1996)", "Alien (1979)")):
    """Build a whole report; ``held`` False makes one of its claims fail."""
    before = [Listed(k, title, 1.0 / k) for k, title in enumerate(titles, 1)]
    after = [before[1], before[0], Listed(9, "Heat (1995)", 0.1)]
    models = [outcome(), outcome("ease", True, 3e-13), outcome("item_knn", True, 0.0)]
    removals = [
        Removal("one account", 1, 0, [RequestTiming("account.deleted", 0.004, 0.7)], models),
        Removal("a crowd", 24, 200, [RequestTiming("interaction.removed", 0.02, 1.1)] * 224, models),
    ]
    return Report(
        created="2026-11-25 10:00 UTC",
        software="0.1.0",
        command="recunlearn demo --seed 7",
        seed=7,
        dataset=Dataset("movielens-100k", 943, 1682, 100_000, "archive", "For research only.\n\nSee README."),
        person=Lists(42, "spectral_mf", before, None),
        neighbour=[Lists(17, "spectral_mf", before, after), Lists(17, "ease", before, list(before))],
        removals=removals,
        fit_seconds=2.5,
        checks=[
            Check("serving them", "not served", True, "404 after 9 ms"),
            Check("proofs", "the proof holds", held, "6 of 6 bounds"),
        ],
        environment={"python": "3.11", "cpus": "2"},
        seconds=31.0,
    )
