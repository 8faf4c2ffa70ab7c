"""Fixtures that several test files use: real brokers, one of each kind for a whole run."""

import os

import pytest

from .brokers import apache, tansu
from .brokers.certificates import Certificates


def _need(why_missing):
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
    _need(apache.why_missing())
    with apache.ApacheKafka(tmp_path_factory.mktemp("kafka"), certificates=certificates) as cluster:
        yield cluster


@pytest.fixture
def three_kafkas(tmp_path):
    """Run three nodes of Apache Kafka, to kill."""
    _need(apache.why_missing())
    with apache.ApacheKafka(tmp_path / "kafka", nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def any_broker(request, tmp_path_factory):
    """Run Apache Kafka where there is Java, else the broker that installs from PyPI."""
    if apache.why_missing() is None:
        yield request.getfixturevalue("kafka")
    else:
        _need(tansu.why_missing())
        with tansu.Tansu(tmp_path_factory.mktemp("tansu")) as broker:
            yield broker
