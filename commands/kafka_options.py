"""The options that say how Kafka is reached: the same for every command that talks to it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import not_so, wrong_use

if TYPE_CHECKING:
    from ..engine.state import StatePaths
    from ..streaming.kafka import KafkaSettings
    from ..streaming.kafka_connection import KafkaConnection

_PASSWORD, _KEY_PASSWORD = "RECUNLEARN_SASL_PASSWORD", "RECUNLEARN_SSL_KEY_PASSWORD"
_PANEL = "Kafka"


@dataclass(frozen=True)
class KafkaOptions:
    """How brokers are reached, and what is read there."""

    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Brokers, HOST:PORT[,HOST:PORT...].", rich_help_panel=_PANEL)
    ] = None
    topic: Annotated[str | None, typer.Option(help="Topic of deletions.", rich_help_panel=_PANEL)] = None
    group: Annotated[
        str | None,
        typer.Option(
            help="Consumer group, of this state alone; default: a name made for the state.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    dead_letter_topic: Annotated[
        str | None,
        typer.Option(
            help="Where unreadable records go; default: TOPIC.dead-letters.", rich_help_panel=_PANEL
        ),
    ] = None
    on_lost: Annotated[
        str,
        typer.Option(
            help="If the broker deleted records before they were read: stop, or continue and count each.",
            rich_help_panel=_PANEL,
        ),
    ] = "stop"
    session_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds without a heartbeat after which the group gives this worker up.",
            min=1,
            rich_help_panel=_PANEL,
        ),
    ] = 45.0
    security_protocol: Annotated[
        str,
        typer.Option(help="PLAINTEXT, SSL, SASL_SSL or SASL_PLAINTEXT.", rich_help_panel=_PANEL),
    ] = "PLAINTEXT"
    ssl_cafile: Annotated[
        Path | None,
        typer.Option(help="PEM of the authorities to trust; default: the system's.", rich_help_panel=_PANEL),
    ] = None
    ssl_certfile: Annotated[
        Path | None, typer.Option(help="PEM of the client's certificate.", rich_help_panel=_PANEL)
    ] = None
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(
            help=f"PEM of its key; the key's password is read from {_KEY_PASSWORD}.", rich_help_panel=_PANEL
        ),
    ] = None
    sasl_mechanism: Annotated[
        str | None,
        typer.Option(help="PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.", rich_help_panel=_PANEL),
    ] = None
    sasl_username: Annotated[
        str | None, typer.Option(help="User of PLAIN and SCRAM.", rich_help_panel=_PANEL)
    ] = None
    sasl_password_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the password; without it {_PASSWORD} is read.", rich_help_panel=_PANEL),
    ] = None
    token_file: Annotated[
        Path | None, typer.Option(help="File with OAUTHBEARER's token.", rich_help_panel=_PANEL)
    ] = None
    token_command: Annotated[
        str | None,
        typer.Option(help="Command that prints OAUTHBEARER's token.", rich_help_panel=_PANEL),
    ] = None
    allow_plaintext_credentials: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext-credentials", help="Send credentials without TLS.", rich_help_panel=_PANEL
        ),
    ] = False

    def connection(self) -> "KafkaConnection":
        """Return how brokers are reached, with the secrets that the environment or a file has."""
        from ..streaming.kafka_connection import KafkaConnection

        if self.bootstrap_servers is None:
            wrong_use("name the brokers: --bootstrap-servers HOST:PORT, or [kafka] bootstrap_servers")
        return KafkaConnection(
            self.bootstrap_servers,
            self.security_protocol.upper(),
            self.ssl_cafile,
            self.ssl_certfile,
            self.ssl_keyfile,
            os.environ.get(_KEY_PASSWORD),
            self.sasl_mechanism,
            self.sasl_username,
            self._password(),
            self.token_file,
            self.token_command,
            self.allow_plaintext_credentials,
        )

    def _password(self) -> str | None:
        if self.sasl_password_file is None:
            return os.environ.get(_PASSWORD)
        try:
            return self.sasl_password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            not_so(f"{self.sasl_password_file} cannot be read: {getattr(error, 'strerror', 'not UTF-8')}")

    def settings(self, paths: "StatePaths") -> "KafkaSettings":
        """Return what the worker of a state reads."""
        from ..streaming.kafka import KafkaSettings, instance_of

        if self.topic is None:
            wrong_use("name the topic of deletions: --topic T, or [kafka] topic")
        if self.on_lost not in ("stop", "continue"):
            wrong_use(f"--on-lost {self.on_lost!r} is neither stop nor continue")
        instance = instance_of(paths.fence_key.read_bytes())
        return KafkaSettings(
            self.connection(),
            self.topic,
            self.group or instance,
            instance,
            self.dead_letter_topic,
            self.on_lost,
            self.session_timeout,
        )
