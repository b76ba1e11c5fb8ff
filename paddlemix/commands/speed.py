"""The speed of a model on the current device, and how close it is to the limits of the machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import paddle
from PIL import Image

from ..constants import DTYPE_BYTES, IMAGE_TOKEN_ID
from ..data.collate import collate
from ..data.sample import Batch, Sample
from ..device import num_threads
from ..generate.batch import generate
from ..generate.engine import Engine
from ..generate.sampling import SamplingParams
from ..generate.sequence import Ending, Sequence
from ..generate.session import ChatSession
from ..image.preprocess import ImageTiles, preprocess
from ..models.config import LanguageConfig, LlavaConfig
from ..models.quantized import quantized_layers
from ..ops.dequantize import num_bytes
from ..terminal.sizes import plural
from .machine_limits import copy_speed, finish, matrix_speed, median_seconds

NUM_TEXT = 50  # tokens of text beside an image
PROMPT = 32  # tokens of a prompt of a batch
NUM_ANSWERED = 16  # tokens of the first turn's answer
QUESTIONS = ("What is in the image?", "What else?")
COPY, MATRIX = "copy", "matrix"


@dataclass(frozen=True)
class Plan:
    """Sizes to measure: prompt lengths, contexts to decode after, batch sizes, decoding steps, rounds of each."""

    lengths: tuple[int, ...]
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    num_steps: int
    num_rounds: int

    def __post_init__(self):
        for name in ("lengths", "contexts", "batches"):
            if not all(number >= 1 for number in getattr(self, name)):
                raise ValueError(f"{name} are {list(getattr(self, name))}: expected numbers of at least 1")
        for name in ("num_steps", "num_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.removeprefix('num_')} is {getattr(self, name)}: expected at least 1")

    def within(self, context: int) -> Plan:
        """Return the plan with sizes that do not fit a model's context reduced to the largest that fits."""
        num_steps = min(self.num_steps, max(context // 4, 1))
        most = max(context - num_steps, 1)
        lengths, contexts = (tuple(sorted({min(n, most) for n in part})) for part in (self.lengths, self.contexts))
        return Plan(lengths, contexts, self.batches, num_steps, self.num_rounds)


@dataclass(frozen=True)
class Measurement:
    """A median of seconds, the rate in units a second, and the machine's limit that applies, or None.

    cost: bytes to read for the limit "copy", operations for "matrix". fraction: how much of the limit is reached, see
    `compared`.
    """

    what: str
    size: str
    seconds: float
    rate: float | None = None
    unit: str = ""
    limit: str | None = None
    cost: float | None = None
    fraction: float | None = None

    def compared(self, limits: dict[str, float]) -> Measurement:
        """Return the measurement with its fraction of a machine's limits."""
        if self.limit is None:
            return self
        return dataclasses.replace(self, fraction=self.cost / self.seconds / limits[self.limit])


def machine_limits(dtype: str, num_rounds: int) -> dict[str, float]:
    """Return bytes a second and operations a second. Needs memory: read the model's peak memory before."""
    return {COPY: copy_speed(num_rounds, num_threads()), MATRIX: matrix_speed(dtype, num_rounds)}


class Meter:
    """Measures one model. dtype: of its weights, and of keys and values."""

    def __init__(self, model, dtype: str, plan: Plan):
        self.model, self.dtype = model, dtype
        self.plan = plan.within(model.config.language.max_position_embeddings)

    def rows(self, processor) -> Iterator[Measurement]:
        """Yield each measurement as soon as it is taken. processor None omits the turns, which need text."""
        yield self._vision()
        for length in self.plan.lengths:
            yield self._prefill(length)
        image = self._image()
        if image.num_tokens + NUM_TEXT <= self.model.config.language.max_position_embeddings:
            yield self._prefill_image(image)
        for context in self.plan.contexts:
            yield self._decode(context)
        for num_rows in self.plan.batches:
            yield self._batch(num_rows)
        if processor is not None:
            yield from self._turns(processor)

    def _time(self, work: Callable[[], object]) -> float:
        with paddle.no_grad():
            return median_seconds(work, self.plan.num_rounds)

    def _image(self, seed: int = 0) -> ImageTiles:
        return preprocess(_noise(self.model.config.image.side, seed), self.model.config.image)

    def _ids(self, num_tokens: int, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(3, self.model.config.language.vocab_size, num_tokens)

    def _vision(self) -> Measurement:
        tiles = self._image()
        num_tiles = len(tiles.pixels)
        seconds = self._time(lambda: finish(self.model.encode_images(tiles.pixels, [num_tiles], [tiles.size])[0]))
        flops = vision_flops(self.model.config, num_tiles)
        size = plural(num_tiles, "tile")
        return Measurement("vision", size, seconds, num_tiles / seconds, "tiles/s", MATRIX, flops)

    def _prefill(self, length: int) -> Measurement:
        """Measure the time to the first token of a prompt of text."""
        batch = collate([Sample(self._ids(length), None)])
        seconds = self._time(lambda: self._generate(batch, 1))
        flops = prefill_flops(self.model.config.language, length)
        return Measurement("prefill", plural(length, "token"), seconds, length / seconds, "tokens/s", MATRIX, flops)

    def _prefill_image(self, tiles: ImageTiles) -> Measurement:
        """Measure a prompt with an image, the vision tower included."""
        before = NUM_TEXT // 5
        text = self._ids(NUM_TEXT)
        ids = np.concatenate([text[:before], np.full(tiles.num_tokens, IMAGE_TOKEN_ID), text[before:]])
        batch = collate([Sample(ids, None, (tiles,))])
        seconds = self._time(lambda: self._generate(batch, 1))
        config = self.model.config
        flops = prefill_flops(config.language, len(ids)) + vision_flops(config, len(tiles.pixels))
        return Measurement("prefill", f"image + {NUM_TEXT}", seconds, len(ids) / seconds, "tokens/s", MATRIX, flops)

    def _decode(self, context: int) -> Measurement:
        num_steps, engine = self.plan.num_steps, Engine(self.model, prefix_bytes=0)
        seconds = float(np.median([self._steps(engine, context) for _ in range(self.plan.num_rounds + 1)][1:]))
        steps = plural(num_steps, "token")
        cost = num_steps * decode_bytes(self.model, context + num_steps // 2, self.dtype)
        return Measurement("decode", f"{steps} after {context}", seconds, num_steps / seconds, "tokens/s", COPY, cost)

    def _steps(self, engine: Engine, context: int) -> float:
        """Return the seconds that an engine takes for the tokens after the first one."""
        sampling = SamplingParams(max_new_tokens=self.plan.num_steps + 1, ignore_eos=True)
        sequence = Sequence(self._ids(context).tolist(), {}, sampling, sampling.max_new_tokens, Ending())
        engine.add(sequence)
        while not sequence.num_generated:
            engine.step()
        start = time.perf_counter()
        while sequence.is_open:
            engine.step()
        return time.perf_counter() - start

    def _generate(self, batch: Batch, num_tokens: int) -> None:
        """Generate with a new engine, which knows neither the prompts nor the images."""
        sampling = SamplingParams(max_new_tokens=num_tokens, ignore_eos=True)
        generate(self.model, batch, sampling, engine=Engine(self.model, prefix_bytes=0))

    def _batch(self, num_rows: int) -> Measurement:
        """Measure short answers to text prompts: tokens of all rows a second, with the time of the prompts."""
        most = self.model.config.language.max_position_embeddings - self.plan.num_steps
        batch = collate([Sample(self._ids(min(PROMPT, most), seed), None) for seed in range(num_rows)])
        seconds = self._time(lambda: self._generate(batch, self.plan.num_steps))
        num_done = num_rows * self.plan.num_steps
        return Measurement(
            "batch",
            f"{plural(num_rows, 'row')} of {plural(self.plan.num_steps, 'token')}",
            seconds,
            num_done / seconds,
            "tokens/s",
        )

    def _turns(self, processor) -> Iterator[Measurement]:
        """Measure the time to the first token of a question with an image, preprocessing included, and of the next."""
        side, seconds = self.model.config.image.side, ([], [])
        for number in range(self.plan.num_rounds + 1):
            session = ChatSession(self.model, processor)
            image = _noise(side, number)  # a new one, which no cache contains
            seconds[0].append(_first_token(session, QUESTIONS[0], [image]))
            session.clear()
            session.ask(QUESTIONS[0], [image], SamplingParams(max_new_tokens=NUM_ANSWERED, ignore_eos=True))
            seconds[1].append(_first_token(session, QUESTIONS[1], []))
        for name, found in zip(("turn 1", "turn 2"), seconds, strict=True):
            yield Measurement(name, "first token", float(np.median(found[1:])))


def _first_token(session: ChatSession, question: str, images: list) -> float:
    start = time.perf_counter()
    session.ask(question, images, SamplingParams(max_new_tokens=1, ignore_eos=True))
    return time.perf_counter() - start


def _noise(side: int, seed: int) -> Image.Image:
    """Return a random image of two tiles by two."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (2 * side, 2 * side, 3), dtype=np.uint8))


def layer_weights(config: LanguageConfig) -> int:
    """Return the weights of one decoder layer's linear layers."""
    width, dim = config.hidden_size, config.head_dim
    attention = 2 * width * dim * (config.num_attention_heads + config.num_key_value_heads)
    return attention + (3 if config.is_gated else 2) * width * config.intermediate_size


def decode_bytes(model, context: int, dtype: str) -> int:
    """Return the bytes that a decoding step for one row must read: weights of layers and head, keys and values.

    Of all cards together, if several share the model.
    """
    config, size = model.config.language, DTYPE_BYTES[dtype]
    num_cards = 1 if model.cards is None else model.cards.degree
    layers = config.num_hidden_layers * layer_weights(config) * size
    codes = [num_bytes(layer.codes) for layer in quantized_layers(model).values()]
    head = config.hidden_size * config.vocab_size * size
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * context * size
    return (sum(codes) * num_cards if codes else layers) + head + cached


def prefill_flops(config: LanguageConfig, length: int) -> int:
    """Return the operations of reading `length` tokens: two a weight and token, causal attention, one row of logits."""
    attention = 2 * length * (length + 1) * config.num_attention_heads * config.head_dim
    layers = config.num_hidden_layers * (2 * length * layer_weights(config) + attention)
    return layers + 2 * config.hidden_size * config.vocab_size


def vision_flops(config: LlavaConfig, num_tiles: int) -> int:
    """Return the operations of the tower's used layers for some tiles, without the projector."""
    vision = config.vision
    length = config.image.patches_per_side**2 + int(vision.has_class_token)
    weights = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    attention = 4 * length * length * vision.hidden_size
    return num_tiles * vision.num_used_layers * (2 * length * weights + attention)
