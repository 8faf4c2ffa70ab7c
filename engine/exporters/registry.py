"""The kinds of stores, and what ``[[export]]`` in config.toml says of each store."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..state import StateError, StatePaths, read_config, read_secret
from .protocol import StoreError, StoreSettings, VectorStore

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def _redis(settings: StoreSettings) -> VectorStore:
    from .redis import RedisStore

    return RedisStore(settings)


def _pgvector(settings: StoreSettings) -> VectorStore:
    from .pgvector import PgVectorStore

    return PgVectorStore(settings)


KINDS: dict[str, Callable[[StoreSettings], VectorStore]] = {"redis": _redis, "pgvector": _pgvector}
"""Kind -> what makes a connection, and imports its driver then."""


def store_settings(paths: StatePaths) -> list[StoreSettings]:
    """Read the ``[[export]]`` tables of a state.

    Raises
    ------
    StateError
        One of them cannot be used; the message names it, and never shows a password.
    """
    tables = read_config(paths).tables.get("export", [])
    if not isinstance(tables, Sequence) or not all(isinstance(table, Mapping) for table in tables):
        raise StateError(f"{paths.config}: write each store as a table [[export]], in double brackets")
    settings = [_settings(paths, table) for table in tables]
    names = [one.name for one in settings]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StateError(f"{paths.config} has [[export]] {twice[0]} twice; each store has a name of its own")
    return settings


def open_store(settings: StoreSettings) -> VectorStore:
    """Make a store of its kind.

    Raises
    ------
    StateError
        Its driver is not installed, or an option is none of its kind's.
    """
    try:
        return KINDS[settings.kind](settings)
    except ImportError as error:
        raise StateError(
            f"[[export]] {settings.name}: {error.name or settings.kind} is not installed; "
            f"pip install 'recunlearn[{settings.kind}]'"
        ) from None
    except StoreError as error:
        raise StateError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise StateError(f"[[export]] {settings.name}: an option is not of its type: {error}") from None


def _settings(paths: StatePaths, table: Mapping[str, Any]) -> StoreSettings:
    name, kind, url = (table.get(key) for key in ("name", "kind", "url"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StateError(f"{paths.config}: [[export]] name {name!r}: small letters, digits and - only")
    if kind not in KINDS:
        raise StateError(f"{paths.config}: [[export]] {name} has kind {kind!r}; there are {', '.join(KINDS)}")
    if not isinstance(url, str):
        raise StateError(f"{paths.config}: [[export]] {name} has no url")
    variable = f"RECUNLEARN_EXPORT_{name.upper().replace('-', '_')}_PASSWORD"
    if "password" in table or urlsplit(url).password is not None or "password=" in url:
        raise StateError(
            f"{paths.config}: [[export]] {name} has a password in it, where others can read it: "
            f"put it into a file and name that (password_file), or into {variable}"
        )
    options = {key: table[key] for key in table if key not in ("name", "kind", "url", "password_file")}
    return StoreSettings(name, kind, url, _password(paths, name, table, variable), options)


def _password(paths: StatePaths, name: str, table: Mapping[str, Any], variable: str) -> str | None:
    if "password_file" not in table:
        return os.environ.get(variable)
    file = paths.root / str(table["password_file"])
    try:
        return read_secret(file).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"[[export]] {name}: {file} cannot be read as a password: {error}") from None
