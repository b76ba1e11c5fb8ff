"""The package, built once for all tests of this folder."""

from __future__ import annotations

import archives
import pytest


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Return the archive of the sources and the wheel."""
    return archives.build(tmp_path_factory.mktemp("built"))
