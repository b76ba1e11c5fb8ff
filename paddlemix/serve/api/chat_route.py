"""POST /v1/chat/completions: from its request to a job."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from ...generate.sampling import SamplingParams
from ..images.image_sources import load_images
from ..protocol import ImageInput, Job
from ..serving import Serving
from ..settings import Limits
from .answer_route import respond
from .beside_loop import beside_loop
from .chat_shape import ChatShape
from .content import Chat, read_messages
from .field_rules import check_fields
from .json_body import parse, validated
from .openapi import answer_description
from .plan import Plan, session_of
from .sampling_fields import sampling_of, unreachable_limits
from .schema import ChatRequest

router = APIRouter()
DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="  # one red pixel
EXAMPLES = {
    "a question": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20},
    "an image": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": DOT}},
                    {"type": "text", "text": "What color is it?"},
                ],
            }
        ],
        "temperature": 0,
        "stream": True,
    },
}


@router.post("/v1/chat/completions", response_model=None, **answer_description("ChatRequest", "ChatAnswer", EXAMPLES))
async def create_chat_completion(request: Request) -> Response:
    """Answer the last message of a conversation."""
    return await respond(request, plan_chat)


@dataclass(frozen=True)
class _Asked:
    """What a body says, before its images are there. ignored: names of fields that have no effect."""

    request: ChatRequest
    ignored: list[str]
    model: str
    sampling: SamplingParams
    chat: Chat


async def plan_chat(serving: Serving, body: bytes, job_id: str) -> Plan:
    """Return what a body asks for. Raises ApiError."""
    size = len(body)
    asked = await beside_loop(size, functools.partial(_read, serving, body))
    del body
    images = await load_images(asked.chat.images, serving.fetcher)
    session = await beside_loop(size, functools.partial(_session, asked.model, asked.chat, images))
    return _plan(asked, images, session, job_id, serving.settings.limits)


def _read(serving: Serving, body: bytes) -> _Asked:
    request = validated(ChatRequest, parse(body))
    ignored = check_fields(request)
    model, info, limits = serving.name_of(request.model), serving.info, serving.settings.limits
    ignored += unreachable_limits(request, info)
    sampling = sampling_of(request, info, limits)
    chat = read_messages(request.messages, is_continued=bool(request.continue_final_message), limits=limits)
    return _Asked(request, ignored, model, sampling, chat)


def _plan(asked: _Asked, images: tuple[ImageInput, ...], session: str, job_id: str, limits: Limits) -> Plan:
    request, chat = asked.request, asked.chat
    num_answers = request.n or 1
    job = Job(
        f"chatcmpl-{job_id}",
        asked.sampling,
        messages=chat.messages,
        images=images,
        is_continued=chat.is_continued,
        num_answers=num_answers,
        seconds=limits.request_seconds,
    )
    shape = ChatShape(
        job.id,
        int(time.time()),
        asked.model,
        has_logprobs=bool(request.logprobs),
        has_token_ids=bool(request.return_token_ids),
        has_usage=bool(request.stream_options and request.stream_options.include_usage),
    )
    return Plan(asked.model, [job], session, shape, bool(request.stream), num_answers, asked.ignored)


def _session(model: str, chat: Chat, images: tuple[ImageInput, ...]) -> str:
    """Return the session of all turns of a conversation: its system text and its first question."""
    first = next(index for index, message in enumerate(chat.messages) if message.role == "user")
    beginning = chat.messages[: first + 1]
    texts = [message.pieces for message in beginning]
    return session_of(model, texts, images[: chat.messages[first].num_images])
