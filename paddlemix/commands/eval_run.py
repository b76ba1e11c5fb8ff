"""`paddlemix eval run`: ask a model the questions of benchmarks, and score the answers."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..terminal.interrupts import STOPPED, Preempted
from ..terminal.next_steps import end_of_command, this_command
from ..terminal.visible import visible
from .card_options import add_card_option, loaded_on_cards, prepare_cards
from .judge_options import add_judge_options, judge_of
from .kept_answers import kept_answers
from .loading import add_loading_options, quantization_of
from .options import BUNDLED_MODEL, add_model_options, positive, resolve_models
from .parser import add_examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("task", nargs="+", metavar="TASK", help="benchmarks; `paddlemix eval list` lists them")
    add_model_options(parser)
    add_loading_options(parser)
    add_card_option(parser)
    parser.add_argument(
        "--data-dir", required=True, metavar="DIR", help="folder with the benchmarks' files, or one file of questions"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the answers and scores; a run goes on where it ended"
    )
    parser.add_argument("--limit", type=positive, default=None, metavar="N", help="ask only the first N questions")
    parser.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="questions answered side by side (default 16)"
    )
    parser.add_argument(
        "--prompt-style",
        default=None,
        metavar="STYLE",
        help="whose prompts and decoding: llava, lmms or vlmevalkit (default: the first that the benchmark has)",
    )
    ocr = parser.add_mutually_exclusive_group()
    ocr.add_argument("--ocr", action="store_true", default=None, help="with OCR tokens in the prompt (TextVQA)")
    ocr.add_argument("--no-ocr", dest="ocr", action="store_false", help="without OCR tokens in the prompt")
    parser.add_argument("--rule", default=None, help="how answers are read (default: the benchmark's own)")
    parser.add_argument("--max-new-tokens", type=positive, default=None, metavar="N", help="(default: the style's)")
    parser.add_argument("--temperature", type=float, default=None, help="0 is greedy (default: the style's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling, if temperature is not 0 (default 0)")
    add_judge_options(parser)
    add_examples(
        parser,
        "paddlemix eval run pope mme --model-path liuhaotian/llava-v1.5-7b --data-dir data --output out",
        "python -m paddle.distributed.launch paddlemix/examples/llava/eval/run.py pope --data-dir data --output out",
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer, score and report. Raises ValueError or OSError for a user's mistake, before the model is loaded."""
    prepare_cards(arguments)
    from ..evaluate.run import Plan, Share, claim, prepare
    from ..evaluate.tasks import task_of
    from ..terminal.log import notice

    tasks = {task.name: task for task in map(task_of, arguments.task)}
    plan = Plan(
        data_dir=Path(arguments.data_dir).expanduser(),
        output=Path(arguments.output).expanduser(),
        style=arguments.prompt_style,
        ocr=arguments.ocr,
        limit=arguments.limit,
        rule=arguments.rule,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
        num_at_a_time=arguments.batch_size,
    )
    claim(plan.output)
    works = [prepare(task, plan) for task in tasks.values()]
    share = Share.of_environment()
    ask_judge = judge_of(arguments, tasks.values()) if share.rank == 0 else None
    if share.rank == 0:
        if arguments.model_path == BUNDLED_MODEL:
            notice("the bundled tiny model answers, which knows colored shapes only: --model-path names another one")
        for work in works:
            if work.loaded.problems:
                notice(f"{work.task.name}: {work.loaded.summary()}")
    try:
        with kept_answers():
            _answer_all(arguments, works, plan, share)
            if share.rank == 0:
                _finish(works, plan, ask_judge)
    except Preempted:
        return STOPPED
    return 0


def _finish(works, plan, ask_judge) -> None:
    """Score, write the files, and print the table, where the files are, and what comes next."""
    from ..evaluate.outputs import REPORT, SCORES, finish
    from ..evaluate.summary import summary_lines

    def ask(work, saved, journal):
        return ask_judge(work.task, work.asked, saved, journal)

    results = finish(works, plan, ask if ask_judge else None)
    print(visible("\n".join(summary_lines(results))))
    rows = [
        ("result", f"{plan.output} ({SCORES}, and a folder of answers for each benchmark)"),
        ("report", f"{plan.output / REPORT} (open it in a browser)"),
    ]
    print("\n" + end_of_command(rows, _next_commands(works, plan)), flush=True)


def _next_commands(works, plan) -> list[tuple[str, str]]:
    """Return what can be done with the answers: a word, and the command as it can be pasted into a shell."""
    from ..evaluate.journal import ANSWERS

    command, output, name = this_command(), shlex.quote(str(plan.output)), works[0].task.name
    answers, data = shlex.quote(str(plan.output / name / ANSWERS)), shlex.quote(str(plan.data_dir))
    return [
        ("compare", f"{command} eval compare {output} OTHER_OUTPUT"),
        ("score", f"{command} eval score {name} --answers {answers} --data-dir {data}"),
    ]


def _answer_all(arguments: argparse.Namespace, works, plan, share) -> None:
    from ..checkpoints.source import open_source

    (folder,) = resolve_models(arguments, arguments.model_path)
    source = open_source(folder, arguments.model_base)
    with loaded_on_cards(arguments, source) as (model, processor):
        _answer_with(model, processor, arguments, works, plan, share)


def _answer_with(model, processor, arguments: argparse.Namespace, works, plan, share) -> None:
    from ..evaluate.identity import model_facts
    from ..evaluate.run import answer
    from ..generate.engine import Engine

    quantization = quantization_of(arguments)
    facts = model_facts(model, processor, arguments.model_path, quantization)
    engine = Engine(model, max_slots=plan.num_at_a_time)
    for work in works:
        answer(work, plan, model, processor, facts, share, engine)
