"""A solve makes way: which threads take a lower place, which keep theirs, and that the result is the same."""

import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from recunlearn.engine import scheduling
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.scheduling import NICE, thread_that_makes_way
from recunlearn.engine.snapshot import load_snapshot
from recunlearn.streaming.journal import Journal, append
from recunlearn.streaming.worker import Worker

from .popularity import Popularity, interactions

ROWS = [(user, item) for user in range(1, 9) for item in range(user % 3, 5)]
EVENT = b'{"id": "e-1", "type": "account.deleted", "user_id": 1}'


def place():
    """Return the calling thread's policy and nice value."""
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.fixture(params=["low", "idle"])
def lower(request):
    """Name each place, and what the system says of a thread that has it, from the place of this process."""
    policy, nice = place()
    return request.param, {"low": (policy, max(NICE, nice)), "idle": (os.SCHED_IDLE, nice)}[request.param]


def test_only_the_threads_that_solve_take_a_lower_place(lower):
    """The executor's thread and those of libraries do; the main thread and Python's others keep theirs."""
    name, expected = lower
    script = f"""
import os, threading
import numpy as np
from recunlearn.engine.scheduling import _library_threads, thread_that_makes_way

np.ones((600, 600)) @ np.ones((600, 600))  # BLAS has its threads
go_on, pythons = threading.Event(), threading.Thread(target=lambda: go_on.wait(60))
pythons.start()

def place(thread):
    return os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)

before = _library_threads()
with thread_that_makes_way({name!r}) as executor:
    solving = executor.submit(threading.get_native_id).result()
    assert place(solving) == {expected!r}, place(solving)
    assert before and all(place(thread) == {expected!r} for thread in before), before
    assert place(threading.get_native_id()) == {place()!r}
    assert place(pythons.native_id) == {place()!r}
go_on.set()
"""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env=env)


def test_a_solve_that_makes_way_leaves_a_core_alone(lower):
    """Numba and BLAS work for it on all cores but one, never on more threads than they were told."""
    script = f"""
import os, sys
import numba
from recunlearn.engine.scheduling import thread_that_makes_way
from threadpoolctl import threadpool_info
import numpy, scipy.linalg.blas

def threads():
    libraries = [each for each in threadpool_info() if each["user_api"] == "blas"]
    return numba.get_num_threads(), {{each["num_threads"] for each in libraries}}

before, told = threads(), int(sys.argv[1])
assert before == (told, {{told}}), before
expected = min(told, max(1, len(os.sched_getaffinity(0)) - 1))
with thread_that_makes_way({lower[0]!r}) as executor:
    solving = executor.submit(threads).result()
    assert solving == (expected, {{expected}}), solving
assert numba.get_num_threads() == told
"""
    for told in {1, min(4, len(os.sched_getaffinity(0)))}:
        env = {**os.environ, "OPENBLAS_NUM_THREADS": str(told), "NUMBA_NUM_THREADS": str(told)}
        subprocess.run([sys.executable, "-c", script, str(told)], check=True, timeout=120, env=env)


def test_the_solve_makes_way_and_the_thread_that_fences_does_not(lower, tmp_path, monkeypatch):
    """In a worker, a model forgets in the lower place, and events are polled in the place of the process."""
    name, expected = lower
    places = {}
    plain_forget, plain_poll = Popularity._forget, Journal.poll

    def forget(self, change):
        places["solve"] = place()
        plain_forget(self, change)

    def poll(self, *arguments):
        places["poll"] = place()
        return plain_poll(self, *arguments)

    monkeypatch.setattr(Popularity, "_forget", forget)
    monkeypatch.setattr(Journal, "poll", poll)
    fit(tmp_path, interactions(ROWS), {"popularity": {}})
    append(tmp_path / "journal", [EVENT])
    with _lower_thread_alone(monkeypatch, name) as executor, Engine.open(tmp_path, executor) as engine:
        assert Worker(engine, lambda: Journal(tmp_path / "journal"), once=True).run().erased == 1
    assert places == {"solve": expected, "poll": place()}
    assert not load_snapshot(tmp_path).has_user(1)


def _lower_thread_alone(monkeypatch, name):
    """Make the executor, and leave this process's library threads, which other tests use, where they are."""
    monkeypatch.setattr(scheduling, "_library_threads", set)
    return thread_that_makes_way(name)


def test_what_is_published_does_not_depend_on_where_it_is_solved(tmp_path, monkeypatch):
    """The same batch, on the executor and without it: the same arrays, bit for bit."""
    arrays = []
    for folder, executor in (("apart", _lower_thread_alone(monkeypatch, "low")), ("here", None)):
        state = tmp_path / folder
        fit(state, interactions(ROWS), {"popularity": {}, "item_knn": {}})
        append(state / "journal", [EVENT])
        with Engine.open(state, executor) as engine:
            Worker(engine, lambda state=state: Journal(state / "journal"), once=True).run()
        models = load_snapshot(state, mapped=False)._models
        arrays.append([array for model in models.values() for array in model.published().values()])
        if executor is not None:
            executor.shutdown()
    for apart, here in zip(*arrays, strict=True):
        dense = [one.toarray() if hasattr(one, "toarray") else np.asarray(one) for one in (apart, here)]
        assert np.array_equal(*dense)


def test_an_error_in_a_solve_comes_out_where_it_was_asked_for(tmp_path, monkeypatch):
    """A model that cannot forget on the executor fails its request as anywhere else."""

    def broken(self, change):
        raise ArithmeticError

    fit(tmp_path, interactions(ROWS), {"popularity": {}})
    append(tmp_path / "journal", [EVENT])
    monkeypatch.setattr(Popularity, "_forget", broken)
    with _lower_thread_alone(monkeypatch, "low") as executor, Engine.open(tmp_path, executor) as engine:
        report = Worker(engine, lambda: Journal(tmp_path / "journal"), once=True).run()
    assert (report.erased, report.failed) == (0, 1)


def test_a_system_that_forbids_it_is_said_and_worked_with(monkeypatch, caplog):
    """A sandbox may forbid the call: a warning, and the work is done all the same."""

    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    with caplog.at_level(logging.WARNING), thread_that_makes_way("idle") as executor:
        assert executor.submit(sum, [1, 2]).result() == 3
    assert "Operation not permitted" in caplog.text
