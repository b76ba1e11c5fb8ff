"""A conversation with a model that keeps what it has computed.

The key-value cache and the image features stay from turn to turn. The content of the cache is known by keys, see
`cache_keys`. A new turn is compared with the keys, the cache is trimmed to their common prefix, and only the rest is
read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from ..image.preprocess import ImageTiles
from .cache_keys import Key, embed_keys, num_common
from .engine import Engine
from .features import cache_of, encode_missing
from .prefix_cache import PrefixCache
from .sampling import Sampler, SamplingParams
from .speculation import Speculation
from .turn import ContextFullError as ContextFullError  # users of a session import it from here
from .turn import Turn, Writer, check_room, named_image, new_turn, prompt_ids


class ChatSession:
    """One conversation.

    template and system: other than the checkpoint's. max_cached_images: how many of the images that this session
    encoded stay in the model's feature cache (`features.cache_of`), which has its own limit. prefixes: shares
    prefilled tokens with other sessions of this model. num_prefilled: tokens that the last turn prefilled. num_passes:
    passes through the model in the last turn, its answer included.
    """

    def __init__(
        self,
        model,
        processor,
        *,
        template: str | None = None,
        system: str | None = None,
        sampling: SamplingParams | None = None,
        max_cached_images: int = 8,
        prefixes: PrefixCache | None = None,
    ):
        self.model = model
        self.processor = processor.with_template(template) if template else processor
        self.system = system
        self.sampling = sampling or SamplingParams()
        self.turns: list[Turn] = []
        self.num_prefilled = 0
        self.num_passes = 0
        self._prefixes = prefixes
        self._feature_cache = cache_of(model)
        self._max_cached_images = max_cached_images
        self._encoded: OrderedDict[str, None] = OrderedDict()  # images encoded by this session, last used at the end
        self._cached: list[Key] = []
        self._engine: Engine | None = None

    def ask(self, text: str, images: Sequence[Any] | None = None, sampling: SamplingParams | None = None) -> str:
        """Return the whole answer; see `stream`."""
        return "".join(self.stream(text, images, sampling))

    def stream(
        self, text: str, images: Sequence[Any] | None = None, sampling: SamplingParams | None = None
    ) -> Generator[str, None, None]:
        """Start an answer and return an iterator of its text.

        `<image>` in the text is plain text; images (path, URL, data URI, bytes, PIL) come before the text. If the
        caller stops iterating, the answer so far stays in the conversation. Raises ImageError for a bad image and
        ContextFullError if there is no room, before anything is changed.
        """
        sampling = sampling or self.sampling
        turn = self._new_turn(text, images or ())
        keys = self._keys() + turn.prompt_keys
        room = check_room(len(keys), self.model.config.language.max_position_embeddings)
        features = self._encode(turn.images, max(self._max_cached_images, len(turn.images)))
        self.turns.append(turn)
        answer = self._answer(turn, keys, features, sampling, room)
        next(answer)  # enter its `try`, so that the question is removed if the answer is never read
        return answer

    def clear(self) -> None:
        """Forget the conversation; encoded images stay."""
        self.turns = []

    def drop_oldest(self, num_turns: int = 1) -> None:
        """Forget the oldest turns. The system text moves to the turn that is then first."""
        self.turns = self.turns[num_turns:]
        if self.turns:
            first = self.turns[0]
            first.prompt_ids = prompt_ids(self.processor, first.question, first.images, None, self.system)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as role/content dictionaries; content is text, with `<image>` for each image."""
        listed = []
        for turn in self.turns:
            listed.append({"role": "user", "content": "<image>".join(turn.question.pieces)})
            listed.append({"role": "assistant", "content": turn.answer})
        return listed

    @property
    def num_tokens(self) -> int:
        """How many tokens of the context the conversation takes."""
        return len(self._keys())

    def _new_turn(self, text: str, images: Sequence[Any]) -> Turn:
        named = [named_image(self.processor, image) for image in images]
        return new_turn(self.processor, text, named, self.turns[-1] if self.turns else None, self.system)

    def _keys(self) -> list[Key]:
        keys: list[Key] = []
        for turn in self.turns:
            keys += turn.prompt_keys + list(turn.answer_ids)
        return keys

    def _encode(self, images: Sequence[tuple[str, ImageTiles]], max_kept: int) -> dict[str, Any]:
        """Return the features of images. Only the max_kept last used ones that this session encoded stay cached."""
        cache, named = self._feature_cache, dict(images)
        missing = {name for name in named if name not in cache}
        found = encode_missing(self.model, named, cache)
        for name in named:
            if name in missing or name in self._encoded:
                self._encoded[name] = None
                self._encoded.move_to_end(name)
        while len(self._encoded) > max_kept:
            cache.drop(self._encoded.popitem(last=False)[0])
        return found

    def _answer(
        self, turn: Turn, keys: list[Key], features: dict[str, Any], sampling: SamplingParams, room: int
    ) -> Generator[str, None, None]:
        writer = Writer(turn, self.processor, sampling, self.model.config.eos_token_ids, room)
        sampler = Sampler(sampling)
        num_known = self.processor.tokenizer.vocab_size  # later rows are padding of the weights
        try:
            yield ""  # for `stream`
            num_before = self._engine.num_passes if self._engine else 0
            logits = self._prefill(keys, features, writer.budget)
            features.clear()  # may be large, and the answer may take long
            read = self._read
            if sampling.lookup:
                read = Speculation(self._engine, self._cached, sampling.lookup, len(keys) + writer.budget).read
            while writer.is_open:
                token = sampler(logits[:num_known])
                text = writer.append(token)
                self.num_passes = self._engine.num_passes - num_before
                if text:
                    yield text
                if writer.is_open:
                    logits = read(token)
        finally:
            if turn.finish_reason == "interrupted" and not turn.answer_ids and turn in self.turns:
                self.turns.remove(turn)

    def _read(self, token: int) -> np.ndarray:
        """Append a token to the cache; return the logits [vocab] after it."""
        logits = self._engine.read_ids([token], np.array([[len(self._cached)]]))[0]
        self._cached.append(token)
        return logits

    def _prefill(self, keys: list[Key], features: dict[str, Any], budget: int) -> np.ndarray:
        """Make the cache contain `keys`, reading only the missing ones; return the last place's logits [vocab].

        At least the last place is read. features: of images among the keys, as far as they are known.
        """
        num_places = len(keys) + budget
        if self._engine is None:
            self._engine = Engine(self.model, 1, num_places)
        engine = self._engine
        engine.set_lengths([num_places])
        start = min(num_common(self._cached[: engine.length], keys), len(keys) - 1)
        while start > 0 and not isinstance(keys[start], int) and keys[start][1] > 0:
            start -= 1  # not in the middle of an image
        self._cached = self._cached[:start]
        engine.cache.trim(start)
        engine.cache.reserve(num_places)
        if self._prefixes is not None:
            start = self._prefixes.load(engine, keys[:-1])
            self._cached = keys[:start]
        self.num_prefilled = len(keys) - start
        logits = engine.read(self._embed(keys[start:], features), np.arange(start, len(keys))[None])
        self._cached = list(keys)
        if self._prefixes is not None:
            self._prefixes.keep(engine, keys)
        return logits[0]

    def _embed(self, keys: list[Key], features: dict[str, Any]):
        """Return embeddings [1, T, H] for keys, encoding the images among them whose features are not known."""
        names = {key[0] for key in keys if not isinstance(key, int)}
        absent = [image for turn in self.turns for image in turn.images if image[0] in names - set(features)]
        return embed_keys(self.model, [keys], {**self._encode(absent, self._max_cached_images), **features})
