"""Have a judge compare two answers to each question, as LLaVA's eval_gpt_review_visual.py.

The judge is any OpenAI-compatible server: OPENAI_API_KEY and OPENAI_BASE_URL name it. A file that has reviews is
continued.
"""

from __future__ import annotations

import argparse
from pathlib import Path

JUDGE = "gpt-4"  # of the first version; OpenAI has retired gpt-4-0314, which later ones name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script, and a few more."""
    parser.set_defaults(sets_environment=True)  # it runs no model
    parser.add_argument("-q", "--question", type=Path, required=True, help="JSON lines with the questions")
    parser.add_argument(
        "-c", "--context", type=Path, required=True, help="JSON lines that describe the images: caps_boxes_*.jsonl"
    )
    parser.add_argument(
        "-a", "--answer-list", type=Path, nargs="+", required=True, help="answers: of the reference, of the model"
    )
    parser.add_argument("-r", "--rule", type=Path, default=None, help="LLaVA's rule.json (default: our own rules)")
    parser.add_argument("-o", "--output", required=True, help="review file to write or to continue")
    parser.add_argument("--max-tokens", type=int, default=1024, help="limit of a review (default: 1024)")
    parser.add_argument("--judge-model", default=JUDGE, help=f"model that judges (default: {JUDGE})")
    parser.add_argument("--base-url", default=None, help="of the judge's server (default: OPENAI_BASE_URL)")
    parser.add_argument("--num-parallel", type=int, default=8, help="requests at a time (default: 8)")
    parser.add_argument(
        "--compat",
        action="store_true",
        help="read reviews as LLaVA does: (-1, -1) for a review without points, which the means count",
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask the judge and write the reviews; 1 if some are missing."""
    from ..evaluate.item import named
    from ..evaluate.judging.judge import Judge
    from ..evaluate.judging.review_files import ReviewInputs, write_reviews
    from ..evaluate.judging.rules import review_protocol
    from ..output import named_file
    from ..terminal.log import notice
    from ..terminal.sizes import plural
    from ..terminal.visible import visible

    if len(arguments.answer_list) != 2:
        raise ValueError(f"--answer-list has {len(arguments.answer_list)} files, expected 2: reference and model")
    if min(arguments.max_tokens, arguments.num_parallel) < 1:
        raise ValueError("--max-tokens and --num-parallel must be 1 or more")
    files = [arguments.question, arguments.context, *arguments.answer_list]
    inputs = ReviewInputs(*(path.expanduser() for path in files))
    output = named_file(arguments.output, files)
    rule = None if arguments.rule is None else arguments.rule.expanduser()
    done = write_reviews(
        inputs,
        output,
        Judge(arguments.judge_model, arguments.base_url),
        review_protocol(rule, max_tokens=arguments.max_tokens),
        is_compat=arguments.compat,
        num_parallel=arguments.num_parallel,
    )
    if done.problems:
        notice(f"{named(done.problems, 'reviews are missing')}; run the command again to ask for them")
    print(visible(f"{output}: {plural(done.num_added, 'review')} added, {done.num_before} there before"))
    return 1 if done.problems else 0
