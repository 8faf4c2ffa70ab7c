"""Build the site: `python docs/build.py [OUT]`. The pages that are made from the code are made first.

`python docs/build.py --generate` makes those alone. tests/test_docs.py compares them with the code. Pictures
are taken unless OUT is given, where there is a browser; with CI=true it is an error if there is none.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
OUT = DOCS.parent / "site"
MODELS = ("SpectralMF", "CanonicalMF", "EASE", "ItemKNN", "ForgettableALS", "ShardedMF")


def generated() -> Mapping[Path, str]:
    """Make the pages that are made from the code: path -> text."""
    return {DOCS / "reference" / "cli.md": cli_reference()}


def cli_reference() -> str:
    """Describe every command and option, from the command line itself."""
    import typer.main
    from recunlearn import cli

    group = typer.main.get_command(cli.app)
    parts = [
        "<!-- Made by docs/build.py from commands/: change the help there, then run `make docs`. -->\n"
        "# The command line\n\n"
        f"{group.help}\n\n"
        "Exit codes: 0 done, 1 not so (a message says what), 2 wrong use, 3 requests failed or records set "
        "aside; 130 interrupted.\nOptions that repeat are given once for each value. "
        "`recunlearn --version` prints the version.\n"
    ]
    parts += [_section(path, command) for path, command in _commands(group)]
    return "\n".join(parts)


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))


def _section(path: tuple[str, ...], command: Any) -> str:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    usage = " ".join(["recunlearn", *path, *(p.name.upper() for p in arguments), "[OPTIONS]"])
    lines = [f"## recunlearn {' '.join(path)}", "", command.help.strip(), "", f"    {usage}", ""]
    rows = [_row(p) for p in command.params if p.name != "help"]
    if rows:
        lines += ["| | | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if not parameter.opts[0].startswith("-"):
        names = f"`{parameter.name.upper()}`"
    default = parameter.default
    if parameter.required:
        default = "required"
    elif parameter.multiple or default is None or default is False:
        default = "repeats" if parameter.multiple else ""
    else:
        default = f"`{default}`"
    return f"| {names} | {(parameter.help or '').replace('|', chr(92) + '|')} | {default} |"


def main(arguments: list[str]) -> int:
    """Make the generated pages, then the site."""
    out = next((Path(word) for word in arguments if not word.startswith("-")), None)
    if out is None:  # a check builds elsewhere, and must not touch the sources
        for path, text in generated().items():
            path.write_text(text, encoding="utf-8")
    if "--generate" in arguments:
        return 0
    from sphinx.cmd.build import build_main

    with tempfile.TemporaryDirectory() as work:
        options = ["-W", "--keep-going", "-q", "-b", "html", "-d", f"{work}/doctrees"]
        if out is None and _take_pictures(Path(work) / "pictures"):
            options += ["-D", f"html_extra_path={work}/pictures", "-D", "pictures=1"]
        return build_main([*options, str(DOCS), str(out or OUT)])


def _take_pictures(folder: Path) -> bool:
    """Take pictures of the page that is served; tells whether there are any."""
    from pictures import NoPicturesError, take_pictures

    try:
        return bool(take_pictures(folder))
    except NoPicturesError as error:
        if os.environ.get("CI") == "true":
            raise
        print(f"no pictures of the page: {error}", file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
