"""The options that name a judge, and the function that asks it."""

from __future__ import annotations

import argparse

from .options import positive


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a judge."""
    parser.add_argument(
        "--judge",
        default=None,
        metavar="MODEL",
        help="judge of llava_bench, gpt_review and mmvet (key: OPENAI_API_KEY)",
    )
    parser.add_argument("--judge-url", default=None, metavar="URL", help="its server (default: $OPENAI_BASE_URL)")
    parser.add_argument("--judge-rules", default=None, metavar="FILE", help="its instructions (default: our own)")
    parser.add_argument("--judge-runs", type=positive, default=1, metavar="N", help="gradings of an answer (default 1)")


def judge_of(arguments: argparse.Namespace, tasks):
    """Return the function that asks the judge about a task: (task, questions, saved, journal) -> Judged.

    None without a judge. Raises ValueError for settings that cannot be used, and if no task has answers for a judge.
    """
    if not arguments.judge:
        if arguments.judge_url or arguments.judge_rules or arguments.judge_runs > 1:
            raise ValueError("there are settings of a judge, and no judge: name its model with --judge")
        return None
    judged = [task for task in tasks if task.has_judge]
    if not judged:
        names = ", ".join(task.name for task in tasks)
        raise ValueError(f"--judge {arguments.judge}: no judge reads the answers to {names}; leave --judge out")
    from ..evaluate.judging.ask import judge_all
    from ..evaluate.judging.judge import Judge
    from ..evaluate.judging.rules import protocol_of

    judge = Judge(arguments.judge, arguments.judge_url)
    protocols = {task.name: protocol_of(task, arguments.judge_rules, num_runs=arguments.judge_runs) for task in judged}

    def ask(task, questions, saved, journal):
        return judge_all(task, questions, saved, judge, journal, protocols[task.name])

    return ask
