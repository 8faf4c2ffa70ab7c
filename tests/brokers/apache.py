"""Apache Kafka itself in KRaft mode, from Maven Central's jars, on free ports of this machine.

Every node is broker and controller. Processes are started and killed by their id alone.
"""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from .certificates import Certificates

JARS = Path(os.environ.get("RECUNLEARN_KAFKA_JARS", Path.home() / ".cache" / "recunlearn" / "kafka"))
USER, PASSWORD = "worker", "correct-horse"
_START_SECONDS = 120
_JAVA = (
    "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
)  # fmt: skip
_SECURED = {
    "SSL": "SSL", "SASL_PLAINTEXT": "SASL_PLAINTEXT", "SASL_SSL": "SASL_SSL",
    "EXPIRED": "SSL", "ELSEWHERE": "SSL", "MUTUAL": "SSL",
}  # fmt: skip
"""Listener -> protocol, of a cluster with certificates."""

NETWORK = "NETWORK"
"""Listener in plain text whose advertised ports are a network's: what goes to them passes through it."""


def why_missing() -> str | None:
    """Say what a test with Apache Kafka lacks on this machine; None: nothing."""
    if shutil.which("java") is None:
        return "there is no java on the PATH; install a JDK 17"
    if not list(JARS.glob("kafka_2.13-*.jar")):
        return f"there are no jars of Apache Kafka in {JARS}; run: make kafka"
    return None


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on.

    Below those that the kernel gives to outgoing connections: one that is free now must be free again when
    a node comes back to it.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


class ApacheKafka:
    """A cluster; `with ApacheKafka(directory) as kafka: kafka.bootstrap_servers`."""

    def __init__(
        self,
        directory: Path,
        nodes: int = 1,
        certificates: Certificates | None = None,
        *,
        behind_network: bool = False,
    ) -> None:
        self.directory, self._certificates = directory, certificates
        listeners = ["PLAINTEXT", *(_SECURED if certificates else ()), *([NETWORK] if behind_network else ())]
        ports = iter(free_ports(nodes * (len(listeners) + 1)))
        self._controllers = {node: next(ports) for node in range(1, nodes + 1)}
        self._ports = {node: {name: next(ports) for name in listeners} for node in self._controllers}
        outside = free_ports(nodes if behind_network else 0)
        self._outside = dict(zip(self._controllers, outside, strict=False))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of the listeners in plain text."""
        return self.servers("PLAINTEXT")

    def servers(self, listener: str) -> str:
        """Addresses of one kind of listener."""
        return ",".join(f"127.0.0.1:{self._advertised(node, listener)}" for node in self._ports)

    @property
    def routes(self) -> Mapping[int, int]:
        """Port that a network must listen on -> the node's own port behind it."""
        return {outside: self._ports[node][NETWORK] for node, outside in self._outside.items()}

    def log_directory(self, node: int = 1) -> Path:
        """Where a node keeps its topics: ``TOPIC-PARTITION/*.log``."""
        return self.directory / f"node-{node}" / "data"

    def start(self) -> None:
        """Format and start every node, and wait until all listen."""
        formats = [self._format(node) for node in self._controllers]
        for process in formats:
            output, _ = process.communicate()
            assert process.returncode == 0, output.decode()
        for node in self._controllers:
            self.start_node(node)
        for node in self._controllers:
            self.wait_for_node(node)

    def start_node(self, node: int) -> None:
        """Start a node that is not running."""
        with (self.directory / f"node-{node}" / "output.txt").open("ab") as output:
            self._processes[node] = subprocess.Popen(
                self._command("kafka.Kafka", str(self._properties(node))),
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def wait_for_node(self, node: int) -> None:
        """Return when a node accepts connections."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._ports[node]["PLAINTEXT"]), 1).close()
            except OSError:
                ended = self._processes[node].poll() is not None
                if ended or time.monotonic() > deadline:
                    raise AssertionError(self._output(node)) from None
                time.sleep(0.05)
            else:
                return

    def kill_node(self, node: int) -> None:
        """SIGKILL a node and wait for its end."""
        self._processes[node].kill()
        self._processes.pop(node).wait()

    def stop(self) -> None:
        """Kill every node: what they hold is thrown away."""
        for node in list(self._processes):
            self.kill_node(node)

    def __enter__(self) -> "ApacheKafka":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _advertised(self, node: int, listener: str) -> int:
        return self._outside[node] if listener == NETWORK else self._ports[node][listener]

    def _command(self, main: str, *arguments: str) -> list[str]:
        return ["java", *_JAVA, "-cp", f"{JARS}/*", main, *arguments]

    def _properties(self, node: int) -> Path:
        return self.directory / f"node-{node}" / "server.properties"

    def _output(self, node: int) -> str:
        return (self.directory / f"node-{node}" / "output.txt").read_text(errors="replace")[-4000:]

    def _format(self, node: int) -> subprocess.Popen[bytes]:
        path = self._properties(node)
        path.parent.mkdir(parents=True)
        settings = self._settings(node)
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        users = [
            argument
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for argument in ("--add-scram", f"{mechanism}=[name={USER},password={PASSWORD}]")
        ]
        format_it = ("format", "-c", str(path), "-t", "cmVjdW5sZWFybi10ZXN0cw", *users)
        return subprocess.Popen(
            self._command("kafka.tools.StorageTool", *format_it),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _settings(self, node: int) -> Mapping[str, object]:
        ports = self._ports[node]
        copies = min(3, len(self._ports))
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
        advertised = ",".join(f"{name}://127.0.0.1:{self._advertised(node, name)}" for name in ports)
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT", NETWORK: "PLAINTEXT", **_SECURED}
        settings: dict[str, object] = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": ",".join(
                f"{other}@127.0.0.1:{port}" for other, port in self._controllers.items()
            ),
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{self._controllers[node]}",
            "advertised.listeners": advertised,
            "listener.security.protocol.map": ",".join(f"{name}:{p}" for name, p in protocols.items()),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.log_directory(node),
            "auto.create.topics.enable": "true",  # a source must not be the one that creates its topic
            "num.partitions": 1,
            "default.replication.factor": copies,
            "min.insync.replicas": max(1, copies - 1),
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": max(1, copies - 1),
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "replica.lag.time.max.ms": 3000,
            "controlled.shutdown.enable": "false",
            "log.retention.check.interval.ms": 500,
            "log.initial.task.delay.ms": 0,
            "file.delete.delay.ms": 100,
        }
        if self._certificates is not None:
            settings.update(_security(self._certificates))
        return settings


def _security(certificates: Certificates) -> Mapping[str, object]:
    """Keys of the listeners, and who may log in by which mechanism."""
    modules = "org.apache.kafka.common.security"
    plain = f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    scram = f"{modules}.scram.ScramLoginModule required;"
    oauth = f'{modules}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="{USER}";'
    settings: dict[str, object] = {"sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"}
    keys = {
        "ssl": certificates.good, "sasl_ssl": certificates.good,
        "expired": certificates.expired, "elsewhere": certificates.elsewhere, "mutual": certificates.good,
    }  # fmt: skip
    settings["listener.name.mutual.ssl.client.auth"] = "required"
    settings["listener.name.mutual.ssl.truststore.type"] = "PEM"
    settings["listener.name.mutual.ssl.truststore.location"] = certificates.authority
    for listener, key in keys.items():
        settings[f"listener.name.{listener}.ssl.keystore.type"] = "PEM"
        settings[f"listener.name.{listener}.ssl.keystore.location"] = key
    for listener in ("sasl_plaintext", "sasl_ssl"):
        prefix = f"listener.name.{listener}"
        settings[f"{prefix}.plain.sasl.jaas.config"] = plain
        settings[f"{prefix}.scram-sha-256.sasl.jaas.config"] = scram
        settings[f"{prefix}.scram-sha-512.sasl.jaas.config"] = scram
        settings[f"{prefix}.oauthbearer.sasl.jaas.config"] = oauth
    return settings
