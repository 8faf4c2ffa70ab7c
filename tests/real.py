"""Real components that a test needs: where one is missing it is skipped, and with CI=true it fails."""

import os

import pytest


def need(why_missing):
    """Skip the test if ``why_missing`` says what is missing; None: nothing is."""
    if why_missing is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why_missing)
        pytest.skip(why_missing)
