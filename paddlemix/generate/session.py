"""A conversation with a model that keeps what it has computed.

The key-value cache and the image features stay from turn to turn. What the cache holds is known by keys: a token id, or
for a place inside a picture the hash of the picture and the place. A new turn is compared with the keys, the cache is
cut at the first difference, and only the rest is read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from ..constants import IMAGE_TOKEN_ID
from ..conversation.messages import Message
from ..conversation.tokenize import tokenize_turn
from ..image.tiles import ImageTiles, content_key
from ..models.image_features import place
from .engine import Engine
from .sampling import Sampler, SamplingParams
from .stream import StreamDecoder

Key = int | tuple[str, int]


class ContextFullError(ValueError):
    """The conversation does not fit into the model's context any more; nothing was changed."""


@dataclass(eq=False)
class Turn:
    """A question with its pictures, the ids it became, and the ids that were generated for it.

    is_closed: the answer ended with its end mark. finish_reason: "stop", "length" (max_new_tokens), "context" (the
    context is full) or "interrupted". Turns that say the same are still two turns, hence no comparison by value.
    """

    question: Message
    pictures: list[tuple[str, ImageTiles]]
    prompt_ids: list[int]
    answer_ids: list[int] = field(default_factory=list)
    answer: str = ""
    is_closed: bool = False
    finish_reason: str = "interrupted"


class ChatSession:
    """One conversation. template and system: other than the checkpoint's; max_cached_images: pictures kept encoded."""

    def __init__(
        self,
        model,
        processor,
        *,
        template: str | None = None,
        system: str | None = None,
        sampling: SamplingParams | None = None,
        max_cached_images: int = 8,
    ):
        self.model = model
        self.processor = processor.with_template(template) if template else processor
        self.system = system
        self.sampling = sampling or SamplingParams()
        self.turns: list[Turn] = []
        self.num_prefilled = 0  # tokens that the last turn had to read before its answer
        self._max_cached_images = max_cached_images
        self._features: OrderedDict[str, Any] = OrderedDict()
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
        keys = self._keys() + _keys_of(turn.prompt_ids, turn.pictures)
        room = self.model.config.language.max_position_embeddings - len(keys)
        if room < 1:
            raise ContextFullError(
                f"this turn would make the conversation {len(keys)} tokens long, but the context of the model holds "
                f"{self.model.config.language.max_position_embeddings}: start again (/clear) or drop old turns"
            )
        budget = min(sampling.max_new_tokens, room)
        self._features_of(turn.pictures, max(self._max_cached_images, len(turn.pictures)))
        self.turns.append(turn)
        answer = self._answer(turn, keys, sampling, budget)
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
            first.prompt_ids = self._prompt_ids(first.question, first.pictures, None)

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
        tiles = [self.processor.tiles(image) for image in images]
        pictures = [(content_key(tile), tile) for tile in tiles]
        question = Message.typed(text, len(pictures))
        return Turn(question, pictures, self._prompt_ids(question, pictures, self.turns[-1] if self.turns else None))

    def _prompt_ids(self, question: Message, pictures, previous: Turn | None) -> list[int]:
        return tokenize_turn(
            question,
            self.processor.template,
            self.processor.tokenizer,
            [tiles.num_tokens for _, tiles in pictures],
            is_first=previous is None,
            is_previous_closed=previous is None or previous.is_closed,
            system=self.system,
        )

    def _keys(self) -> list[Key]:
        keys: list[Key] = []
        for turn in self.turns:
            keys += _keys_of(turn.prompt_ids, turn.pictures) + list(turn.answer_ids)
        return keys

    def _features_of(self, pictures: Sequence[tuple[str, ImageTiles]], max_kept: int) -> dict[str, Any]:
        """Return the features of pictures, encoding those not kept; then keep the max_kept ones used last."""
        found = {key: self._features[key] for key, _ in pictures if key in self._features}
        for key, tiles in pictures:
            if key not in found:
                with paddle.no_grad():
                    found[key] = self.model.encode_images(tiles.pixels, [len(tiles.pixels)], [tiles.size])[0]
        for key, features in found.items():
            self._features[key] = features
            self._features.move_to_end(key)
        while len(self._features) > max_kept:
            self._features.popitem(last=False)
        return found

    def _answer(self, turn: Turn, keys: list[Key], sampling: SamplingParams, budget: int) -> Generator[str, None, None]:
        tokenizer, template = self.processor.tokenizer, self.processor.template
        end_ids = {tokenizer.special_id(token) for token in template.stop_tokens}
        stops = set() if sampling.ignore_eos else end_ids | set(self.model.config.eos_token_ids)
        decoder = StreamDecoder(tokenizer, (*template.stop_strings, *sampling.stop))
        sampler = Sampler(sampling)
        try:
            yield ""  # `stream` takes it
            logits = self._prefill(keys, budget)
            for step in range(1, budget + 1):
                token = sampler(logits[0, : tokenizer.vocab_size])  # rows behind it are padding of the weights
                if token in stops:
                    turn.is_closed = template.is_end_special and token == tokenizer.special_id(template.answer_end)
                    turn.answer_ids += [token] if turn.is_closed else []
                    turn.finish_reason = "stop"
                    break
                turn.answer_ids.append(token)
                text = decoder.put(token)
                turn.answer += text
                if text:
                    yield text
                if decoder.is_stopped:
                    turn.is_closed = decoder.stop_string in template.stop_strings
                    turn.finish_reason = "stop"
                    break
                if step == budget:
                    turn.finish_reason = "length" if budget == sampling.max_new_tokens else "context"
                    break
                logits = self._engine.read_ids([token], np.array([[len(self._cached)]]))
                self._cached.append(token)
            rest = decoder.finish()
            turn.answer += rest
            if rest:
                yield rest
        finally:
            if turn.finish_reason == "interrupted" and not turn.answer_ids and turn in self.turns:
                self.turns.remove(turn)

    def _prefill(self, keys: list[Key], budget: int) -> np.ndarray:
        """Bring the cache to `keys`, reading only what it does not hold. At least the last place is read."""
        # The cache holds less than `_cached` if reading all again was interrupted.
        num_held = self._engine.length if self._engine else 0
        start = min(_num_common(self._cached[:num_held], keys), len(keys) - 1)
        while start > 0 and not isinstance(keys[start], int) and keys[start][1] > 0:
            start -= 1  # never in the middle of a picture
        self._cached = self._cached[:start]
        if self._engine is None:
            self._engine = Engine(self.model, 1, len(keys) + budget)
        cache = self._engine.cache
        cache.trim(start)
        cache.reserve(len(keys) + budget)
        self.num_prefilled = len(keys) - start
        rest = keys[start:]
        logits = self._engine.read(self._embed(rest), np.arange(start, len(keys))[None])
        self._cached = list(keys)
        return logits

    def _embed(self, keys: list[Key]):
        """Return embeddings [1, T, H] for keys, with the features of the pictures that begin among them."""
        ids = np.array([[key if isinstance(key, int) else IMAGE_TOKEN_ID for key in keys]], dtype=np.int64)
        starts = [key[0] for key in keys if not isinstance(key, int) and key[1] == 0]
        pictures = [picture for turn in self.turns for picture in turn.pictures if picture[0] in starts]
        features = self._features_of(pictures, self._max_cached_images)
        with paddle.no_grad():
            return place(self.model.language_model.embed_tokens, ids, [features[name] for name in starts])


def _keys_of(token_ids: list[int], pictures: list[tuple[str, ImageTiles]]) -> list[Key]:
    """Give every id its key; the places of a picture are its hash and their number."""
    places = ((name, number) for name, tiles in pictures for number in range(tiles.num_tokens))
    return [next(places) if token == IMAGE_TOKEN_ID else token for token in token_ids]


def _num_common(first: list[Key], second: list[Key]) -> int:
    number = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        number += 1
    return number
