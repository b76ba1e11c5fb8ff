"""POST /v1/completions: raw prompts without a chat template, one job each."""

from __future__ import annotations

import functools
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from ..errors import ApiError
from ..protocol import Job, ModelInfo
from ..serving import Serving
from .answer_route import respond
from .beside_loop import beside_loop
from .completion_shape import CompletionShape
from .field_rules import check_fields
from .json_body import kind_of, parse, shown, validated
from .openapi import answer_description
from .plan import Plan, session_of
from .sampling_fields import sampling_of, unreachable_limits
from .schema import CompletionRequest

router = APIRouter()
SESSION_LENGTH = 256  # characters or ids at the start of a prompt
EXAMPLES = {"a text": {"prompt": "The sky is", "max_tokens": 5}, "two texts": {"prompt": ["One", "Two"], "n": 2}}
Prompt = str | tuple[int, ...]


@router.post(
    "/v1/completions", response_model=None, **answer_description("CompletionRequest", "CompletionAnswer", EXAMPLES)
)
async def create_completion(request: Request) -> Response:
    """Continue one or several raw prompts."""
    return await respond(request, plan_completion)


async def plan_completion(serving: Serving, body: bytes, job_id: str) -> Plan:
    """Return what a body asks for. Raises ApiError."""
    return await beside_loop(len(body), functools.partial(_plan, serving, body, job_id))


def _plan(serving: Serving, body: bytes, job_id: str) -> Plan:
    request = validated(CompletionRequest, parse(body))
    ignored = check_fields(request)
    model, info, limits = serving.name_of(request.model), serving.info, serving.settings.limits
    ignored += unreachable_limits(request, info)
    sampling = sampling_of(request, info, limits)
    prompts = read_prompts(request.prompt, info)
    num_each = request.n or 1
    most = max(limits.max_queue, limits.max_answers)
    if len(prompts) * num_each > most:
        message = (
            f"the request asks for {len(prompts)} x {num_each} answers: this server gives at most {most} at a time"
        )
        raise _wrong(message)
    if request.echo and request.logprobs is not None:
        raise ApiError(
            400,
            "echo with logprobs asks for the probabilities of the prompt, which this server does not compute: send one "
            "of the two",
            param="logprobs",
            code="unsupported_parameter",
        )
    name = f"cmpl-{job_id}"
    jobs = [
        Job(f"{name}-{index}", sampling, prompt=prompt, num_answers=num_each, seconds=limits.request_seconds)
        for index, prompt in enumerate(prompts)
    ]
    shape = CompletionShape(
        name,
        int(time.time()),
        model,
        has_logprobs=request.logprobs is not None,
        has_token_ids=bool(request.return_token_ids),
        has_usage=bool(request.stream_options and request.stream_options.include_usage),
        is_echoing=bool(request.echo),
    )
    session = session_of(model, [prompts[0][:SESSION_LENGTH]])
    return Plan(model, jobs, session, shape, bool(request.stream), num_each, ignored)


def read_prompts(value: Any, info: ModelInfo) -> list[Prompt]:
    """Return the prompts of a request: a text, token ids, or a list of either. Raises ApiError."""
    if isinstance(value, str):
        return [_checked(value, "prompt")]
    if not isinstance(value, list):
        raise _wrong(f"prompt is a JSON {kind_of(value)}: expected a string, token ids or an array of these")
    if not value:
        raise _wrong("prompt is empty: expected a string, token ids or an array of these")
    if _is_id(value[0]):
        return [_ids(value, "prompt", info)]
    return [_read_prompt(one, f"prompt[{index}]", info) for index, one in enumerate(value)]


def _read_prompt(value: Any, param: str, info: ModelInfo) -> Prompt:
    if isinstance(value, str):
        return _checked(value, param)
    if isinstance(value, list) and value:
        return _ids(value, param, info)
    raise _wrong(f"{param} is {shown(value)}: expected a string or token ids")


def _ids(values: list[Any], param: str, info: ModelInfo) -> tuple[int, ...]:
    for index, value in enumerate(values):
        if not _is_id(value) or not 0 <= value < info.num_vocabulary:
            raise _wrong(f"{param}[{index}] is {shown(value)}: expected a token id from 0 to {info.num_vocabulary - 1}")
    return tuple(values)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked(text: str, param: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _wrong(f"{param} has half of a surrogate pair, which is not a character") from None
    return text


def _wrong(message: str) -> ApiError:
    return ApiError(400, message, param="prompt", code="invalid_value")
