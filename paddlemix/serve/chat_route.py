"""POST /v1/chat/completions: from its request to a job."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from .answer_route import respond
from .chat_shape import ChatShape
from .content import Chat, read_messages
from .field_rules import check_fields
from .image_sources import load_images
from .json_body import parse, validated
from .openapi import answer_description
from .plan import Plan, session_of
from .protocol import ImageInput, Job
from .sampling_fields import sampling_of
from .schema import ChatRequest
from .serving import Serving

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


async def plan_chat(serving: Serving, body: bytes, job_id: str) -> Plan:
    """Return what a body asks for. Raises ApiError."""
    request = validated(ChatRequest, parse(body))
    ignored = check_fields(request)
    model, info, limits = serving.name_of(request.model), serving.info, serving.settings.limits
    sampling = sampling_of(request, info, limits)
    chat = read_messages(request.messages, is_continued=bool(request.continue_final_message), limits=limits)
    images = await load_images(chat.images, serving.fetcher)
    num_answers = request.n or 1
    job = Job(
        f"chatcmpl-{job_id}",
        sampling,
        messages=chat.messages,
        images=images,
        is_continued=chat.is_continued,
        num_answers=num_answers,
        seconds=limits.request_seconds,
    )
    shape = ChatShape(
        job.id,
        int(time.time()),
        model,
        has_logprobs=bool(request.logprobs),
        has_token_ids=bool(request.return_token_ids),
        has_usage=bool(request.stream_options and request.stream_options.include_usage),
    )
    return Plan(model, [job], _session(model, chat, images), shape, bool(request.stream), num_answers, ignored)


def _session(model: str, chat: Chat, images: tuple[ImageInput, ...]) -> str:
    """Return the session of all turns of a conversation: its system text and its first question."""
    first = next(index for index, message in enumerate(chat.messages) if message.role == "user")
    beginning = chat.messages[: first + 1]
    texts = [message.pieces for message in beginning]
    return session_of(model, texts, images[: chat.messages[first].num_images])
