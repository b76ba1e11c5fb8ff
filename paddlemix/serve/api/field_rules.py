"""What happens to fields that the server does not use: accepted, refused by name, or taken for a typing error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ApiError
from .schema import AnswerRequest

# Fields of OpenAI's API, vLLM and open-webui that change no answer here.
IGNORED = frozenset(
    "user metadata store service_tier parallel_tool_calls prompt_cache_key prompt_cache_retention safety_identifier "
    "request_id priority cache_salt spaces_between_special_tokens id chat_id session_id".split()
)
# Fields that would change the answer, with the values that do not. null is one of them always.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "suffix": ("",),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "include_stop_str_in_output": (False,),
    "truncate_prompt_tokens": (),
    "prompt_logprobs": (),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "documents": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "thinking": (),
}
# What to do instead.
ADVICE = {
    "tools": "the model was not trained to call tools; send no tools, or tool_choice 'none'",
    "tool_choice": "the model was not trained to call tools",
    "add_generation_prompt": "to continue the last message send continue_final_message",
    "guided_json": "send response_format",
    "structured_outputs": "send response_format",
    "chat_template": "the template is chosen when the server starts (--conv-mode)",
}
SIMILARITY = 0.81  # of a mistyped field; top_a and top_p have 0.8
MAX_UNKNOWN = 50  # fields; each is compared with all known ones
MAX_SHOWN = 20  # names in the header
HEADER_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)


def check_fields(request: AnswerRequest) -> list[str]:
    """Return the unknown fields of a request, which have no effect. Raises ApiError for one that would have."""
    extra = dict(request.model_extra or {})
    known = {*type(request).model_fields, *IGNORED, *NEUTRAL}
    if extra.get("tool_choice") == "none":  # the client says itself that they are not used
        extra.pop("tools", None)
    _check_best_of(extra.pop("best_of", None), request.n or 1)
    for name, value in extra.items():
        if name in NEUTRAL and value is not None and not _is_among(value, NEUTRAL[name]):
            raise _unsupported(name)
    unknown = [name for name in extra if name not in known]
    if len(unknown) > MAX_UNKNOWN:
        raise ApiError(400, f"the request has {len(unknown)} unknown fields, as {unknown[0][:100]!r}: leave them out")
    for name in unknown:
        near = difflib.get_close_matches(name[:100], known, n=1, cutoff=SIMILARITY)
        if near:
            raise ApiError(
                400,
                f"there is no field {name[:100]!r}: did you mean {near[0]!r}?",
                param=name[:100],
                code="unknown_parameter",
            )
    options = request.stream_options.model_extra if request.stream_options else None
    return unknown + [f"stream_options.{name}" for name in options or ()]


def ignored_header(names: Iterable[str]) -> dict[str, str]:
    """Return the header that names the fields without effect, as far as a header can hold their names."""
    shown = [name for name in names if HEADER_NAME.fullmatch(name)][:MAX_SHOWN]
    return {"x-ignored-fields": ", ".join(shown)} if shown else {}


def _is_among(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral)


def _check_best_of(best_of: Any, num_answers: int) -> None:
    if best_of is not None and best_of != num_answers:
        raise _unsupported("best_of")


def _unsupported(name: str) -> ApiError:
    text = f"{name} is not supported by this server"
    text += f": {ADVICE[name]}" if name in ADVICE else ": leave it out"
    return ApiError(400, text, param=name, code="unsupported_parameter")
