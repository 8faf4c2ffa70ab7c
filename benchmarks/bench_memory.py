"""What is left of an erased user in a running server's memory: all of it is read, as a core dump would be.

    python benchmarks/bench_memory.py --json memory.json

A user with a unique id and unique items is served over HTTP (or not, ``--unasked``), then erased by a worker;
the server swaps. Before, after, and some time and requests later, every readable mapping of the server's
processes is searched for the id and the items, in UTF-8 and UTF-16, and so is the state directory by
``grep -r``. Linux, and the right to read the process (its owner, or root).
"""

import argparse
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import turns
from rich.console import Console
from rich.table import Table

PLANTED = "planted-user-4711"
ITEMS = [f"planted-item-{k:03d}" for k in range(40)]
NEEDLES = {"the user": PLANTED, "the items": "planted-item-"}
_CHUNK = 1 << 24


def data(users: int) -> pl.DataFrame:
    """Make interactions of people, and of one whose id and items are unique."""
    rows = [
        (f"person-{user:05d}", f"film-{(user * 7 + 3 * k) % 500:03d}")
        for user in range(users)
        for k in range(9)
    ]
    rows += [(PLANTED, item) for item in ITEMS] + [(PLANTED, "film-000")]
    return pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").with_columns(value=pl.lit(1.0))


def recunlearn(*arguments: object) -> str:
    """Run a command of recunlearn's to its end; returns what it printed."""
    command = [sys.executable, "-m", "recunlearn.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def processes(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(child for each in children for child in processes(int(each)))]


def found_in(pid: int) -> Counter[str]:
    """Search every readable mapping of a process; returns "what, where" -> how often."""
    found: Counter[str] = Counter()
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights, _, _, _, *name = line.split(maxsplit=5)
            where = name[0] if name else "allocated"
            if "r" not in rights or where in ("[vvar]", "[vsyscall]", "[vvar_vclock]"):
                continue
            start, stop = (int(each, 16) for each in span.split("-"))
            for what, count in _occurrences(memory, start, stop).items():
                found[f"{what}, {_kind(where)}"] += count
    return found


def _kind(where: str) -> str:
    if where.startswith("/"):
        return f"file {Path(where).name}"
    return "memory"


def _occurrences(memory: Any, start: int, stop: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for place in range(start, stop, _CHUNK):
        try:
            memory.seek(place)
            content = memory.read(min(_CHUNK, stop - place))
        except (OSError, ValueError, OverflowError):
            continue
        for what, text in NEEDLES.items():
            for form in (text.encode(), text.encode("utf-16-le")):
                counts[what] += len(re.findall(re.escape(form), content))
    return +counts


def grep(folder: Path) -> list[str]:
    """Search a folder by ``grep -r``, in UTF-8 and UTF-16; returns the files."""
    wide = "|".join("".join(f"{letter}\\x00" for letter in text) for text in NEEDLES.values())
    plain = [part for text in NEEDLES.values() for part in ("-e", text)]
    found: list[str] = []
    for options in (["-raFl", *plain], ["-raPl", wide]):
        done = subprocess.run(
            ["grep", *options, "."], cwd=folder, capture_output=True, text=True, check=False,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        found += done.stdout.splitlines()
    return sorted(found)


def get(port: int, path: str) -> tuple[int, bytes]:
    """Ask the server over a connection of its own; returns status and body."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def ask(port: int, user: str) -> int:
    """Ask for recommendations; returns the status."""
    return get(port, f"/v1/users/{user}/recommendations")[0]


def measure(folder: Path, users: int, asked: bool, later: int) -> list[dict[str, Any]]:
    """Serve, erase, swap; what is found at each moment."""
    state, log = folder / "state", folder / "log"
    log.mkdir()
    data(users).write_parquet(folder.parent / "data.parquet")
    recunlearn("fit", "--data", folder.parent / "data.parquet", "--state", state, "--model", "item_knn")
    command = [sys.executable, "-m", "recunlearn.cli", "serve", "--state", str(state), "--port", "0"]
    with (log / "serve.txt").open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().rpartition(":")[2])
        people = [f"person-{k % users:05d}" for k in range(later)]
        if asked:
            assert ask(port, PLANTED) == 200
        ask(port, people[0])
        rows = [row("served", server.pid, folder)]
        recunlearn("forget", "--state", state, "--user", PLANTED)
        ran = recunlearn("run", "--state", state, "--once")
        (log / "run.txt").write_text(ran)
        deadline = time.monotonic() + 60
        while served_version(port) != 2:
            assert time.monotonic() < deadline, "the server did not swap"
            time.sleep(0.1)
        rows.append(row("swapped", server.pid, folder))
        for person in people:
            ask(port, person)
        rows.append(row(f"after {later} requests", server.pid, folder))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    return rows


def served_version(port: int) -> int:
    """Return which version the server says that it serves."""
    return int(json.loads(get(port, "/readyz")[1])["version"])


def row(moment: str, pid: int, folder: Path) -> dict[str, Any]:
    """Search the server's processes and the folder."""
    found: Counter[str] = sum((found_in(each) for each in processes(pid)), Counter())
    return {"moment": moment, "memory": dict(found), "grep": grep(folder)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--unasked", action="store_true", help="nobody asks for the user before")
    parser.add_argument("--later", type=int, default=1_000, help="requests of others after the swap")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "all"
        folder.mkdir()
        os.environ["TMPDIR"] = str(folder)
        rows = measure(folder, options.users, not options.unasked, options.later)
    table = Table("moment", "found in memory", "found by grep -r")
    for each in rows:
        memory = "\n".join(f"{count:,} x {what}" for what, count in each["memory"].items())
        table.add_row(each["moment"], memory or "nothing", "\n".join(each["grep"]) or "nothing")
    Console(width=130).print(table)
    turns.write(options.json, memory=rows)


if __name__ == "__main__":
    main()
