"""Fixtures that several test files use: real brokers, one of each kind for a whole run."""

import os
from types import SimpleNamespace

import pytest
from recunlearn.eval import broker

from .brokers import apache
from .brokers.certificates import Certificates
from .real import need
from .stores import postgres_server


@pytest.fixture(scope="session", autouse=True)
def _solves_take_their_share():
    """Let workers that tests start not make way: other tests would keep them waiting."""
    os.environ.setdefault("RECUNLEARN_RUN_SOLVE_PRIORITY", "normal")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Make the certificates of the broker, good and bad."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory, certificates):
    """Run one node of Apache Kafka, with every kind of listener."""
    need(apache.why_missing())
    with apache.ApacheKafka(tmp_path_factory.mktemp("kafka"), certificates=certificates) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def killable_kafkas(tmp_path_factory):
    """Run three nodes of Apache Kafka, to kill and to start again, with a network before them."""
    need(apache.why_missing())
    with apache.ApacheKafka(tmp_path_factory.mktemp("kafkas"), nodes=3, behind_network=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def any_broker(request, tmp_path_factory):
    """Run Apache Kafka where there is Java, else the broker that installs from PyPI."""
    if apache.why_missing() is None:
        yield request.getfixturevalue("kafka")
    else:
        need(broker.why_missing())
        with broker.local_broker(tmp_path_factory.mktemp("broker")) as address:
            yield SimpleNamespace(bootstrap_servers=address)


@pytest.fixture(scope="session")
def postgres():
    """Run one PostgreSQL with pgvector."""
    need(postgres_server.why_missing())
    with postgres_server.PostgresServer() as server:
        yield server
