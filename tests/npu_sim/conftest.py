"""The simulated device for the tests of this folder: built once, and then kept for later sessions."""

from __future__ import annotations

import os

import pytest
import simulator


@pytest.fixture(scope="session")
def npu_sim():
    """Return the module `simulator`, its plugin built. Without a compiler tests are skipped, but never in CI."""
    reason = simulator.missing()
    if reason is not None and os.environ.get("CI"):
        pytest.fail(f"{reason}; where CI is set these tests are not skipped")
    if reason is not None:
        pytest.skip(reason)
    simulator.build()
    return simulator
