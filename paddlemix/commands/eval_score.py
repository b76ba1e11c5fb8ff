"""`paddlemix eval score`: score answers that are in a file, of this project, LLaVA, lmms-eval or VLMEvalKit."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ..terminal.visible import visible, visible_json
from .judge_options import add_judge_options, judge_of
from .parser import add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("task", metavar="TASK", help="benchmark; `paddlemix eval list` lists them")
    parser.add_argument(
        "--answers",
        required=True,
        metavar="FILE",
        help="answers.jsonl, LLaVA's jsonl, lmms-eval's samples, VLMEvalKit's .xlsx or .tsv",
    )
    parser.add_argument(
        "--data-dir",
        default=None,
        metavar="DIR",
        help="folder with the benchmark's files, or one file; needed if FILE does not hold the right answers",
    )
    parser.add_argument("--rule", default=None, help="how answers are read (default: the benchmark's own)")
    add_judge_options(parser)
    parser.add_argument("--report", default=None, metavar="FILE", help="write a report (.html) too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    add_examples(parser, "paddlemix eval score pope --answers answers.jsonl --data-dir data/pope")


def run(arguments: argparse.Namespace) -> int:
    """Score and print. Raises ValueError or OSError for a user's mistake."""
    from ..evaluate.files.answers import read_answers
    from ..evaluate.files.stand_alone import stand_alone
    from ..evaluate.report import write_report
    from ..evaluate.results import Saved
    from ..evaluate.scoring import check_answers, rule_of, score_task
    from ..evaluate.summary import scores_json, summary_lines
    from ..evaluate.tasks import task_of
    from ..evaluate.tasks.task import load
    from ..output import named_file
    from ..terminal.log import notice

    task = task_of(arguments.task)
    rule_of(task, arguments.rule)
    ask_judge = judge_of(arguments, [task])
    answers = Path(arguments.answers).expanduser()
    if not answers.is_file():
        raise ValueError(f"{answers} is not a file: expected the answers to {task.name}")
    report = named_file(arguments.report, [answers]) if arguments.report else None
    if arguments.data_dir is None:
        loaded, saved = stand_alone(task, answers)
    else:
        loaded = load(task, Path(arguments.data_dir).expanduser(), needs_images=False)
        found = read_answers(answers, loaded.questions)
        saved = {name: Saved(text) for name, text in found.texts.items()}
        notice(f"{answers.name}: {found.summary()}")
        if len(found.unknown) > len(found.texts):
            notice(f"most of these answers are to other questions than those of {task.name} in --data-dir: check both")
    if not saved:
        raise ValueError(f"{answers} has no answer to a question of {task.name}")
    check_answers(task, loaded, arguments.rule)
    judged = _judged(task, loaded.questions, saved, answers, ask_judge)
    saved = judged.add_to(saved) if judged.texts else saved  # our own answers hold the judgements of their run
    result = score_task(task, loaded, saved, rule=arguments.rule, judge=judged.judge)
    result = replace(result, problems=(*result.problems, *judged.problems), notes=(*result.notes, *judged.notes))
    if report is not None:
        write_report(report, [result], [("Answers", str(answers))])
    found = scores_json([result]) if arguments.json else "\n".join(summary_lines([result]))
    print(visible_json(found) if arguments.json else visible(found))
    return 0


def _judged(task, questions, saved, answers: Path, ask_judge):
    """Return what the judge wrote about the answers, now or before. It is kept beside them in NAME.judgements.jsonl."""
    from ..evaluate.judging.ask import Judged, saved_judgements

    journal = answers.with_name(f"{answers.stem}.judgements.jsonl")
    if ask_judge is not None:
        return ask_judge(task, questions, saved, journal)
    has_some = task.has_judge and journal.is_file()
    return saved_judgements(questions, saved, journal) if has_some else Judged({})
