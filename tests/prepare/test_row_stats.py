"""stats counts what is there; its percentiles are those of NumPy's nearest rank."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
from data_sets import row, write_lines
from prepared import prepare

from paddlemix.prepare.sets.stats import spread


def test_counts_of_a_small_file(tmp_path, capsys):
    long = {
        "id": 5,
        "image": ["coco/train2017/1.jpg", "https://example.org/x/2.jpg"],
        "conversations": [
            {"from": "system", "value": "SS"},
            {"from": "human", "value": "<image><image>abc"},
            {"from": "gpt", "value": "defg"},
            {"from": "human", "value": "h"},
            {"from": "gpt", "value": "i" * 20},
        ],
    }
    rows = [row(1, "coco/train2017/1.jpg"), row(2), {"id": 3, "conversations": [["q", "a"]]}, long, row(6, answer="")]
    file = write_lines(tmp_path / "rows.jsonl", rows)
    file.write_bytes(file.read_bytes() + b"{\n")
    assert prepare("stats", file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 6
    assert found["formats"] == {"llava": 3, "pairs": 1}
    assert found["bad_rows"] == {"empty answer": 1, "not JSON": 1}
    assert found["turns"] == 5
    assert found["turns_per_row"] == {"min": 1, "median": 1, "p95": 2, "max": 2}
    assert found["characters"]["answers"] == {"min": 1, "median": 2, "p95": 20, "max": 20}
    assert found["characters"]["rows"] == {"min": 2, "median": 4, "p95": 30, "max": 30}  # without marks, with system
    assert (found["images"], found["distinct_images"]) == (3, 2)
    assert found["rows_by_number_of_images"] == {"0": 2, "1": 1, "2": 1}
    assert found["sources"] == {"coco/train2017": 2, "https://example.org": 1}
    assert prepare("stats", file) == 0
    printed = capsys.readouterr().out
    assert "6 (3 llava, 1 pairs)" in printed
    assert "in coco/train2017: 2" in printed


def test_file_without_good_rows_gives_exit_code_1(tmp_path):
    assert prepare("stats", write_lines(tmp_path / "rows.jsonl", [row(1, answer="")])) == 1
    assert spread(Counter()) is None


def test_percentiles_are_of_the_nearest_rank():
    numbers = random.Random(0)
    for size in (1, 2, 3, 19, 20, 21, 100, 137):
        values = [numbers.randrange(50) for _ in range(size)]
        found = spread(Counter(values))
        for name, share in (("min", 0), ("median", 50), ("p95", 95), ("max", 100)):
            assert found[name] == np.percentile(values, share, method="inverted_cdf"), (size, name)
