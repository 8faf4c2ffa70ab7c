"""One cell of a study: one method, one data set, one regime, one draw, measured whole."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from ...models.base import Interactions, IntVector
from ..attacks import ATTACKS, Scene, SceneError, Served
from .completeness import left_by
from .protocol import Method, Removal, RowOnly, kept_after
from .questions import Answers, Questions, Split, answers, draw_questions
from .ranking import ndcg, recall, top_items
from .regimes import Regime, batches_of, checkpoints_of, removal_of
from .resources import Used, used_by
from .scan import Arrayed, faults

OTHER_SEED: Final = 104_729
"""Added to the seed for the second oracle: the seed floor."""

TREATMENTS: Final = (
    "method",
    "do nothing",
    "row only",
    "same work, nobody removed",
    "another seed's retrain",
)
"""What is measured beside each other, in this order."""


@dataclass(frozen=True)
class Setting:
    """What a cell is about.

    Attributes
    ----------
    split : the data. users : int64, who is removed, in order. regime : how. seed : of the draw.
    level : of intervals over people. attacks : names of :data:`recunlearn.eval.attacks.ATTACKS`.
    """

    split: Split
    users: IntVector
    regime: Regime
    seed: int
    level: float = 0.95
    attacks: Sequence[str] = ()


@dataclass(frozen=True)
class _Forgotten:
    """The method after everything, its removal, and what it cost on the way."""

    method: Method
    removal: Removal
    batch_seconds: list[float]
    peak_mib: float | None
    drift: list[dict[str, float]]


def measure_cell(method: Method, setting: Setting) -> dict[str, Any]:
    """Fit, forget, and measure: the four axes, beside the controls. JSON-ready.

    Returns
    -------
    ``completeness``: treatment -> :class:`Left`; ``faults``: by name; ``claim``; ``utility``, ``fairness``:
    who is asked -> figures; ``efficiency``; ``drift``: one entry a checkpoint; ``residues``: treatment ->
    paired differences, a person each; ``attacks``.

    Notes
    -----
    One fit, one retrain for each checkpoint, one more with another seed, and one more where the method has a
    reference of its own; the attacks fit their shadows beside that.
    """
    method.fit(setting.split.train, setting.seed)
    before = copy.deepcopy(method)
    forgotten = _forget(method, before, setting)
    kept = kept_after(setting.split.train, forgotten.removal)
    retrain = used_by(lambda: before.retrained(kept, setting.seed))
    oracle = before.reference(kept, setting.seed) or retrain.value
    floor = before.retrained(kept, setting.seed + OTHER_SEED)
    questions = draw_questions(setting.split, forgotten.removal, setting.seed)
    said = _answered(before, forgotten, oracle, floor, questions)
    truth = said.pop("oracle")
    left = {
        name: left_by(answer, said["do nothing"], truth, questions, setting.level, setting.seed)
        for name, answer in said.items()
    }
    arrayed = [
        Arrayed(said["do nothing"], before.published()),
        Arrayed(said["method"], forgotten.method.published()),
        Arrayed(truth, oracle.published()),
    ]
    found = faults(
        arrayed[0], arrayed[1], arrayed[2], forgotten.removal.users, left["method"], left[TREATMENTS[4]]
    )
    return {
        "completeness": {name: asdict(value) for name, value in left.items()},
        "faults": found,
        "claim": asdict(forgotten.method.claim()),
        "utility": _utility(said, truth, questions),
        "fairness": _fairness(said["method"], truth, questions),
        "efficiency": _efficiency(forgotten, retrain, int(setting.users.size)),
        "drift": forgotten.drift,
        "residues": {
            name: [float(d) for d in answer.margins - truth.margins] for name, answer in said.items()
        },
        "removed_people": int(setting.users.size),
        "attacks": _attacks(setting, before, forgotten.method, oracle),
    }


def _forget(method: Method, before: Method, setting: Setting) -> _Forgotten:
    """Hand the requests over batch by batch; compare with a retrain at each checkpoint but the last."""
    train, regime = setting.split.train, setting.regime
    batches = list(batches_of(setting.users, regime))
    stops = checkpoints_of(len(batches), regime)
    seconds: list[float] = []
    peaks: list[float] = []
    drift: list[dict[str, float]] = []
    for number, people in enumerate(batches, 1):
        removal = removal_of(train, regime, people, setting.seed)
        call = used_by(lambda asked=removal: method.forget(asked))  # type: ignore[misc]  # bound, not late
        seconds.append(call.seconds)
        peaks += [] if call.peak_mib is None else [call.peak_mib]
        if number in stops:
            done = removal_of(train, regime, np.concatenate(batches[:number]), setting.seed)
            drift.append(
                {"requests": float(sum(b.size for b in batches[:number])), "seconds": float(sum(seconds))}
                | _drifted(method, before, done, setting)
            )
    everything = removal_of(train, regime, setting.users, setting.seed)
    return _Forgotten(method, everything, seconds, max(peaks, default=None), drift)


def _drifted(method: Method, before: Method, removal: Removal, setting: Setting) -> dict[str, float]:
    """Compare with a retrain on what is kept at this point of a stream."""
    kept = kept_after(setting.split.train, removal)
    oracle = before.reference(kept, setting.seed) or before.retrained(kept, setting.seed)
    questions = draw_questions(setting.split, removal, setting.seed)
    truth, was, now = (answers(model, questions) for model in (oracle, before, method))
    left = left_by(now, was, truth, questions, setting.level, setting.seed)
    return {
        "influence_left": left.influence_left,
        "residue": left.residue,
        "residue_size": left.residue_size,
        "ndcg": float(_ndcg(now, questions).mean()),
        "oracle_ndcg": float(_ndcg(truth, questions).mean()),
    }


def _answered(
    before: Method, forgotten: _Forgotten, oracle: Method, floor: Method, questions: Questions
) -> dict[str, Answers]:
    """Put the questions to the method, its controls and the oracle."""
    row_only = RowOnly(before)
    row_only.forget(forgotten.removal)
    idle = copy.deepcopy(before)
    idle.idle()
    models = (forgotten.method, before, row_only, idle, floor)
    said = {name: answers(model, questions) for name, model in zip(TREATMENTS, models, strict=True)}
    return said | {"oracle": answers(oracle, questions)}


def _ndcg(answer: Answers, questions: Questions) -> Any:
    return ndcg(top_items(answer.others, questions.seen), questions.wanted)


def _utility(said: Mapping[str, Answers], truth: Answers, questions: Questions) -> dict[str, Any]:
    """NDCG@10 and Recall@20 of those who stay, for every treatment and the oracle."""
    return {
        name: {
            "ndcg@10": float(_ndcg(answer, questions).mean()),
            "recall@20": float(recall(top_items(answer.others, questions.seen, 20), questions.wanted).mean()),
        }
        for name, answer in (*said.items(), ("retrain", truth))
    }


def _fairness(answer: Answers, truth: Answers, questions: Questions) -> dict[str, Any]:
    """NDCG@10 by activity and among those most like the forgotten, after and for the oracle."""
    after, oracle = _ndcg(answer, questions), _ndcg(truth, questions)
    groups = {f"activity {k + 1}": questions.groups == k for k in np.unique(questions.groups)}
    groups["like the forgotten"] = questions.neighbours
    table = {
        name: {"people": int(who.sum()), "ndcg@10": float(after[who].mean()),
               "oracle": float(oracle[who].mean())}
        for name, who in groups.items()
    }  # fmt: skip
    changes = [abs(row["ndcg@10"] - row["oracle"]) for row in table.values()]
    return {"groups": table, "largest_change": float(max(changes))}


def _efficiency(forgotten: _Forgotten, retrain: Used[Method], people: int) -> dict[str, Any]:
    spent = float(sum(forgotten.batch_seconds))
    return {
        "forget_seconds": spent,
        "median_batch_seconds": float(np.median(forgotten.batch_seconds)),
        "retrain_seconds": retrain.seconds,
        "time_to_retrain": float(np.median(forgotten.batch_seconds)) / retrain.seconds,
        "seconds_a_person": spent / people,
        "forget_peak_mib": forgotten.peak_mib,
        "retrain_peak_mib": retrain.peak_mib,
    }


def _attacks(setting: Setting, before: Method, after: Method, oracle: Method) -> dict[str, Any]:
    """Run the attacks that were asked for; one that cannot be run says why."""
    if not setting.attacks:
        return {}
    if setting.regime.interactions:
        return {name: {"not_run": "the attacks are on accounts"} for name in setting.attacks}

    def fit(rows: Interactions) -> Served:
        return before.retrained(rows, setting.seed).served()

    scene = Scene(
        before.served(), after.served(), setting.split.train, np.sort(setting.users), oracle.served(), fit,
        setting.seed,
    )  # fmt: skip
    results: dict[str, Any] = {}
    for name in setting.attacks:
        try:
            results[name] = asdict(ATTACKS[name](scene))
        except SceneError as error:
            results[name] = {"not_run": str(error)}
    return results
