"""A conversation with a model that keeps what it has computed.

The key-value cache and the image features stay from turn to turn. What the cache holds is known by keys: a token id, or
for a place inside a picture the hash of the picture and the place. A new turn is compared with the keys, the cache is
cut at the first difference, and only the rest is read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from ..image.tiles import ImageTiles
from .cache_keys import Key, embed_keys, num_common
from .engine import Engine
from .features import features_of
from .prefix_cache import PrefixCache
from .sampling import Sampler, SamplingParams
from .speculation import Continuation
from .turn import ContextFullError as ContextFullError  # callers of a session find it here
from .turn import Turn, Writer, check_room, named_picture, new_turn, prompt_ids


class ChatSession:
    """One conversation.

    template and system: other than the checkpoint's. max_cached_images: how many of the pictures that this session
    had to encode stay in the model's `feature_cache`, which has a bound of its own. prefixes: shares what was read with
    other sessions of this model. num_prefilled: tokens that the last turn had to read before its answer; num_passes:
    passes through the model that it took with its answer.
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
        self._max_cached_images = max_cached_images
        self._encoded: OrderedDict[str, None] = OrderedDict()  # by this session, the one used last at the end
        self._cached: list[Key] = []
        self._engine: Engine | None = None

    def ask(self, text: str, images: Sequence[Any] | None = None, sampling: SamplingParams | None = None) -> str:
        """Return the whole answer; see `stream`."""
        return "".join(self.stream(text, images, sampling))

    def stream(
        self, text: str, images: Sequence[Any] | None = None, sampling: SamplingParams | None = None
    ) -> Generator[str, None, None]:
        """Start an answer and return an iterator of its text.

        `<image>` in the text is just text; images (path, URL, data URI, bytes, PIL) stand before it. Whoever stops
        iterating keeps the answer so far in the conversation. Raises ImageError for a bad picture and ContextFullError
        when there is no room, before anything is changed.
        """
        sampling = sampling or self.sampling
        turn = self._new_turn(text, images or ())
        keys = self._keys() + turn.prompt_keys
        room = check_room(len(keys), self.model.config.language.max_position_embeddings)
        features = self._features_of(turn.pictures, max(self._max_cached_images, len(turn.pictures)))
        self.turns.append(turn)
        answer = self._answer(turn, keys, features, sampling, room)
        next(answer)  # enter its `try`, so that an answer nobody reads takes its question back
        return answer

    def clear(self) -> None:
        """Forget the conversation; encoded pictures stay."""
        self.turns = []

    def drop_oldest(self, num_turns: int = 1) -> None:
        """Forget the oldest turns. The turn that is then first gets the system text."""
        self.turns = self.turns[num_turns:]
        if self.turns:
            first = self.turns[0]
            first.prompt_ids = prompt_ids(self.processor, first.question, first.pictures, None, self.system)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as role/content dictionaries; content is text, with `<image>` for each picture."""
        listed = []
        for turn in self.turns:
            listed.append({"role": "user", "content": "<image>".join(turn.question.pieces)})
            listed.append({"role": "assistant", "content": turn.answer})
        return listed

    @property
    def num_tokens(self) -> int:
        """How much of the context the conversation takes."""
        return len(self._keys())

    def _new_turn(self, text: str, images: Sequence[Any]) -> Turn:
        pictures = [named_picture(self.processor, image) for image in images]
        return new_turn(self.processor, text, pictures, self.turns[-1] if self.turns else None, self.system)

    def _keys(self) -> list[Key]:
        keys: list[Key] = []
        for turn in self.turns:
            keys += turn.prompt_keys + list(turn.answer_ids)
        return keys

    def _features_of(self, pictures: Sequence[tuple[str, ImageTiles]], max_kept: int) -> dict[str, Any]:
        """Return the features of pictures; then let no more stay than the max_kept ones of this session used last."""
        cache, named = self.model.feature_cache, dict(pictures)
        missing = {name for name in named if name not in cache}
        found = features_of(self.model, named)
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
        num_known = self.processor.tokenizer.vocab_size  # rows behind it are padding of the weights
        try:
            yield ""  # `stream` takes it
            num_before = self._engine.num_passes if self._engine else 0
            logits = self._prefill(keys, features, writer.budget)
            features.clear()  # may be many; the answer may take long
            reader = Continuation(self._engine, self._cached, sampling.lookup, len(keys) + writer.budget)
            while writer.is_open:
                token = sampler(logits[:num_known])
                text = writer.put(token)
                self.num_passes = self._engine.num_passes - num_before
                if text:
                    yield text
                if writer.is_open:
                    logits = reader.read(token)
        finally:
            if turn.finish_reason == "interrupted" and not turn.answer_ids and turn in self.turns:
                self.turns.remove(turn)

    def _prefill(self, keys: list[Key], features: dict[str, Any], budget: int) -> np.ndarray:
        """Bring the cache to `keys`, reading only what it does not hold; return the last place's logits [vocab].

        At least the last place is read. features: of pictures among the keys that are at hand.
        """
        # The cache holds less than `_cached` if reading all again was interrupted.
        num_held = self._engine.length if self._engine else 0
        start = min(num_common(self._cached[:num_held], keys), len(keys) - 1)
        while start > 0 and not isinstance(keys[start], int) and keys[start][1] > 0:
            start -= 1  # never in the middle of a picture
        self._cached = self._cached[:start]
        if self._engine is None:
            self._engine = Engine(self.model, 1, len(keys) + budget)
        cache = self._engine.cache
        cache.trim(start)
        cache.reserve(len(keys) + budget)
        if self._prefixes is not None:
            start = self._prefixes.load(self._engine, keys[:-1])
            self._cached = keys[:start]
        self.num_prefilled = len(keys) - start
        logits = self._engine.read(self._embed(keys[start:], features), np.arange(start, len(keys))[None])
        self._cached = list(keys)
        if self._prefixes is not None:
            self._prefixes.keep(self._engine, keys)
        return logits[0]

    def _embed(self, keys: list[Key], features: dict[str, Any]):
        """Return embeddings [1, T, H] for keys, encoding the pictures among them that are not at hand."""
        names = {key[0] for key in keys if not isinstance(key, int)}
        absent = [picture for turn in self.turns for picture in turn.pictures if picture[0] in names - set(features)]
        return embed_keys(self.model, [keys], {**self._features_of(absent, self._max_cached_images), **features})
