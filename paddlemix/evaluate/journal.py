"""The answers of a run on disk, so that a run that is killed goes on without a lost or doubled answer.

While a task runs, each process appends its answers to a journal of its own, `journal-RANK.jsonl`, whose first line says
how they came about. When all questions have an answer, the first process writes them in the order of the questions to
`answers.jsonl` and removes the journals. So the result does not depend on who answered what, or when.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..output import OutputError, replacing
from .line_file import LineFile, complete_lines
from .results import Answered, Saved

ANSWERS, RUN, SCORES = "answers.jsonl", "run.json", "scores.json"
HEADER = "answers_of"  # key of a journal's first line
MAX_HASH = 9  # characters of a hash in a message, with its quotation mark


class Journal:
    """The journal of one process, open for appending. Used in a `with` block, in which no other process can write."""

    def __init__(self, folder: Path, rank: int, identity: Mapping[str, Any]):
        self._file = LineFile(folder / f"journal-{rank}.jsonl", is_synced=False)
        self._identity = dict(identity)

    def __enter__(self) -> Journal:
        """Open the journal. Raises OutputError if another process has it open."""
        self._file.__enter__()
        if not self._file.path.stat().st_size:
            self._file.add({HEADER: self._identity})
        return self

    def __exit__(self, *exception) -> None:
        self._file.__exit__(*exception)

    def add(self, name: str, saved: Saved) -> None:
        """Append the answer to a question."""
        self._file.add({"id": name, **_saved_row(saved)})


def journals_of(folder: Path) -> dict[int, Path]:
    """Return the journals in a folder by rank."""
    found = {path.stem.partition("-")[2]: path for path in folder.glob("journal-*.jsonl")}
    return {int(rank): path for rank, path in sorted(found.items()) if rank.isdecimal()}


def read_journals(folder: Path, identity: Mapping[str, Any]) -> dict[str, Saved]:
    """Return what the journals in a folder hold, by the id of the question.

    Raises OutputError for answers that came about in another way than `identity` says.
    """
    saved: dict[str, Saved] = {}
    for path in journals_of(folder).values():
        rows = read_rows(path)
        if not rows:
            continue  # its process has only just begun
        if not isinstance(rows[0].get(HEADER), dict):
            raise OutputError(f"{path} is no journal of an evaluation: move it away, or choose another output")
        check_identity(rows[0][HEADER], identity, folder)
        found = _saved_rows(path, rows[1:], 2)
        saved.update((name, one) for name, one in found if name not in saved)
    return saved


def check_identity(
    found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, models: tuple[str, str] | None = None
) -> None:
    """Raise OutputError if answers came about in another way than is wanted now.

    models: names of the model that gave the answers and of the one that is wanted, which the error adds to the hashes
    of their weights. The hash is of the weights as they compute, so with one model another dtype or quantization is
    named in its place.
    """
    found, wanted = (json.loads(json.dumps(one)) for one in (found, wanted))
    names = [name for name in dict.fromkeys((*wanted, *found)) if found.get(name) != wanted.get(name)]
    if models and models[0] == models[1] and {"dtype", "quantization"} & set(names):
        names = [name for name in names if name != "weights"]
    if not names:
        return
    old, new = (_short(one.get(names[0])) for one in (found, wanted))
    if models and names[0] == "weights":
        old, new = _weights_of(old, new, models)
    raise OutputError(
        f"{folder} holds answers of another run, with {names[0]} {old} where this one has {new}: choose another "
        "output, or remove that folder"
    )


def _weights_of(old: str, new: str, models: tuple[str, str]) -> tuple[str, str]:
    """Return two hashes of weights, shortened, with the models that have them and why they may differ."""
    if models[0] == models[1]:
        whose = f"of the model {models[0]} then", "of the same model now: its files have changed"
    else:
        copies = "a converted or merged copy counts as another model"
        whose = f"of the model {models[0]}", f"of the model {models[1]}; {copies}"
    shown = (text if len(text) <= MAX_HASH else f'{text[:MAX_HASH]}..."' for text in (old, new))
    return tuple(f"{text} ({words})" for text, words in zip(shown, whose, strict=True))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, without a last line that is not complete.

    Raises OutputError for a line that no run has written.
    """
    rows = []
    for number, line in enumerate(complete_lines(path), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise _damaged(path, number)
        rows.append(row)
    return rows


def _damaged(path: Path, number: int) -> OutputError:
    return OutputError(f"{path} line {number} is damaged: remove the file; its questions are asked again")


def _saved_rows(path: Path, rows: Sequence[Mapping[str, Any]], first: int) -> Iterator[tuple[str, Saved]]:
    """Yield ids and answers of rows, the first of which stands in the line `first`.

    Raises OutputError for a row that no run has written.
    """
    for number, row in enumerate(rows, first):
        texts = [row.get("id"), row.get("output", ""), row.get("problem", ""), row.get("finish_reason", "")]
        judgement = row.get("judgement", [])
        texts += judgement if isinstance(judgement, list) else [None]
        is_whole = row.keys() & {"output", "problem"} and isinstance(row.get("num_prompt_tokens", 0), int)
        if not is_whole or not all(isinstance(text, str) for text in texts):
            raise _damaged(path, number)
        yield row["id"], saved_of(row)


def read_answers_file(folder: Path) -> dict[str, Saved]:
    """Return what answers.jsonl holds, by the id of the question; nothing if there is no such file.

    Raises OutputError for a line that no run has written.
    """
    path = folder / ANSWERS
    return dict(_saved_rows(path, read_rows(path), 1))


def write_answers(folder: Path, answered: Iterable[Answered]) -> None:
    """Write all answers of a task with their prompts and verdicts, one a line."""
    with replacing(folder / ANSWERS) as file:
        for one in answered:
            file.write(line_of(row_of(one)))


def row_of(one: Answered) -> dict[str, Any]:
    """Return the line of an answer: id, prompt, output, parsed answer, credit, and what the scorer knows of it."""
    question = one.question
    row: dict[str, Any] = {"id": question.id, "prompt": question.prompt, **_saved_row(one)}
    if one.credit is not None:
        row |= {"parsed": one.parsed, "credit": one.credit}
    if question.has_ocr is not None:
        row["has_ocr"] = question.has_ocr
    return {**row, "fields": dict(question.fields)}


def _saved_row(one: Saved | Answered) -> dict[str, Any]:
    if one.output is None:
        return {"problem": one.problem}
    row = {"output": one.output, "finish_reason": one.finish_reason, "num_prompt_tokens": one.num_prompt_tokens}
    return {**row, "judgement": list(one.judgement)} if one.judgement else row


def saved_of(row: Mapping[str, Any]) -> Saved:
    """Return the answer in a line of a journal or an answers file."""
    return Saved(
        row.get("output"),
        row.get("problem", ""),
        row.get("finish_reason", ""),
        row.get("num_prompt_tokens", 0),
        tuple(row.get("judgement", ())),
    )


def line_of(row: Mapping[str, Any]) -> bytes:
    """Return an object as a line of JSON. Characters that UTF-8 lacks, halves of surrogate pairs, are escaped."""
    try:
        return (json.dumps(row, ensure_ascii=False, default=str) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row, default=str) + "\n").encode()
