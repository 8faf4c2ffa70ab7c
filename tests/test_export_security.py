"""Stores that ask for TLS and a password: what is right is let in, what is wrong delays *erased*, loudly."""

import shutil

import pytest
import trustme
from recunlearn.engine.engine import Engine
from recunlearn.engine.fitting import fit
from recunlearn.engine.requests import AccountDeletion
from recunlearn.engine.state import StatePaths

from .popularity import ask, interactions
from .real import need
from .stores import redis_server
from .stores.tls_in_front import TlsInFront
from .test_export import HOWTO, configure, receipts_of

pytestmark = pytest.mark.xdist_group("stores")
PASSWORD, WRONG = "right-horse-battery", "wrong-horse-staple"
MAY = (
    "+get +set +hget +hset +unlink +rename +multi +exec +scan +hscan +info +config|get +bgrewriteaof +bgsave"
)
"""All that a store's user needs; docs/howto/export.md says so."""


@pytest.fixture(scope="module")
def redis_at(tmp_path_factory, certificates):
    """Run a Redis that speaks TLS alone, with a user who may do what a store needs and no more."""
    need(redis_server.why_missing())
    worker = f"worker on >{PASSWORD} ~recunlearn:* {MAY}"
    options = {
        "password": "of the operator",
        "tls": (certificates.good, certificates.authority),
        "users": [worker],
    }
    with redis_server.RedisServer(tmp_path_factory.mktemp("redis"), persistent=True, **options) as server:
        yield server


@pytest.fixture(scope="module")
def role(postgres):
    """Make a role of PostgreSQL's that has a password, and may make a schema."""
    rules = postgres.directory / "pg_hba.conf"
    before = rules.read_text()
    with postgres.connect() as connection:
        connection.execute(f"CREATE ROLE worker LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("GRANT CREATE ON DATABASE postgres TO worker")
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        rules.write_text("host all worker all scram-sha-256\n" + before)
        connection.execute("SELECT pg_reload_conf()")
    yield "worker"
    rules.write_text(before)


@pytest.fixture(scope="module")
def tls_ports(postgres, role, certificates):
    """Put TLS before PostgreSQL, with a certificate of its host and with one of another: their ports."""
    with (
        TlsInFront(postgres.port, certificates.good) as good,
        TlsInFront(postgres.port, certificates.elsewhere) as elsewhere,
    ):
        yield {"good": good.port, "elsewhere": elsewhere.port}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Make the certificate of an authority that has signed none of the servers'."""
    path = tmp_path_factory.mktemp("others") / "authority.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Fit a state; each test has a copy."""
    rows = [(f"person-{user}", f"thing-{(user * 7 + k * k) % 23}") for user in range(20) for k in range(2, 9)]
    state = tmp_path_factory.mktemp("fitted") / "state"
    fit(state, interactions(rows), {"spectral_mf": {"factors": 4}})
    return state


@pytest.fixture
def erased(fitted, tmp_path, monkeypatch, caplog):
    """Return what erases somebody with one store: table, password -> the store's error, requests by state."""

    def run(table, password):
        state = tmp_path / "state"
        shutil.copytree(fitted, state)
        monkeypatch.setenv("RECUNLEARN_EXPORT_STORE_PASSWORD", password)
        configure(state, {"name": "store", **table})
        with Engine.open(state) as engine:
            ask(engine, AccountDeletion("e-1", "person-3"))
            said, counts = engine.delivery.errors.get("store", ""), engine.ledger.counts()
        assert len(receipts_of(state)) == counts["erased"]
        shown = said + caplog.text + StatePaths(state).config.read_text()
        assert PASSWORD not in shown
        assert WRONG not in shown
        return said, counts["erasing"], counts["erased"]

    return run


def redis_table(redis_at, authority, **changed):
    """Write the table of the Redis."""
    url = f"{redis_at.url}?ssl_ca_certs={authority}&ssl_check_hostname=true"
    return {"kind": "redis", "url": url, "username": "worker", **changed}


def postgres_table(port, authority, mode="verify-full"):
    """Write the table of the PostgreSQL."""
    address = f"127.0.0.1:{port}/postgres?sslmode={mode}&sslrootcert={authority}"
    return {"kind": "pgvector", "url": f"postgresql://{address}", "username": "worker", "schema": "secured"}


def test_redis_with_its_own_user_over_tls(erased, redis_at, certificates):
    """The right password and authority, and no right but those that the docs name: erased."""
    assert erased(redis_table(redis_at, certificates.authority), PASSWORD) == ("", 0, 1)
    with redis_at.client() as client:
        assert client.get("recunlearn:current").startswith(b"000002")
        assert "worker" not in {refused["username"] for refused in client.acl_log()}
    assert MAY in " ".join(HOWTO.read_text(encoding="utf-8").split())


def test_postgresql_with_a_password_over_tls(erased, postgres, tls_ports, certificates):
    """The right password, authority and host: erased."""
    assert erased(postgres_table(tls_ports["good"], certificates.authority), PASSWORD) == ("", 0, 1)
    with postgres.connect() as connection:
        (label,) = connection.execute("SELECT label FROM secured.current").fetchone()
    assert label.startswith("000002")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("password", "invalid username-password pair"),
        ("user", "invalid username-password pair"),
        ("authority", "certificate verify failed"),
        ("host", "Hostname mismatch"),
        ("plain", "if it asks for TLS, write rediss:// in its url"),
    ],
)
def test_redis_refuses_what_is_wrong(erased, redis_at, certificates, others, wrong, why):
    """The request stays *erasing*; the error names the store and what is wrong, and quotes no password."""
    table = redis_table(redis_at, others if wrong == "authority" else certificates.authority)
    table |= {"username": "nobody"} if wrong == "user" else {}
    if wrong == "host":
        table["url"] = table["url"].replace("127.0.0.1", "127.1")  # the same one, by a name of no certificate
    if wrong == "plain":
        table["url"] = table["url"].replace("rediss", "redis").partition("?")[0]
    assert_refused(erased(table, WRONG if wrong == "password" else PASSWORD), why)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("password", 'password authentication failed for user "worker"'),
        ("authority", "certificate verify failed"),
        ("host", "does not match host name"),
        ("plain", "TLS is required"),
    ],
)
def test_postgresql_refuses_what_is_wrong(erased, tls_ports, certificates, others, wrong, why):
    """The request stays *erasing*; the error names the store and what is wrong, and quotes no password."""
    table = postgres_table(
        tls_ports["elsewhere" if wrong == "host" else "good"],
        others if wrong == "authority" else certificates.authority,
        "disable" if wrong == "plain" else "verify-full",
    )
    assert_refused(erased(table, WRONG if wrong == "password" else PASSWORD), why)


def assert_refused(found, why):
    """Check an error, and that the request waits."""
    said, erasing, erased = found
    assert said.startswith("store store: ")
    assert why in said
    assert "\n" not in said
    assert (erasing, erased) == (1, 0)
