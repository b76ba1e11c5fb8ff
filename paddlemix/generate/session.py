"""A conversation with a model that keeps what it has computed.

Each turn is a sequence of an engine, whose prompt is the whole conversation so far. The engine finds the keys of the
earlier turns in the slot where they were computed, or in its prefix store, and computes only the rest.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ..image.load import listed
from .engine import Engine, engine_of
from .sampling import SamplingParams
from .turn import ContextFullError as ContextFullError  # users of a session import it from here
from .turn import Turn, named_image, new_turn, prompt_ids, sequence_of


class ChatSession:
    """One conversation.

    template and system: other than the checkpoint's. engine: the one to use, by default the model's, which all sessions
    of the model share. num_prefilled: positions of the prompt that the last turn computed. num_passes: forward passes
    through the decoder in the last turn, its answer included.
    """

    def __init__(
        self,
        model,
        processor,
        *,
        template: str | None = None,
        system: str | None = None,
        sampling: SamplingParams | None = None,
        engine: Engine | None = None,
    ):
        self.model = model
        self.processor = processor.with_template(template) if template else processor
        self.system = system
        self.sampling = sampling or SamplingParams()
        self.turns: list[Turn] = []
        self._engine = engine
        self._last: Turn | None = None

    @property
    def engine(self) -> Engine:
        """The engine that answers. A model forgets its engine when its training starts."""
        return self._engine or engine_of(self.model)

    @property
    def num_prefilled(self) -> int:
        return self._last.sequence.num_prefilled if self._last else 0

    @property
    def num_passes(self) -> int:
        return self._last.sequence.num_passes if self._last else 0

    def ask(self, text: str, images: Any = None, sampling: SamplingParams | None = None) -> str:
        """Return the whole answer; see `stream`."""
        return "".join(self.stream(text, images, sampling))

    def stream(
        self, text: str, images: Any = None, sampling: SamplingParams | None = None
    ) -> Generator[str, None, None]:
        """Start an answer and return an iterator of its text.

        `<image>` in the text is plain text; images (a path, URL, data URI, bytes or PIL image, or a list of them) come
        before the text. If the caller stops iterating, the answer so far stays in the conversation. Raises ImageError
        for a bad image and ContextFullError if there is no room, before anything is changed.
        """
        turn = self._new_turn(text, () if images is None else images)
        turn.sequence = sequence_of(self.processor, [*self.turns, turn], sampling or self.sampling, self.model.config)
        self.engine.check(turn.sequence)
        self.turns.append(turn)
        answer = self._answer(turn)
        next(answer)  # enter its `try`, so that the question is removed if the answer is never read
        return answer

    def stream_again(self, sampling: SamplingParams | None = None) -> Generator[str, None, None]:
        """Start another answer to the last question, in place of the one that it has; see `stream`.

        If no token of it is generated, the old answer stays. Raises ValueError if there was no question.
        """
        if not self.turns:
            raise ValueError("there is no question yet that could be answered again")
        *before, last = self.turns
        turn = Turn(last.question, last.images, last.prompt_ids)
        turn.sequence = sequence_of(self.processor, [*before, turn], sampling or self.sampling, self.model.config)
        self.engine.check(turn.sequence)
        self.turns[-1] = turn
        answer = self._answer(turn, last)
        next(answer)  # as in `stream`
        return answer

    def set_system(self, text: str | None) -> None:
        """Change the system text, of the conversation so far too; None takes the template's.

        Raises ValueError for a template that has none.
        """
        if self.processor.template.is_prompt_text_dropped:
            raise ValueError(f"the template {self.processor.template.name} has no system text")
        self.system = text
        self._begin_with_system()

    def clear(self) -> None:
        """Forget the conversation."""
        self.turns = []

    def drop_oldest(self, num_turns: int = 1) -> None:
        """Forget the oldest turns. The system text moves to the turn that is then first."""
        self.turns = self.turns[num_turns:]
        self._begin_with_system()

    def _begin_with_system(self) -> None:
        """Put the system text in front of the first turn."""
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
        return sum(len(turn.prompt_ids) + len(turn.answer_ids) for turn in self.turns)

    def _new_turn(self, text: str, images: Any) -> Turn:
        named = [named_image(self.processor, image) for image in listed(images)]
        return new_turn(self.processor, text, named, self.turns[-1] if self.turns else None, self.system)

    def _answer(self, turn: Turn, replaced: Turn | None = None) -> Generator[str, None, None]:
        try:
            yield ""  # for `stream`
            self._last = turn
            yield from self.engine.stream(turn.sequence)
        finally:
            turn.sequence.interrupt()
            if turn.finish_reason in ("interrupted", "error") and not turn.answer_ids and turn in self.turns:
                self.turns.remove(turn)
                self.turns += [] if replaced is None else [replaced]
