"""From a job to the sequences that answer it: images are decoded and texts tokenized. Runs beside the engine."""

from __future__ import annotations

import dataclasses

from ..generate.engine import Engine
from ..generate.sampling import SamplingParams
from ..generate.sequence import Sequence
from ..image.errors import ImageError
from .answer_memory import AnswerMemory
from .images import NamedTiles, TileStore
from .prompt import Prompt, PromptTooLongError, chat_prompt, check_length, check_room, raw_prompt, sequence_for
from .protocol import Accepted, ImageCount, Job
from .work import Work


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
            prompt = self._prompt(job)
            room = check_room(prompt, self.max_length)
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
        for sequence in sequences:
            sequence.arrived = work.arrived
        work.prompt, work.sequences = prompt, sequences
        work.tell(self._accepted(work.job, prompt))

    def _prompt(self, job: Job) -> Prompt:
        if job.prompt is not None:
            return raw_prompt(self.processor, job.prompt)
        images = self._images(job)
        return chat_prompt(self.processor, job.messages, images, self.memory, is_continued=job.is_continued)

    def _images(self, job: Job) -> list[NamedTiles]:
        number = len(job.images)
        names = [f"image {index} of {number}" if number > 1 else "the image" for index in range(1, number + 1)]
        return [self.tiles.prepare(image, name) for image, name in zip(job.images, names, strict=True)]

    def _sequences(self, job: Job, prompt: Prompt, room: int) -> list[Sequence]:
        eos_ids = self.engine.model.config.eos_token_ids
        sequences = [
            sequence_for(prompt, self.processor, sampling, room, eos_ids)
            for sampling in (seeded(job.sampling, index) for index in range(job.num_answers))
        ]
        self.engine.check(sequences[0])
        return sequences

    def _accepted(self, job: Job, prompt: Prompt) -> Accepted:
        images = tuple(
            ImageCount(tiles.size, len(tiles.pixels), tiles.num_tokens, name in self.engine.features)
            for name, tiles in prompt.images
        )
        return Accepted(job.id, len(prompt.keys), images, prompt.text)


def seeded(sampling: SamplingParams, index: int) -> SamplingParams:
    """Return the settings of one of several answers: with the seeds seed, seed + 1, and so on."""
    return sampling if sampling.seed is None else dataclasses.replace(sampling, seed=sampling.seed + index)
