"""Ask a model the questions of ScienceQA in LLaVA's form, as its model_vqa_science.py does."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .llava_vqa import Asked, add_script_options, answer_file_of, decoding_of

if TYPE_CHECKING:
    from ..evaluate.item import Question

NUM_ANSWER_TOKENS = 64  # of the second generation
NUM_AT_ONCE = 64  # questions that are reasoned about before they are answered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of LLaVA's script, those of its first version included, and the package's own."""
    add_script_options(parser, "JSON list with id, image and conversations, as in llava_test_CQM-A.json")
    parser.add_argument(
        "--single-pred-prompt", action="store_true", help="end each question with an instruction to give the letter"
    )
    parser.add_argument(
        "--answer-prompter",
        action="store_true",
        help="take what is generated for a reasoning, and generate the answer in a second step, as LLaVA's first "
        "version does; its later versions ignore this option",
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer the questions that have no answer yet. Raises ValueError or OSError for a user's mistake."""
    from ..evaluate.files.question_file import read_conversations
    from ..evaluate.runner import ask_all

    path, folder = Path(arguments.question_file).expanduser(), Path(arguments.image_folder).expanduser()
    questions = read_conversations(path, folder, is_letter_asked=arguments.single_pred_prompt)

    def ask(model, processor, left: Sequence[Question], engine) -> Asked:
        if arguments.answer_prompter:
            return _ask_twice(arguments, model, processor, left, engine)
        return ask_all(model, processor, left, decoding_of(arguments), engine=engine)

    return answer_file_of(arguments, questions, ask)


def _ask_twice(arguments: argparse.Namespace, model, processor, questions: Sequence[Question], engine) -> Asked:
    """Yield each question with its reasoning and the answer that the model gives after it.

    NOTE: as in the original, the reasoning follows the prompt without the space that was there in training.
    """
    from ..evaluate.files.question_file import ANSWER_LEAD, REASONING_END
    from ..evaluate.runner import ask_all

    decoding = decoding_of(arguments)
    for start in range(0, len(questions), NUM_AT_ONCE):
        part = questions[start : start + NUM_AT_ONCE]
        reasoned = {one.id: saved for one, saved in ask_all(model, processor, part, decoding, engine=engine)}
        yield from ((one, reasoned[one.id]) for one in part if reasoned[one.id].output is None)
        starts = {name: saved.output + REASONING_END for name, saved in reasoned.items() if saved.output is not None}
        again = [one for one in part if one.id in starts]
        second = replace(decoding, max_new_tokens=NUM_ANSWER_TOKENS)
        for question, saved in ask_all(model, processor, again, second, engine=engine, answer_starts=starts):
            if saved.output is None:
                yield question, saved
            else:
                text = reasoned[question.id].output + ANSWER_LEAD + saved.output
                yield question, replace(saved, output=text)
