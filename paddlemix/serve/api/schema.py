"""The requests for answers: their fields, kinds and bounds. What the values mean is decided in other files.

The parts that have several forms or many items (messages, prompts, stops, ids, formats) are checked where they are
read, which stops at the first mistake; here is only how the OpenAPI description shows them. pydantic would make an
error for each of a million wrong items, while all other requests wait.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from .schema_parts import BIASES, FORMAT, MESSAGES, PROMPT, STOP, STOP_IDS

MAX_INTEGER = 2**31 - 1
Probability = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


class StreamOptions(BaseModel):
    """Options of a stream. include_usage: one more chunk with the counts of tokens."""

    model_config = ConfigDict(extra="allow", strict=True)

    include_usage: bool | None = None


class AnswerRequest(BaseModel):
    """The fields that both kinds of requests have. null is the default everywhere."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    model: str | None = Field(None, description="a served name; none or an empty one takes the first")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="default 1, 0 is greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INTEGER)] | None = Field(None, description="0 or -1 for no limit")
    min_p: Probability | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[Any, WithJsonSchema(BIASES)] = None
    n: Count | None = None
    seed: Int64 | None = None
    stop: Annotated[Any, WithJsonSchema(STOP)] = None
    stop_token_ids: Annotated[Any, WithJsonSchema(STOP_IDS)] = None
    ignore_eos: bool | None = None
    response_format: Annotated[Any, WithJsonSchema(FORMAT)] = None
    return_token_ids: bool | None = Field(None, description="adds token_ids to each choice")


class ChatRequest(AnswerRequest):
    """A request for the next message of a conversation."""

    messages: Annotated[list[Any], WithJsonSchema(MESSAGES)]
    max_completion_tokens: Count | None = Field(None, description="in place of max_tokens")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    continue_final_message: bool | None = Field(None, description="the last message is the start of the answer")


class CompletionRequest(AnswerRequest):
    """A request for the continuation of raw prompts, without a chat template."""

    prompt: Annotated[Any, WithJsonSchema(PROMPT)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = Field(None, description="begin the text with the prompt")
