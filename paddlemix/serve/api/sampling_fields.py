"""From the fields of a request to the settings of the sampling. Knows the limits and the vocabulary's size."""

from __future__ import annotations

import json
from typing import Any

from ...generate.sampling import Grammar, SamplingParams
from ...packages import extra_command
from ..errors import ApiError
from ..protocol import ModelInfo
from ..settings import Limits
from .json_body import kind_of, shown
from .schema import AnswerRequest, ChatRequest, CompletionRequest

MAX_STOP_IDS = 256
MAX_BIASES = 1024
DEFAULT_COMPLETION_TOKENS = 16  # of /v1/completions, as OpenAI's; a chat has what is left of the context


def sampling_of(request: AnswerRequest, info: ModelInfo, limits: Limits) -> SamplingParams:
    """Return the sampling of a request. Raises ApiError, with the limit that a value exceeds."""
    max_tokens = _max_tokens(request, info)
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise _wrong("min_tokens", f"min_tokens is {min_tokens}, more than the {max_tokens} tokens of an answer")
    if (request.n or 1) > limits.max_answers:
        raise _wrong("n", f"n is {request.n}: this server gives at most {limits.max_answers} answers to a request")
    try:
        return SamplingParams(
            temperature=_or(request.temperature, 1.0),
            top_p=_or(request.top_p, 1.0),
            top_k=max(request.top_k or 0, 0),
            max_new_tokens=max_tokens,
            stop=_stops(request.stop, limits),
            seed=None if request.seed is None else request.seed % 2**63,
            ignore_eos=bool(request.ignore_eos),
            min_p=_or(request.min_p, 0.0),
            repetition_penalty=_or(request.repetition_penalty, 1.0),
            frequency_penalty=_or(request.frequency_penalty, 0.0),
            presence_penalty=_or(request.presence_penalty, 0.0),
            logit_bias=_biases(request.logit_bias, info),
            min_new_tokens=min_tokens,
            stop_ids=_stop_ids(request.stop_token_ids, info),
            num_logprobs=_num_logprobs(request, limits),
            grammar=_grammar(request.response_format, info, limits),
        )
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_value") from None


def unreachable_limits(request: AnswerRequest, info: ModelInfo) -> list[str]:
    """Return the fields with more tokens than the context holds, which have no effect: an answer ends at the context.

    Clients that do not know the model send such limits (VLMEvalKit 32768), so that they are no error as in vLLM.
    """
    names = ("max_tokens", *(["max_completion_tokens"] if isinstance(request, ChatRequest) else []))
    values = request.model_dump(include=set(names))
    return [name for name in names if (values[name] or 0) > info.max_model_len]


def _or(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def _max_tokens(request: AnswerRequest, info: ModelInfo) -> int:
    if isinstance(request, ChatRequest):
        return request.max_completion_tokens or request.max_tokens or info.max_model_len
    return request.max_tokens or max(DEFAULT_COMPLETION_TOKENS, request.min_tokens or 0)


def _stops(value: Any, limits: Limits) -> tuple[str, ...]:
    """Return the stop strings of one string, a list or null."""
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list):
        raise _wrong("stop", f"stop is a JSON {kind_of(value)}: expected a string or an array of strings")
    if len(stops) > limits.max_stops:
        raise _wrong("stop", f"stop has {len(stops)} strings: this server takes at most {limits.max_stops}")
    for index, stop in enumerate(stops):
        if not isinstance(stop, str) or not stop:
            raise _wrong("stop", f"stop[{index}] is {shown(stop)}: expected a string that is not empty")
        if len(stop) > limits.max_stop_length:
            raise _wrong(
                "stop", f"stop[{index}] has {len(stop)} characters: at most {limits.max_stop_length} are taken"
            )
        _check_text(stop, f"stop[{index}]")
    return tuple(stops)


def _check_text(text: str, param: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _wrong(param, f"{param} has half of a surrogate pair, which is not a character") from None


def _biases(biases: Any, info: ModelInfo) -> tuple[tuple[int, float], ...]:
    """Return pairs of token ids and what their logits get, of an object or null."""
    if biases is None:
        return ()
    if not isinstance(biases, dict):
        raise _wrong(
            "logit_bias", f"logit_bias is a JSON {kind_of(biases)}: expected an object of token ids and numbers"
        )
    if len(biases) > MAX_BIASES:
        raise _wrong("logit_bias", f"logit_bias has {len(biases)} ids: at most {MAX_BIASES} are taken")
    last = info.num_vocabulary - 1
    for key, bias in biases.items():
        if not (key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) <= last):
            raise _wrong("logit_bias", f"logit_bias has the key {shown(key)}: expected token ids from 0 to {last}")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise _wrong("logit_bias", f"logit_bias of {key} is {shown(bias)}: expected a number from -100 to 100")
    return tuple((int(key), float(bias)) for key, bias in biases.items())


def _stop_ids(ids: Any, info: ModelInfo) -> tuple[int, ...]:
    """Return the token ids of a list or null."""
    if ids is None:
        return ()
    if not isinstance(ids, list):
        raise _wrong("stop_token_ids", f"stop_token_ids is a JSON {kind_of(ids)}: expected an array of token ids")
    if len(ids) > MAX_STOP_IDS:
        raise _wrong("stop_token_ids", f"stop_token_ids has {len(ids)} ids: at most {MAX_STOP_IDS} are taken")
    last = info.num_vocabulary - 1
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= last:
            raise _wrong("stop_token_ids", f"stop_token_ids has {shown(token)}: expected token ids from 0 to {last}")
    return tuple(ids)


def _num_logprobs(request: AnswerRequest, limits: Limits) -> int | None:
    if isinstance(request, CompletionRequest):
        number, param = request.logprobs, "logprobs"
    else:
        number, param = (request.top_logprobs or 0) if request.logprobs else None, "top_logprobs"
        if request.top_logprobs and not request.logprobs:
            raise _wrong("top_logprobs", "top_logprobs needs logprobs: true")
    if number is not None and number > limits.max_logprobs:
        raise _wrong(param, f"{param} is {number}: this server reports at most {limits.max_logprobs}")
    return number


def _grammar(value: Any, info: ModelInfo, limits: Limits) -> Grammar | None:
    """Return what response_format asks for."""
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind not in ("json_object", "json_schema"):
        found = shown(kind) if isinstance(value, dict) else f"a JSON {kind_of(value)}"
        raise _wrong(
            "response_format", f"response_format has the type {found}: expected text, json_object or json_schema"
        )
    grammar = Grammar() if kind == "json_object" else Grammar(_schema_text(value.get("json_schema"), limits))
    if not info.is_structured_output_known:
        raise _wrong(
            "response_format",
            f"response_format {kind} needs llguidance, which this server lacks: its owner can add it with "
            f"{extra_command('structured')}",
            "unsupported_parameter",
        )
    return grammar


def _schema_text(value: Any, limits: Limits) -> str:
    schema = value.get("schema") if isinstance(value, dict) else None
    param = "response_format.json_schema"
    if not isinstance(schema, dict):
        raise _wrong(param, f"{param} has no schema: expected an object with name and schema")
    try:
        text = json.dumps(schema, allow_nan=False)
    except RecursionError:
        raise _wrong(param, f"{param}: the schema is nested too deeply") from None
    if len(text) > limits.max_schema_length:
        raise _wrong(
            param, f"{param}: the schema has {len(text)} characters: this server takes {limits.max_schema_length}"
        )
    return text
