"""From a job to the sequences that answer it: images are decoded and texts tokenized. Runs beside the engine."""

from __future__ import annotations

import dataclasses

from ...generate.engine import Engine
from ...generate.sampling import SamplingParams
from ...generate.sequence import Sequence
from ...image.errors import ImageError
from ..protocol import Accepted, ImageCount, Job
from .answer_memory import AnswerMemory
from .images import NamedTiles, TileStore
from .prompt import Prompt, PromptTooLongError, chat_prompt, check_length, check_room, raw_prompt, sequence_for
from .work import Work


class JobOver(Exception):
    """Nobody waits for a job any more."""


class Preparation:
    """Prepares jobs for an engine. max_length: tokens of a prompt and its answer. Safe to use from several threads."""

    def __init__(self, processor, engine: Engine, tiles: TileStore, memory: AnswerMemory, max_length: int):
        self.processor, self.engine, self.max_length = processor, engine, max_length
        self.tiles, self.memory = tiles, memory

    def prepare(self, work: Work) -> None:
        """Give a job its prompt and sequences and tell that it is accepted, or tell why it is not.

        Raises what is nobody's mistake but ours.
        """
        job = work.job
        param = "messages" if job.prompt is None else "prompt"
        try:
            check_length(job.messages, job.prompt, self.max_length)
            prompt = self._prompt(work)
            room = check_room(prompt, self.max_length)
        except JobOver:
            return
        except ImageError as error:
            work.fail(400, str(error), param=param, code="invalid_image")
        except PromptTooLongError as error:
            work.fail(400, str(error), param=param, code="context_length_exceeded")
        except ValueError as error:
            work.fail(400, str(error), param=param)
        else:
            self._accept(work, prompt, room)

    def _accept(self, work: Work, prompt: Prompt, room: int) -> None:
        try:
            sequences = self._sequences(work.job, prompt, room)
        except ValueError as error:  # of the sampling: a grammar, an id that the vocabulary lacks
            work.fail(400, str(error))
            return
        work.prompt, work.sequences = prompt, sequences
        work.job = dataclasses.replace(work.job, messages=(), images=(), prompt=None)  # they may be large
        work.tell(self._accepted(work.job.id, prompt))

    def _prompt(self, work: Work) -> Prompt:
        job = work.job
        if job.prompt is not None:
            return raw_prompt(self.processor, job.prompt)
        return chat_prompt(self.processor, job.messages, self._images(work), self.memory, is_continued=job.is_continued)

    def _images(self, work: Work) -> list[NamedTiles]:
        """Return the images of a job; large ones take seconds, so that each asks whether the job is over."""
        number, prepared = len(work.job.images), []
        for index, image in enumerate(work.job.images, start=1):
            if work.is_over:
                raise JobOver
            prepared.append(self.tiles.prepare(image, f"image {index} of {number}" if number > 1 else "the image"))
        return prepared

    def _sequences(self, job: Job, prompt: Prompt, room: int) -> list[Sequence]:
        eos_ids = self.engine.model.config.eos_token_ids
        first = sequence_for(prompt, self.processor, job.sampling, room, eos_ids)
        self.engine.check(first)
        guide = first.ending.guide  # a large schema takes long to compile: the other answers get copies
        others = [
            sequence_for(prompt, self.processor, sampling, room, eos_ids, guide=guide and guide.copy())
            for sampling in (seeded(job.sampling, index) for index in range(1, job.num_answers))
        ]
        return [first, *others]

    def _accepted(self, job_id: str, prompt: Prompt) -> Accepted:
        images = tuple(
            ImageCount(tiles.size, len(tiles.pixels), tiles.num_tokens, name in self.engine.features)
            for name, tiles in prompt.images
        )
        return Accepted(job_id, len(prompt.keys), images, prompt.text)


def seeded(sampling: SamplingParams, index: int) -> SamplingParams:
    """Return the settings of one of several answers: with the seeds seed, seed + 1, and so on."""
    return sampling if sampling.seed is None else dataclasses.replace(sampling, seed=sampling.seed + index)
