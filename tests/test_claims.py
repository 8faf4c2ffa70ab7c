"""The claims of the demo: each holds on a good run and fails on what it is there to catch."""

from dataclasses import replace

import pytest
from recunlearn.eval.audience import Answer, Watch
from recunlearn.eval.claims import Seen, check_claims
from recunlearn.eval.report import Removal, RequestTiming, Treatment

from .sample_report import outcome

GONE = Answer(404, (("content-length", "25"),), b'{"detail":"unknown user"}')


def good_run():
    """Build what is seen when all goes well: one removal of one account."""
    models = [outcome(), outcome("ease", True, 3e-13), outcome("item_knn", True, 0.0)]
    watch = Watch(answers=50, versions=[1, 2], slowest=0.01, gone={42: 1.0})
    return Seen(
        removals=[Removal("one account", 1, 0, [RequestTiming("account", 0.01, 0.5)], models)],
        refusals=[(GONE, GONE)],
        watches=[watch],
        status={"interactions": 90},
        verified={
            "ok": True,
            "scan": {"files": 30, "bytes": 5_000_000, "found": []},
            "receipts": {"count": 1, "valid": 1},
        },
        expected_interactions=90,
    )


def with_models(seen, *models):
    """Replace the outcomes of the one removal."""
    return replace(seen, removals=[replace(seen.removals[0], models=list(models))])


def verified(seen, **parts):
    """Replace parts of what verify said."""
    return replace(seen, verified={**seen.verified, **parts})


def test_every_claim_holds_on_a_good_run():
    """Nothing is wrong: all seven claims hold, each with what was measured."""
    checks = check_claims(good_run())
    assert [check.ok for check in checks] == [True] * 7
    assert all(any(c.isdigit() for c in check.measured) for check in checks)


@pytest.mark.parametrize(
    ("claim", "spoil"),
    [
        ("served", lambda s: replace(s, refusals=[(replace(GONE, status=200), GONE)])),
        ("served", lambda s: replace(s, refusals=[(replace(GONE, body=b"gone"), GONE)])),
        ("served", lambda s: replace(s, refusals=[(replace(GONE, headers=()), GONE)])),
        ("served", lambda s: replace(s, refusals=[])),
        ("served", lambda s: replace(s, watches=[replace(s.watches[0], gone={})])),
        ("influence", lambda s: with_models(s, outcome(left=0.0011))),
        ("influence", lambda s: with_models(s, replace(outcome("ease", True), distance=1e-8))),
        ("influence", lambda s: replace(s, removals=[])),
        ("proved", lambda s: with_models(s, replace(outcome(), proof_distance=1.0))),
        ("proved", lambda s: with_models(s, replace(outcome(), erased_at_least=0.99999))),
        ("proved", lambda s: with_models(s, replace(outcome(), certified=False))),
        ("Nothing else", lambda s: replace(s, status={"interactions": 89})),
        ("Nothing else", lambda s: replace(s, status={"interactions": 91})),
        ("notice", lambda s: replace(s, watches=[replace(s.watches[0], stumbles=["status 500"])])),
        ("notice", lambda s: replace(s, watches=[replace(s.watches[0], versions=[1])])),
        ("file", lambda s: verified(s, scan={"files": 30, "bytes": 1, "found": ["x"]})),
        ("file", lambda s: verified(s, scan={"files": 0, "bytes": 0, "found": []})),
        ("file", lambda s: verified(s, ok=False)),
        ("receipt", lambda s: verified(s, receipts={"count": 0, "valid": 0})),
        ("receipt", lambda s: verified(s, receipts={"count": 1, "valid": 0})),
    ],
)
def test_each_claim_fails_on_what_it_is_there_to_catch(claim, spoil):
    """One thing wrong: the claim about it does not hold."""
    failed = [check.claim for check in check_claims(spoil(good_run())) if not check.ok]
    assert any(claim in text for text in failed)


def test_the_audience_notices_errors_and_versions_that_go_back():
    """A status other than 200 and an older version are stumbles; newer versions are noted once."""
    watch = Watch()
    for version in (1, 1, 3, 2):
        watch.note(Answer(200, (), b'{"version": %d}' % version), 0.01)
    watch.note(Answer(503, (), b""), 0.02)
    assert watch.answers == 5
    assert watch.versions == [1, 3]
    assert watch.stumbles == ["version 2 after 3", "status 503"]
    assert watch.slowest == 0.02


def test_dropping_rows_is_quoted_as_measured():
    """The claim about influence quotes what only dropping the rows leaves, from the run."""
    treatments = [Treatment("do nothing", 1, 1), Treatment("only drop", 0.77, 0.1), Treatment("ours", 0, 0)]
    seen = with_models(good_run(), replace(outcome("ease", True, 0.0), treatments=treatments))
    assert "77 %" in check_claims(seen)[1].measured
