"""Child processes of the demo: always stopped, their failures told."""

import os
import signal
import sys

import pytest
from recunlearn.eval import processes
from recunlearn.eval.processes import CommandError, child, interrupted_by_sigterm, run_command, uninterrupted


@pytest.fixture
def script(monkeypatch):
    """Let children run a Python text in place of recunlearn."""

    def use(text):
        monkeypatch.setattr(processes, "_COMMAND", [sys.executable, "-c", text])

    return use


WAITING = "import signal, sys; print('ready', flush=True); signal.pause()"
STUBBORN = (
    "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True)\nwhile True: signal.pause()"
)


@pytest.mark.parametrize("text", [WAITING, STUBBORN])
def test_a_child_is_gone_when_its_block_is_left(script, monkeypatch, text):
    """Polite or stubborn, after the block there is no such process, whatever went on inside."""
    script(text)
    monkeypatch.setattr(processes, "_PATIENCE_SECONDS", 0.2)

    def story():
        with child("run") as started:
            assert started.first_line() == "ready"
            started.check()
            pids.append(started.process.pid)
            raise RuntimeError("a story that ends badly")

    pids = []
    with pytest.raises(RuntimeError, match="badly"):
        story()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_child_that_fails_says_why(script):
    """A child that ends before it is ready is an error with its name and what it wrote."""
    script("import sys; sys.exit('the port is taken')")
    with child("serve") as started:
        with pytest.raises(CommandError, match=r"recunlearn serve ended before.*the port is taken"):
            started.first_line()
        started.process.wait()
        with pytest.raises(CommandError, match="exit code 1: the port is taken"):
            started.check()


def test_a_command_gives_its_json_whatever_its_exit_code(script):
    """What a command reports is its JSON, also when it says no; no JSON is an error with what it said."""
    script("import sys; print('{\"ok\": false}'); sys.exit(1)")
    assert run_command("verify") == {"ok": False}
    script("import sys; sys.exit('no such state')")
    with pytest.raises(CommandError, match="recunlearn fit ended with exit code 1: no such state"):
        run_command("fit")


def test_an_interrupt_waits_until_a_block_is_done():
    """Ctrl-C inside an uninterrupted block is kept back to its end, and not lost; so is SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        steps = []

        def block(number=number, steps=steps):
            with uninterrupted():
                signal.raise_signal(number)
                steps.append("done")
            steps.append("never")

        with pytest.raises(KeyboardInterrupt):
            block()
        assert steps == ["done"]


def test_sigterm_interrupts_a_story():
    """SIGTERM unwinds like Ctrl-C, and afterwards means again what it meant before."""
    before = signal.getsignal(signal.SIGTERM)

    def story():
        with interrupted_by_sigterm():
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        story()
    assert signal.getsignal(signal.SIGTERM) is before
