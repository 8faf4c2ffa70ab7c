"""How brokers are reached: addresses, TLS, credentials; and errors that say in one line what is wrong."""

import logging
import re
import ssl
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTimeError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.sasl.oauth import AbstractTokenProvider

from .source import SourceAwayError, SourceError

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
CONNECT_SECONDS = 30.0
"""How long brokers may take to answer before a start gives up."""

_TOKEN_COMMAND_SECONDS = 10
_REFUSED = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.AuthorizationError,
)
_Client = TypeVar("_Client")


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where the brokers are and how to log in; secrets are not in its text.

    Attributes
    ----------
    bootstrap_servers : ``HOST:PORT``, several with commas.
    security_protocol : one of :data:`PROTOCOLS`.
    ssl_cafile : PEM of the authorities to trust; None: the system's.
    ssl_certfile, ssl_keyfile : PEM of the client's own certificate, where brokers ask for one.
    sasl_mechanism : one of :data:`MECHANISMS`.
    token_file, token_command : where OAUTHBEARER's token comes from; read anew for each connection.
    allow_plaintext_credentials : send a password or token without TLS.

    Examples
    --------
    >>> KafkaConnection("broker:9092", sasl_password="secret")
    KafkaConnection(bootstrap_servers='broker:9092', security_protocol='PLAINTEXT', ssl_cafile=None, \
ssl_certfile=None, ssl_keyfile=None, sasl_mechanism=None, sasl_username=None, token_file=None, \
token_command=None, allow_plaintext_credentials=False)
    """

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_key_password: str | None = field(default=None, repr=False)
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    token_command: str | None = None
    allow_plaintext_credentials: bool = False

    def client_options(self) -> dict[str, Any]:
        """Return the keyword arguments by which kafka-python's clients connect.

        Raises
        ------
        SourceError
            The settings contradict each other, or would send credentials in plain text; a file of theirs
            cannot be read.
        """
        self._check()
        options: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in self.bootstrap_servers.split(",")],
            "security_protocol": self.security_protocol,
            "reconnect_backoff_max_ms": 1000,
        }
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = self.sasl_mechanism
            if self.sasl_mechanism == "OAUTHBEARER":
                options["sasl_oauth_token_provider"] = _TokenProvider(self)
            else:
                options["sasl_plain_username"] = self.sasl_username
                options["sasl_plain_password"] = self.sasl_password
        return options

    def _check(self) -> None:
        if not re.fullmatch(r"\s*[^\s,]+:\d+\s*(,\s*[^\s,]+:\d+\s*)*", self.bootstrap_servers):
            raise SourceError(
                f"bootstrap servers {self.bootstrap_servers!r} are not HOST:PORT[,HOST:PORT...]"
            )
        _one_of("security protocol", self.security_protocol, PROTOCOLS)
        if not self.security_protocol.startswith("SASL"):
            if self.sasl_mechanism is not None:
                raise SourceError(
                    f"SASL mechanism {self.sasl_mechanism} needs security protocol SASL_SSL, "
                    f"not {self.security_protocol}"
                )
            return
        _one_of("SASL mechanism", self.sasl_mechanism, MECHANISMS)
        if self.security_protocol == "SASL_PLAINTEXT" and not self.allow_plaintext_credentials:
            raise SourceError(
                "SASL_PLAINTEXT sends credentials without TLS: use SASL_SSL, "
                "or --allow-plaintext-credentials on a network that nobody else can listen on"
            )
        if self.sasl_mechanism == "OAUTHBEARER":
            if (self.token_file is None) == (self.token_command is None):
                raise SourceError("OAUTHBEARER takes its token from --token-file or from --token-command")
        elif not self.sasl_username or not self.sasl_password:
            raise SourceError(
                f"{self.sasl_mechanism} needs --sasl-username and a password: in the file that "
                "--sasl-password-file names, or in the environment as RECUNLEARN_SASL_PASSWORD"
            )

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.ssl_certfile is not None:
                # An empty password instead of a question on the terminal.
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, self.ssl_key_password or "")
        except (OSError, ssl.SSLError) as error:
            files = [str(file) for file in (self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile) if file]
            raise SourceError(f"{' or '.join(files)} cannot be used for TLS: {error.strerror}") from None
        return context


class _TokenProvider(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python is not typed
    """Reads the token for each connection, so that a renewed one is taken up."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._file, self._command = connection.token_file, connection.token_command

    def token(self) -> Any:
        if self._file is not None:
            return self._file.read_text(encoding="ascii").strip()
        assert self._command is not None  # noqa: S101  _check saw to it; this tells the type checker
        done = subprocess.run(  # noqa: S602  the operator's own command, from their own configuration
            self._command, shell=True, capture_output=True, timeout=_TOKEN_COMMAND_SECONDS, check=True
        )
        return done.stdout.decode("ascii").strip()

    def extensions(self) -> dict[str, str]:
        return {}


class _Failures(logging.Handler):
    """Notes why connections fail: kafka-python says so in its log alone, and keeps trying."""

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, BaseException):
                self._report(argument)


def connect(
    make: Callable[..., _Client],
    connection: KafkaConnection,
    seconds: float = CONNECT_SECONDS,
    **options: Any,
) -> _Client:
    """Make one of kafka-python's clients, or say in one line why that cannot be.

    Parameters
    ----------
    make : ``KafkaConsumer``, ``KafkaProducer`` or ``KafkaAdminClient``; called with ``options``.

    Raises
    ------
    SourceAwayError
        No broker answered in time.
    SourceError
        Credentials or a certificate were refused; at once.
    """
    _keep_secrets_out_of_logs()
    options = {**connection.client_options(), "bootstrap_timeout_ms": int(seconds * 1000), **options}
    outcome: Future[_Client] = Future()
    clients: list[Any] = []
    last: list[BaseException] = []

    def note(error: BaseException) -> None:
        last.append(error)
        if _is_final(error):
            _end(outcome, error)

    def network_client(**configuration: Any) -> Any:
        client: Any = KafkaNetClient(**configuration)
        # kafka-python 3.0.12 drops its own option on the way: a topic that is gone was made by asking for it.
        client.cluster.config["allow_auto_create_topics"] = False
        clients.append(client)
        return client

    def attempt() -> None:
        try:
            _end(outcome, result=make(kafka_client=network_client, **options))
        except BaseException as error:  # noqa: BLE001  handed to the thread that waits
            _end(outcome, error)

    handler = _Failures(note)
    logger = logging.getLogger("kafka.net")
    logger.addHandler(handler)
    try:
        # In a thread of its own: kafka-python 3.0.12 goes on, or hangs, where no further try can help.
        threading.Thread(target=attempt, name="kafka-connect", daemon=True).start()
        return outcome.result(seconds + 1)
    except (errors.KafkaError, NotInTimeError, OSError, subprocess.SubprocessError) as error:
        for client in clients:
            client.close()
        raise _why(connection, error, last) from None
    finally:
        logger.removeHandler(handler)


def _keep_secrets_out_of_logs() -> None:
    """See to it that kafka-python's debug messages stay off: they have passwords and tokens in clear."""
    logger = logging.getLogger("kafka")
    if logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)


def _end(outcome: "Future[_Client]", error: BaseException | None = None, result: Any = None) -> None:
    """Give an outcome, unless there is one."""
    if outcome.done():
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)


def _is_final(error: BaseException) -> bool:
    return isinstance(error, _REFUSED) or bool(_certificate_fault(error) or _refused_certificate(error))


def _certificate_fault(error: BaseException) -> str | None:
    found = re.search(r"certificate verify failed: (.+?)\.?(?: \(_ssl\.c:\d+\))?$", str(error))
    return found[1] if found else None


def _refused_certificate(error: BaseException) -> str | None:
    """Say why a broker refuses the client's certificate, if that is what its TLS alert means."""
    found = re.search(r"alert ((?:[a-z]+ )*certificate(?: [a-z]+)*|unknown ca)\b", str(error))
    return found[1] if found else None


def _why(connection: KafkaConnection, error: BaseException, last: list[BaseException]) -> SourceError:
    servers = connection.bootstrap_servers
    fault = _certificate_fault(error)
    if fault is not None:
        return SourceError(
            f"the certificate of {servers} is refused: {fault}; is it the right host, and --ssl-cafile?"
        )
    if (refused := _refused_certificate(error)) is not None:
        return SourceError(
            f"{servers} refuses the client's certificate: {refused}; name a certificate of an authority that "
            "the brokers trust, and its key: --ssl-certfile, --ssl-keyfile"
        )
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return SourceError(f"{servers} does not offer SASL mechanism {connection.sasl_mechanism}")
    if isinstance(error, errors.SaslAuthenticationFailedError):
        who = f" of user {connection.sasl_username!r}" if connection.sasl_username else ""
        return SourceError(f"{servers} refused the credentials{who} ({connection.sasl_mechanism})")
    if isinstance(error, _REFUSED):
        return SourceError(f"{servers} refused access: {type(error).__name__}")
    if isinstance(error, (errors.KafkaTimeoutError, errors.KafkaConnectionError, NotInTimeError)):
        kinds = [type(one).__name__ for one in last if not isinstance(one, errors.KafkaTimeoutError)]
        seen = f" (last: {kinds[-1]})" if kinds else ""
        return SourceAwayError(
            f"no Kafka broker answered at {servers} over {connection.security_protocol}{seen}; "
            "is it running, is that its address, and the protocol of that port?"
        )
    return SourceError(f"{servers} cannot be used: {type(error).__name__}: {error}")


def _one_of(what: str, value: str | None, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SourceError(f"there is no {what} {value!r}; there are {', '.join(known)}")
