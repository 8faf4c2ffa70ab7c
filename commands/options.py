"""Where a command's options come from: flag, environment, ``--config FILE``, the state, default.

The environment's names are ``RECUNLEARN_COMMAND_OPTION``. In a file, table ``[run]`` has the options of
``recunlearn run``, spelt with underscores; ``[kafka]`` has those that say how Kafka is reached, for every
command that has them. A key that no option has is refused: a setting that silently does nothing is worse.
"""

import functools
import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

PREFIX = "RECUNLEARN"
"""What the names of environment variables begin with."""

_KAFKA = "kafka"
_OF_THE_STATE = {
    "format": "dead letters are read by it too",
    "export": "no run may forget a store that holds somebody",
}
"""Table -> why it is no option of one run."""


def read_tables(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises
    ------
    typer.BadParameter
        It cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is not readable TOML: {error}") from None


def take_config(context: typer.Context, path: Path | None) -> Path | None:
    """Keep the tables of the global ``--config FILE`` for the command that follows: its callback."""
    if path is not None:
        context.obj = read_tables(path)
        for name, why in _OF_THE_STATE.items():
            if name in context.obj:
                raise typer.BadParameter(f"{path} has [{name}]: write it into the state's config.toml: {why}")
    return path


def take_state(context: typer.Context, state: Path) -> Path:
    """Make what the files say the defaults of the other options: the callback of ``--state``."""
    given = context.obj if isinstance(context.obj, Mapping) else {}
    config = state / "config.toml"
    kept = read_tables(config) if config.is_file() else {}
    context.default_map = {**_defaults(context, kept, config.name), **_defaults(context, given, "--config")}
    return state


def _defaults(context: typer.Context, tables: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return parameter -> value, as the tables of this command have it."""
    names = {
        option.lstrip("-").replace("-", "_"): str(parameter.name)
        for parameter in context.command.params
        for option in parameter.opts
    }
    path = _path(context)
    own: Any = tables
    for name in path:
        own = own.get(name, {}) if isinstance(own, Mapping) else {}
    found = {}
    for table, content in ((_KAFKA, tables.get(_KAFKA, {})), (".".join(path), own)):
        if table == _KAFKA and "bootstrap_servers" not in names:
            continue
        for key, value in content.items():
            if key not in names:
                hint = "; a secret belongs into a file or the environment" if "password" in key else ""
                raise typer.BadParameter(f"{where} has [{table}] {key}: there is no such option{hint}")
            found[names[key]] = value
    return found


def _path(context: typer.Context) -> list[str]:
    """Return the words of a command, without the program's name."""
    words: list[str] = []
    while context.parent is not None:
        words.insert(0, str(context.info_name))
        context = context.parent  # type: ignore[assignment]  # every context here is typer's
    return words


def flattened(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take a dataclass of options as one argument: each field is an option.

    The fields' types carry ``typer.Option`` as those of arguments do.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        kinds = get_type_hints(groups[parameter.name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=kinds[field.name],
            )
            for field in fields(groups[parameter.name])
        ]

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        grouped = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **grouped)

    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect.signature looks at
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    )
    flat.__annotations__ = {one.name: one.annotation for one in parameters}
    return flat
