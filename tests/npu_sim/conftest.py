"""The simulated device for the tests of this folder; its plugin is built once and cached."""

from __future__ import annotations

import os

import pytest
import simulator


@pytest.fixture(scope="session")
def npu_sim():
    """Return the module `simulator` with its plugin built. Without a compiler, skip the tests; in CI, fail."""
    reason = simulator.missing()
    if reason is not None and os.environ.get("CI"):
        pytest.fail(f"{reason}; these tests are not skipped if CI is set")
    if reason is not None:
        pytest.skip(reason)
    simulator.build()
    return simulator
