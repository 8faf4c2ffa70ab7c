"""TLS and SASL against Apache Kafka itself: what is right works, what is wrong says so in one line."""

import base64
import gc
import json
import logging
import time

import pytest
from recunlearn.streaming.kafka import KafkaSettings, KafkaSource
from recunlearn.streaming.kafka_connection import KafkaConnection
from recunlearn.streaming.source import SourceError

from .brokers.apache import PASSWORD, USER
from .topics import drained, new_topic, produce

pytestmark = pytest.mark.xdist_group("kafka")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@pytest.fixture(autouse=True, scope="module")
def refused_connections_end_here():
    """Collect them while they are expected, not in a later test."""
    yield
    gc.collect()


@pytest.fixture
def read(kafka, certificates):
    """Read a topic of one record over a listener; returns what arrived."""
    topic = new_topic(kafka.bootstrap_servers)
    produce(kafka.bootstrap_servers, topic, [b"1"])

    def over(listener, authority=True, **options):
        protocol = listener if listener.startswith("SASL") else "SSL"
        cafile = certificates.authority if authority else None
        connection = KafkaConnection(kafka.servers(listener), protocol, cafile, **options)
        source = KafkaSource(KafkaSettings(connection, topic, "workers"))
        source.seek({})
        records = drained(source)
        source.dead_letters([(records[0], "so that the producer logs in, too")])
        source.close()
        return [record.value for record in records]

    return over


def token(expires_in):
    """Make a token that the test's broker takes: it has no signature."""
    now = int(time.time())
    parts = {"alg": "none"}, {"sub": USER, "iat": now - 100, "exp": now + expires_in}
    return (
        ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts) + "."
    )


def test_tls_with_a_good_certificate(read):
    """The broker's certificate is checked against the given authority."""
    assert read("SSL") == [b"1"]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_right_password(read, mechanism):
    """PLAIN and SCRAM over TLS."""
    assert read("SASL_SSL", sasl_mechanism=mechanism, sasl_username=USER, sasl_password=PASSWORD) == [b"1"]


def test_a_token_from_a_file_or_a_command(read, tmp_path):
    """OAUTHBEARER over TLS; the token is read when it is needed."""
    file = tmp_path / "token"
    file.write_text(token(expires_in=3600) + "\n")
    assert read("SASL_SSL", sasl_mechanism="OAUTHBEARER", token_file=file) == [b"1"]
    assert read("SASL_SSL", sasl_mechanism="OAUTHBEARER", token_command=f"cat {file}") == [b"1"]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_wrong_password(read, mechanism, caplog):
    """The error names the user and the mechanism; the password is nowhere."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("kafka").setLevel(logging.NOTSET)
    with pytest.raises(
        SourceError, match=rf"refused the credentials of user 'worker' \({mechanism}\)$"
    ) as error:
        read("SASL_SSL", sasl_mechanism=mechanism, sasl_username=USER, sasl_password="wrong-horse")  # noqa: S106
    assert "wrong-horse" not in str(error.value) + caplog.text


def test_an_expired_token(read, tmp_path, caplog):
    """The error says that the credentials were refused; the token is nowhere."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("kafka").setLevel(logging.NOTSET)
    (tmp_path / "token").write_text(token(expires_in=-50))
    with pytest.raises(SourceError, match=r"refused the credentials \(OAUTHBEARER\)$"):
        read("SASL_SSL", sasl_mechanism="OAUTHBEARER", token_file=tmp_path / "token")
    assert token(-50)[:40] not in caplog.text


@pytest.mark.parametrize(
    ("listener", "authority", "why"),
    [
        ("EXPIRED", True, "certificate has expired"),
        ("ELSEWHERE", True, "IP address mismatch"),
        ("SSL", False, "unable to get local issuer certificate"),
    ],
)
def test_a_bad_certificate(read, listener, authority, why):
    """Expired, of another host, of an unknown authority: refused at once, in one line that says which."""
    started = time.monotonic()
    with pytest.raises(SourceError, match=rf"^the certificate of .* is refused: {why}[^\n]*$"):
        read(listener, authority)
    assert time.monotonic() - started < 5


def test_a_broker_that_asks_for_the_clients_certificate(read, certificates):
    """One of its authority's is let in, for reading and for writing."""
    assert read("MUTUAL", ssl_certfile=certificates.client) == [b"1"]


@pytest.mark.parametrize(("which", "why"), [(None, "bad certificate"), ("stranger", "certificate unknown")])
def test_a_client_without_a_good_certificate(read, certificates, which, why):
    """None, or one of an unknown authority: refused at once, in one line with the way out."""
    certfile = which and getattr(certificates, which)
    started = time.monotonic()
    with pytest.raises(SourceError, match=rf"refuses the client's certificate: {why}; .*--ssl-certfile"):
        read("MUTUAL", ssl_certfile=certfile)
    assert time.monotonic() - started < 5


def test_credentials_in_plain_text_are_refused_unless_allowed(read):
    """Nothing is sent before somebody said that it may be."""
    options = {"sasl_mechanism": "PLAIN", "sasl_username": USER, "sasl_password": PASSWORD}
    with pytest.raises(SourceError, match=r"without TLS.*--allow-plaintext-credentials"):
        read("SASL_PLAINTEXT", **options)
    assert read("SASL_PLAINTEXT", allow_plaintext_credentials=True, **options) == [b"1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bootstrap_servers": "broker"}, "are not HOST:PORT"),
        ({"security_protocol": "TLS"}, "no security protocol 'TLS'; there are PLAINTEXT, SSL"),
        ({"sasl_mechanism": "PLAIN"}, "PLAIN needs security protocol SASL_SSL"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "no SASL mechanism 'GSSAPI'"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}, "--sasl-password-file"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "--token-file or"),
        ({"security_protocol": "SSL", "ssl_cafile": "/nowhere.pem"}, "/nowhere.pem cannot be used for TLS"),
    ],
)
def test_settings_that_cannot_work(options, message):
    """Each is refused before anything is sent, with the way out."""
    with pytest.raises(SourceError, match=message):
        KafkaConnection(**{"bootstrap_servers": "broker:9092", **options}).client_options()


def test_no_broker_is_an_error_that_names_the_address(monkeypatch):
    """The time limit holds, and the message asks the right questions."""
    from kafka import KafkaAdminClient
    from recunlearn.streaming.kafka_connection import connect

    from .brokers.apache import free_ports

    (port,) = free_ports(1)
    with pytest.raises(SourceError, match=rf"no Kafka broker answered at 127.0.0.1:{port} over PLAINTEXT"):
        connect(KafkaAdminClient, KafkaConnection(f"127.0.0.1:{port}"), seconds=1.0)
