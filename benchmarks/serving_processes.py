"""The real processes that the serving benchmark measures, and what the system says of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from recunlearn.engine.state import StatePaths
from recunlearn.engine.version import read_current
from recunlearn.streaming.journal import append

COMMAND = [sys.executable, "-c", "from recunlearn.cli import main; main()"]
_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Running:
    """A process that was started here.

    Attributes
    ----------
    url : where it answers, if it does.
    """

    process: subprocess.Popen[str]
    url: str = ""

    def cpu(self) -> float:
        """Return the seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _HZ

    def held(self) -> dict[str, float]:
        """Return its resident memory without shared pages, in MiB, its file descriptors and its maps."""
        folder = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        return {
            "memory MiB": int(status["RssAnon"].split()[0]) / 1024,
            "all MiB": int(status["VmRSS"].split()[0]) / 1024,
            "descriptors": len(list((folder / "fd").iterdir())),
            "maps": len((folder / "maps").read_text().splitlines()),
        }


@contextmanager
def started(
    *arguments: str, says_url: bool = False, nice: int = 0, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a command until the block ends; it must not have ended by itself."""
    process = subprocess.Popen(
        ["nice", "-n", str(nice), *arguments],
        stdout=subprocess.PIPE if says_url else subprocess.DEVNULL,
        text=True,
        env={**os.environ, **(env or {})},
    )
    try:
        url = process.stdout.readline().split()[-1] if says_url and process.stdout else ""
        yield Running(process, url)
        assert process.poll() is None, f"{arguments} ended with {process.returncode}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def fit(folder: Path, frame: pl.DataFrame, models: list[str], name: str = "state") -> Path:
    """Fit the models from a file, as people do; returns the state directory."""
    data, state = folder / f"{name}.parquet", folder / name
    frame.write_parquet(data)
    chosen = [argument for model in models for argument in ("--model", model)]
    subprocess.run(
        [*COMMAND, "fit", "--data", str(data), "--state", str(state), *chosen, "--json"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return state


def erase(state: Path, user: str) -> None:
    """Append one account deletion to the journal."""
    event = {"id": f"e-{user}", "type": "account.deleted", "user_id": user}
    append(state / "journal", [json.dumps(event).encode()])


def await_version(paths: StatePaths, after: int, seconds: float = 120) -> tuple[int, str, float]:
    """Wait until a version after ``after`` is published: its number, its digest, and when it was seen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        number, digest = read_current(paths)
        if number > after:
            return number, digest, time.time()
        time.sleep(0.002)
    raise TimeoutError(f"no version after {after} in {seconds} s; does the worker run?")
