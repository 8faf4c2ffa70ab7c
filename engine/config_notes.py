"""What config.toml said when it was last taken over, so that what changed since can be named.

The file is people's to edit, so no checksum guards it: one would have to be renewed by hand. Instead the
ledger notes a keyed hash of each setting. A change is neither refused nor passed over: the next run names
the settings that are not what they were, in its log, and takes them over; until then ``verify`` names them.
What cannot be read as TOML, or is of another layout, is refused.
"""

import json
import logging
from collections.abc import Iterator
from itertools import chain
from typing import Any

from .fence import FenceKey
from .ledger import Ledger
from .state import Config, StatePaths, read_config

_log = logging.getLogger(__name__)
_NAME = "config.toml"


def changed_settings(ledger: Ledger, config: Config, key: FenceKey) -> list[str]:
    """Return the settings that changed, came or went since the configuration was noted, by their names."""
    noted = ledger.noted(_NAME)
    if noted is None:
        return []
    before, now = json.loads(noted), _hashes(config, key)
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def take_over(paths: StatePaths, ledger: Ledger, key: FenceKey, *, is_ours: bool = False) -> None:
    """Note what the configuration says, with a warning of what changed unless the change ``is_ours``."""
    config = read_config(paths)
    changed = changed_settings(ledger, config, key)
    if changed and not is_ours:
        _log.warning(
            "%s has changed since it was last read: %s; if nobody edited it, it is damaged",
            paths.config, ", ".join(changed),
        )  # fmt: skip
    if changed or ledger.noted(_NAME) is None:
        ledger.note(_NAME, json.dumps(_hashes(config, key)).encode())


def _hashes(config: Config, key: FenceKey) -> dict[str, str]:
    said = {"options": config.options, "models": config.models, **config.tables}
    settings = chain.from_iterable(_settings(table, name) for name, table in said.items())
    return {name: key.setting(name, value).hex() for name, value in settings}


def _settings(table: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each setting; of a table, in which order its own are.

    Examples
    --------
    >>> list(_settings({"due_days": 30}, "options"))
    [('options', "['due_days']"), ('options.due_days', '30')]
    """
    if not isinstance(table, dict):
        yield name, repr(table)
        return
    yield name, repr(list(table))
    for key, value in table.items():
        yield from _settings(value, f"{name}.{key}")
