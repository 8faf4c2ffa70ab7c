"""What a fit takes in: everything but what the fence keeps out, whatever file it comes in."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

import polars as pl

from .fence import FenceKey
from .ledger import Ledger

_log = logging.getLogger(__name__)


Admit: TypeAlias = Callable[[pl.DataFrame], tuple[pl.DataFrame, int]]
"""Interactions -> those that are let in, and how many users were refused."""


def admission(ledger: Ledger, key: FenceKey) -> Admit:
    """Read the fence: who and what is left out, and what users had before they were admitted again.

    Users who wait to be anonymised stay in: they are served no more, and the next cycle gives them other ids.

    Returns
    -------
    A function that takes interactions, as :func:`~.interactions.canonical_frame` gives them, ``time``
    (optional) a Datetime with a zone or Unix seconds; and gives those that are let in, and how many users
    were refused. O(users) hashes, and one for each interaction of a user with a fenced one.
    """
    users, (pairs, owners) = ledger.fenced_users() - ledger.to_be_anonymised(), ledger.fenced_pairs()
    admitted = ledger.admitted_since()
    if not (users or pairs or admitted):
        return lambda frame: (frame, 0)

    def admit(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
        known = frame["user_id"].unique()
        hashes = [key.user(user) for user in known.to_list()]
        refused = known.filter(pl.Series([digest in users for digest in hashes], dtype=pl.Boolean))
        partly = known.filter(pl.Series([digest in owners for digest in hashes], dtype=pl.Boolean))
        kept = frame.filter(~pl.col("user_id").is_in(refused.implode()))
        candidates = kept.filter(pl.col("user_id").is_in(partly.implode())).select("user_id", "item_id")
        erased = [key.pair(user, item) in pairs for user, item in candidates.iter_rows()]
        kept = kept.join(
            candidates.filter(pl.Series(erased, dtype=pl.Boolean)),
            on=["user_id", "item_id"],
            how="anti",
            maintain_order="left",
        )
        since = pl.DataFrame(
            {"user_id": known, "_since": [admitted.get(digest) for digest in hashes]},
            schema_overrides={"_since": pl.Float64},
        )
        return _since_admitted(kept, since.drop_nulls()), len(refused)

    return admit


def _since_admitted(frame: pl.DataFrame, since: pl.DataFrame) -> pl.DataFrame:
    """Leave out what is older than its user's re-admission; what has no time cannot be told, and stays."""
    if not len(since):
        return frame
    dated = frame.join(since, on="user_id", how="left", maintain_order="left")
    undated = pl.col("_since").is_not_null()
    if "time" in frame.columns:
        dated = dated.filter(
            pl.col("_since").is_null()
            | pl.col("time").is_null()
            | (_seconds(frame) >= pl.col("_since").floor())
        )
        undated &= pl.col("time").is_null()
    if count := dated.select(undated.sum()).item():
        _log.warning(
            "%d interactions of users who were admitted again have no time: if they are new is not known",
            count,
        )
    return dated.drop("_since")


def _seconds(frame: pl.DataFrame) -> pl.Expr:
    dtype = frame.schema["time"]
    if isinstance(dtype, pl.Datetime):
        epoch = datetime.fromtimestamp(0, UTC if dtype.time_zone else None)
        return (pl.col("time") - pl.lit(epoch, dtype)).dt.total_seconds()
    return pl.col("time")
