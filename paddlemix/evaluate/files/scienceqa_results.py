"""What LLaVA's eval_science_qa.py prints and writes: a line of accuracies, and two files in its exact form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...constants import IMAGE_MARK
from ..readers.rows import json_lines, read_json
from ..scores.scienceqa import LETTERS, index_of, line, parse, score

FAILED = "FAILED"
MISSING = {"text": FAILED, "prompt": "Unknown"}


@dataclass(frozen=True)
class ScienceResults:
    """The problems of a split with their answers. found: by the problem's id, {"text", "prompt"}."""

    problems: Mapping[str, Mapping[str, Any]]
    found: Mapping[str, Mapping[str, Any]]

    def line(self) -> str:
        """Return the line that the script prints. If no prompt has an image, it is that of LLaVA's first version.

        A problem without an answer is wrong, and has no image.
        """
        scores = score([self._item(name) for name in self.problems])
        if scores.figures["accuracy/IMG"].value is None:
            total, right = len(self.problems), self._num_right()
            return f"Total: {total}, Correct: {right}, Accuracy: {right / total * 100:.2f}%"
        return line(scores)

    def analyses(self) -> dict[str, list[dict[str, Any]]]:
        """Return the content of --output-file: an analysis of each problem, under "correct" or "incorrect"."""
        found: dict[str, list[dict[str, Any]]] = {"correct": [], "incorrect": []}
        for name, problem in self.problems.items():
            answer = self.found.get(name, MISSING)
            analysis = {
                "question_id": name,
                "parsed_ans": self._parsed(name) or FAILED,
                "ground_truth": LETTERS[problem["answer"]],
                "question": answer["prompt"],
                "pred": answer["text"],
                "is_multimodal": IMAGE_MARK in answer["prompt"],
            }
            found["correct" if self._index(name) == problem["answer"] else "incorrect"].append(analysis)
        return found

    def summary(self) -> dict[str, Any]:
        """Return the content of --output-result: accuracy in percent, counts, and index and text of each answer."""
        right = self._num_right()
        return {
            "acc": right / len(self.problems) * 100,
            "correct": right,
            "count": len(self.problems),
            "results": {name: self._index(name) for name in self.problems},
            "outputs": {name: self.found.get(name, MISSING)["text"] for name in self.problems},
        }

    def _item(self, name: str) -> dict[str, Any]:
        answer = self.found.get(name)
        text, prompt = (None, "") if answer is None else (answer["text"], answer["prompt"])
        problem = {key: self.problems[name][key] for key in ("answer", "choices")}
        return {**problem, "id": name, "prediction": text, "prompt": prompt}

    def _parsed(self, name: str) -> str | None:
        return parse(self.found.get(name, MISSING)["text"], self.problems[name]["choices"])

    def _index(self, name: str) -> int:
        return index_of(self._parsed(name), self.problems[name]["choices"])

    def _num_right(self) -> int:
        return sum(self._index(name) == problem["answer"] for name, problem in self.problems.items())


def read_results(base: Path, answers: Path, split: str = "test") -> ScienceResults:
    """Read problems.json, pid_splits.json and a file of answers. Of two answers to a problem, the last one counts.

    Raises ValueError for files that are missing or damaged, and for an unknown split.
    """
    problems, splits = (read_json(base / name, dict) for name in ("problems.json", "pid_splits.json"))
    if split not in splits:
        raise ValueError(f"{base / 'pid_splits.json'} has no split {split!r}, expected one of {', '.join(splits)}")
    names = [str(name) for name in splits[split]]
    missing = [name for name in names if not _is_problem(problems.get(name))]
    if missing or not names:
        what = f"problem {missing[0]} is missing or has no answer" if missing else f"the split {split} is empty"
        raise ValueError(f"{base / 'problems.json'}: {what}; expected the files of ScienceQA's data/scienceqa")
    found = {}
    for where, row in json_lines(answers):
        texts = [row.get(key) for key in ("text", "prompt")] if isinstance(row, dict) else []
        if "question_id" not in (row if isinstance(row, dict) else ()) or not all(
            isinstance(one, str) for one in texts
        ):
            raise ValueError(f"{where} is no answer of model_vqa_science.py: expected question_id, prompt and text")
        found[str(row["question_id"])] = row
    return ScienceResults({name: problems[name] for name in names}, found)


def _is_problem(problem: Any) -> bool:
    if not isinstance(problem, dict) or not isinstance(problem.get("choices"), list):
        return False
    answer = problem.get("answer")
    return isinstance(answer, int) and 0 <= answer < len(problem["choices"]) <= len(LETTERS)
