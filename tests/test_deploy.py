"""The files in deploy/ say what the program understands: every option exists, every file parses."""

import configparser
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml
from recunlearn import cli

DEPLOY = Path(__file__).parent.parent / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def understands(arguments):
    """Parse a command line as the program does, without running it."""
    name, *rest = arguments
    command = typer.main.get_command(cli.app).commands[name]
    with command.make_context(name, list(rest)) as context:
        return context.params


def read_compose():
    """Read the compose file."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def test_the_compose_files_commands_are_understood():
    """Worker and server get options that exist, and share the state; the topics are those that are used."""
    services = read_compose()["services"]
    worker, server = (understands(services[name]["command"]) for name in ("worker", "server"))
    assert (worker["source"], worker["topic"]) == ("kafka", "deletions")
    assert worker["state"] == server["state"]
    made = services["topics"]["command"][-1]
    for topic in (worker["topic"], worker["announce_topic"], worker["receipts_topic"]):
        assert f"--topic {topic} " in made
    assert f":{worker['metrics_port']}/readyz" in services["worker"]["healthcheck"]["test"][-1]
    assert int(services["worker"]["stop_grace_period"].rstrip("s")) > worker["stop_within"]
    understands([*services["fit"]["entrypoint"][1:], "--data", "d.csv"])


def test_what_services_wait_for_is_there():
    """A misspelt service, volume or condition is found here, not on the host."""
    compose = read_compose()
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        named = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in named if not name.startswith(".")} <= set(compose["volumes"])
    assert compose["services"]["kafka"]["image"] == compose["services"]["topics"]["image"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_units_command_is_understood_and_may_write_its_state(unit):
    """Options exist; the state is writable; the supervisor waits longer than the worker needs to stop."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(unit.read_text(encoding="utf-8"))
    service = parser["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    options = understands(arguments)
    assert program.endswith("/recunlearn")
    assert service["ReadWritePaths"] == str(options["state"])
    assert int(service["TimeoutStopSec"]) > options.get("stop_within", 0)
    assert service["RestartPreventExitStatus"] == "2"
