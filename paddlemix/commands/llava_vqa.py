"""Ask a model the questions of a file, as LLaVA's model_vqa.py and model_vqa_loader.py do."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .card_options import add_card_option, loaded_on_cards, prepare_cards
from .kept_answers import kept_answers
from .loading import add_loading_options
from .options import add_model_options, resolve_models

if TYPE_CHECKING:
    from ..checkpoints.source import Source
    from ..evaluate.item import Question
    from ..evaluate.results import Saved

Asked = Iterator[tuple["Question", "Saved"]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script, those of its first version included, and the package's own."""
    add_script_options(parser, "JSON lines with question_id, image and text")


def add_script_options(parser: argparse.ArgumentParser, questions: str) -> None:
    """Add the options that the scripts have in common. questions: what the file of questions holds."""
    add_model_options(parser)
    parser.add_argument("--model-name", dest="model_path", default=argparse.SUPPRESS, help="the same as --model-path")
    parser.add_argument(
        "--base-model-path", dest="model_base", default=argparse.SUPPRESS, help="the same as --model-base"
    )
    add_loading_options(parser)
    add_card_option(parser)
    parser.add_argument("--image-folder", default="", help="folder of the images that the questions name")
    parser.add_argument("--question-file", default="tables/question.jsonl", help=questions)
    parser.add_argument(
        "--answers-file", default="answer.jsonl", help="file to write; one that was begun is continued (answer.jsonl)"
    )
    parser.add_argument("--mm-projector", default=None, metavar="FILE", help="projector to use instead of the model's")
    parser.add_argument("--vision-tower", default=None, help="not used: the model folder holds or names its tower")
    parser.add_argument("--num-chunks", type=int, default=1, help="divide the questions into this many parts")
    parser.add_argument("--chunk-idx", type=int, default=0, help="the part to answer, from 0")
    parser.add_argument("--temperature", type=float, default=0.2, help="0: always the likeliest token (default 0.2)")
    parser.add_argument("--top_p", "--top-p", type=float, default=None, help="(default: all tokens)")
    parser.add_argument("--num_beams", "--num-beams", type=int, default=1, help="only 1: there is no beam search")
    parser.add_argument("--max_new_tokens", "--max-new-tokens", type=int, default=1024, help="(default 1024)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")
    parser.add_argument("--batch-size", type=int, default=16, help="questions answered side by side (default 16)")


def run(arguments: argparse.Namespace) -> int:
    """Answer the questions that have no answer yet. Raises ValueError or OSError for a user's mistake."""
    from ..evaluate.files.question_file import read_questions
    from ..evaluate.runner import ask_all

    questions = read_questions(Path(arguments.question_file).expanduser(), Path(arguments.image_folder).expanduser())

    def ask(model, processor, left: Sequence[Question], engine) -> Asked:
        return ask_all(model, processor, left, decoding_of(arguments), engine=engine)

    return answer_file_of(arguments, questions, ask)


def decoding_of(arguments: argparse.Namespace):
    """Return how answers are chosen."""
    from ..evaluate.runner import Decoding

    top_p = 1.0 if arguments.top_p is None else arguments.top_p
    return Decoding(arguments.max_new_tokens, arguments.temperature, seed=arguments.seed, top_p=top_p)


def answer_file_of(arguments: argparse.Namespace, questions: Sequence[Question], ask: Callable[..., Asked]) -> int:
    """Write the answers of a chunk of the questions. ask: of the model, its processor, questions and an engine.

    Raises ValueError after the last answer for questions that could not be asked.
    """
    from ..evaluate.files.question_file import answer_file, chunk_of, model_id_of
    from ..evaluate.item import Problem, named
    from ..output import named_file
    from ..terminal.log import notice

    prepare_cards(arguments)
    _check(arguments)
    decoding_of(arguments).sampling("")  # so that a wrong number is an error before the model is loaded
    chunk = chunk_of(questions, arguments.num_chunks, arguments.chunk_idx)
    path = named_file(arguments.answers_file, [Path(arguments.question_file)])
    problems: list[Problem] = []
    with answer_file(path, chunk, model_id_of(arguments.model_path)) as answers:
        if len(answers.left) < len(chunk):
            num_kept = len(chunk) - len(answers.left)
            notice(f"{num_kept:,} of {len(chunk):,} answers are in {path} already; remove it to ask all again")
        if answers.left:
            with kept_answers():
                for question, saved in _asked(arguments, answers.left, ask):
                    answers.add(question, saved.output)
                    problem = Problem(path.name, saved.problem, str(question.row["question_id"]))
                    problems += [problem] * bool(saved.problem)
    if problems:
        raise ValueError(f"{named(problems, 'questions could not be asked')}; the other answers are in {path}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise ValueError for options that LLaVA's scripts have and that cannot be followed here."""
    if arguments.num_beams != 1:
        raise ValueError(f"--num_beams is {arguments.num_beams}: there is no beam search; leave it out, or give 1")
    if arguments.vision_tower is not None:
        raise ValueError(
            "--vision-tower is not used: the model folder holds or names its vision tower. Leave it out, or join a "
            "language model, a tower and a projector with `paddlemix compose`"
        )
    if arguments.mm_projector is not None and arguments.model_base is not None:
        raise ValueError("--mm-projector replaces the projector of --model-path: leave out --model-base")
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size is {arguments.batch_size}: expected at least 1")


def _asked(arguments: argparse.Namespace, left: Sequence[Question], ask: Callable[..., Asked]) -> Asked:
    """Yield each question with its answer, with a bar of progress."""
    from tqdm import tqdm

    from ..generate.engine import Engine
    from ..terminal.log import notice

    with loaded_on_cards(arguments, _source(arguments)) as (model, processor):
        notice(
            "unlike in LLaVA's script, questions are answered side by side, an answers file that was begun is "
            f"continued, and without --conv-mode the chat template is the checkpoint's own (now "
            f"{processor.template.name})"
        )
        found = ask(model, processor, left, Engine(model, max_slots=arguments.batch_size))
        yield from tqdm(found, total=len(left), unit=" answers", mininterval=0.5, dynamic_ncols=True)


def _source(arguments: argparse.Namespace) -> Source:
    from ..checkpoints.source import open_source

    (folder,) = resolve_models(arguments, arguments.model_path)
    if arguments.mm_projector is not None:
        return open_source(Path(arguments.mm_projector).expanduser(), folder)
    return open_source(folder, arguments.model_base)
