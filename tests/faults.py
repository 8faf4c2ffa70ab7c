"""Kills at random: the worker, the leader of a partition, the network; until a stream was worked off."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter

from kafka import KafkaAdminClient


class Supervised:
    """A worker as a supervisor runs it: started again whenever it ended; ``endings`` that nobody caused."""

    def __init__(self, arguments, log):
        self._arguments, self._log = arguments, log
        self.starts, self.endings = 0, []
        self._lock, self._ends, self._killed = threading.Lock(), False, False
        self._process = self._start()
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        self._thread.start()

    def _start(self):
        self.starts += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "recunlearn.cli", *map(str, self._arguments)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "POLARS_MAX_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip

    def _look_after(self):
        while True:
            code = self._process.wait()
            with self._lock:
                if self._ends:
                    return
                if not self._killed:
                    self.endings.append(code)
                self._killed = False
                self._process = self._start()

    def kill(self):
        """SIGKILL it; the next one starts at once."""
        with self._lock:
            self._killed = self._process.poll() is None
            self._process.kill()

    def stop(self):
        """End it as an operator does; returns the exit code."""
        with self._lock:
            self._ends = True
        self._process.terminate()
        try:
            return self._process.wait(90)
        finally:
            self._process.kill()
            self._thread.join()


KINDS = ("worker_killed", "leader", "cut", "silent")
"""What fails in a short run."""

LONG_KINDS = (*KINDS, "worker_killed", "leader", "forgotten", "outage")
"""In a long one, in shares: also connections that are forgotten, which takes the client half a minute to
notice, and outages longer than the client waits for a broker."""


class Faults:
    """Draws what fails next, lets it fail, and makes it good again before the next; ``pace``: 1 is slow."""

    def __init__(self, seed, kinds, pace, cluster, network, worker, topics):
        self._draw = random.Random(seed)  # noqa: S311  a seed, not a secret
        self._kinds, self._pace, self._left = kinds, pace, []
        self._cluster, self._network, self._worker, self._topics = cluster, network, worker, topics
        self.done = Counter()

    def one(self):
        """Let one thing fail, and wait until it is made good."""
        self._left = self._left or self._draw.sample(self._kinds, len(self._kinds))
        kind = self._left.pop()
        getattr(self, f"_{kind}")()
        self.done[kind] += 1

    def wait(self, at_most):
        """Wait for some time at random."""
        time.sleep(self._pace * self._draw.uniform(0.0, at_most))

    def _worker_killed(self):
        self._worker.kill()

    def _leader(self):
        node = leader(self._cluster, self._draw.choice(self._topics), self._draw.random())
        self._cluster.kill_node(node)
        self.wait(4.0)
        self._cluster.start_node(node)
        self._cluster.wait_for_node(node)

    def _cut(self):
        self._network.cut()
        self.wait(4.0)
        self._network.heal()

    def _outage(self):
        self._network.cut()
        time.sleep(32.0)
        self.wait(10.0)
        self._network.heal()

    def _silent(self):
        self._network.silence()
        self.wait(8.0)
        self._network.heal()

    def _forgotten(self):
        self._network.silence()
        self.wait(1.0)
        self._network.heal(keep=False)


def leader(cluster, topic, which=0.0):
    """Return the node that leads a partition of a topic; ``which``: the partition, as a share of them all."""
    admin = KafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
    try:
        deadline = time.monotonic() + 60
        while True:
            (found,) = admin.describe_topics([topic])
            partitions = found["partitions"]
            node = partitions[int(which * len(partitions))]["leader_id"] if partitions else -1
            if node > 0:
                return node
            assert time.monotonic() < deadline, f"{topic} has no leader"
            time.sleep(0.1)
    finally:
        admin.close()
