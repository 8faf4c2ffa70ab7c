"""Ids for users who stay without their own: random, so that nothing leads back, and not taken."""

import secrets

import polars as pl

_LOWEST, _HIGHEST = 1 << 52, 1 << 53
"""Integers that JSON readers in every language still read exactly, above all that platforms count up to."""


def new_ids(users: pl.Series, taken: pl.Series) -> pl.DataFrame:
    """Draw a new id for each of ``users``, from the operating system's generator.

    Parameters
    ----------
    users : int64 or string.
    taken : of the same type: ids that a new one must not be.

    Returns
    -------
    Columns user_id, and new_id of the same type: integers from 2^52 to 2^53, or ``"anonymous-"`` and 32
    hexadecimal digits; unique.

    Examples
    --------
    >>> known = pl.Series(["anna", "bob", "cleo"])
    >>> ids = new_ids(known.head(2), known)["new_id"]
    >>> ids.n_unique(), ids.str.starts_with("anonymous-").all()
    (2, True)
    """
    known = set(taken.to_list()) if len(users) else set()
    drawn: dict[int | str, None] = {}
    while len(drawn) < len(users):
        one = _draw(users.dtype == pl.Int64)
        if one not in known:
            drawn[one] = None
    return pl.DataFrame({"user_id": users, "new_id": pl.Series(list(drawn), dtype=users.dtype)})


def under_new_ids(users: pl.Series, renamed: pl.DataFrame) -> pl.Series:
    """Put the new id in the place of the old one; the others stay.

    Parameters
    ----------
    renamed : as :func:`new_ids` gives it.

    Examples
    --------
    >>> under_new_ids(pl.Series([7, 42]), pl.DataFrame({"user_id": [7], "new_id": [5000]})).to_list()
    [5000, 42]
    """
    table = users.to_frame("user_id").join(renamed, on="user_id", how="left", maintain_order="left")
    return table.select(pl.coalesce("new_id", "user_id")).to_series().alias(users.name)


def _draw(is_integer: bool) -> int | str:
    if is_integer:
        return _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST)
    return f"anonymous-{secrets.token_hex(16)}"
