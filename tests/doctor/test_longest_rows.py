"""The table of the longest rows in docs/en/cards.md is what the estimate of memory gives."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest
from documentation import ROOT

PAGE = ROOT / "docs/en/cards.md"
SCRIPT = "benchmarks/longest_rows.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("longest_rows", ROOT / SCRIPT)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_table_in_the_page_equals_the_computed_one(script):
    text = PAGE.read_text(encoding="utf-8")
    (written,) = re.findall(rf"<!-- {SCRIPT} -->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL)
    assert written == script.table()


def test_a_row_that_is_one_step_longer_does_not_fit(script):
    way = next(way for way in script.WAYS if way.name == "LoRA, `recompute`")
    length = script.longest(way, "7B", 32)
    config, trainable = script.start("7B", True)
    method = script.MemorySettings.read({**script.HALF, **way.settings}).method("gpu", script.NUM_CARDS)
    totals = [
        script.estimate(config, trainable, script.load_of(config, number, False), method).total
        for number in (length, length + script.STEP)
    ]
    assert totals[0] <= 32 * script.GIB * (1 - script.FREE) < totals[1]
