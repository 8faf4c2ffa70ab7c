"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest
import recunlearn


def _modules():
    yield "recunlearn"
    for module in pkgutil.walk_packages(recunlearn.__path__, "recunlearn."):
        if module.name.split(".")[1] in {"engine", "streaming", "models", "eval", "cli"}:
            yield module.name


@pytest.mark.parametrize("name", sorted(_modules()))
def test_examples_in_docstrings_are_true(name):
    """What a docstring shows is what happens."""
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(importlib.import_module(name), optionflags=flags).failed == 0
