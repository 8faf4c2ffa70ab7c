"""Fixtures that several test files use: real brokers, one of each kind for a whole run."""

import os
from types import SimpleNamespace

import pytest
from recunlearn.eval import broker

from .brokers import apache
from .brokers.certificates import Certificates


def need(why_missing):
    """Skip a test that lacks a real component; with CI=true its absence is a failure."""
    if why_missing is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why_missing)
        pytest.skip(why_missing)


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
