"""Score answers to ScienceQA, as LLaVA's eval_science_qa.py does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script."""
    parser.add_argument("--base-dir", required=True, help="folder with problems.json and pid_splits.json")
    parser.add_argument("--result-file", required=True, help="answers of model_vqa_science.py, JSON lines")
    parser.add_argument("--output-file", required=True, help="JSON file to write: right and wrong answers")
    parser.add_argument("--output-result", required=True, help="JSON file to write: accuracy and indices of choices")
    parser.add_argument("--split", default="test", help="split of pid_splits.json (default: test)")
    parser.set_defaults(sets_environment=True)  # no model is loaded


def run(arguments: argparse.Namespace) -> int:
    """Print LLaVA's line and write its two files. Raises ValueError or OSError for a user's mistake."""
    from ..evaluate.files.scienceqa_results import read_results
    from ..output import named_file, replacing

    base, answers = Path(arguments.base_dir).expanduser(), Path(arguments.result_file).expanduser()
    sources = [answers, base / "problems.json", base / "pid_splits.json"]
    outputs = [named_file(name, sources) for name in (arguments.output_file, arguments.output_result)]
    if outputs[0].resolve() == outputs[1].resolve():
        raise ValueError(f"--output-file and --output-result are the same file, {outputs[0]}: name two")
    results = read_results(base, answers, arguments.split)
    print(results.line())
    for path, value in zip(outputs, (results.analyses(), results.summary()), strict=True):
        with replacing(path) as file:
            file.write(json.dumps(value, indent=2).encode())
    return 0
