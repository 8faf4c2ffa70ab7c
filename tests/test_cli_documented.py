"""Every command is documented: in its help, in the reference, and by an example that runs."""

import re
from pathlib import Path

import pytest
import typer.main
from recunlearn import cli

ROOT = Path(__file__).parent.parent
SHOWN_ELSEWHERE = {
    "demo": "make demo", "evaluate": "docs/reference/cli.md", "bench": "make bench",
}  # fmt: skip
"""Commands that take minutes: no page runs them; where they are shown, or run, instead."""


def _commands(group, path=()):
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))


COMMANDS = [pytest.param(path, command, id=" ".join(path))
            for path, command in _commands(typer.main.get_command(cli.app))]  # fmt: skip


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_a_command_and_each_of_its_options_has_help(path, command):
    """One sentence for the command, one for each option and argument."""
    assert command.help.strip().endswith(".")
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help, f"{' '.join(path)}: {parameter.opts} has no help"


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_a_command_is_in_the_reference(path, command):
    """The reference has a heading for it and names every option."""
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    _, found, rest = reference.partition(f"\n## recunlearn {' '.join(path)}\n")
    assert found
    section = rest.partition("\n## ")[0]
    for parameter in command.params:
        if parameter.name != "help" and parameter.opts[0].startswith("-"):
            assert f"`{parameter.opts[0]}" in section


@pytest.mark.parametrize(("path", "command"), COMMANDS)
def test_a_command_is_shown_by_an_example_that_runs(path, command):
    """A console block of the README or the docs runs it; tests/test_docs.py runs those."""
    del command
    shown = "\n".join(
        "\n".join(re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
        for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    )
    if path[0] in SHOWN_ELSEWHERE:
        return
    words = " ".join(path)
    assert re.search(rf"^\$ recunlearn {words}\b", shown, re.MULTILINE), f"no page runs: recunlearn {words}"
