"""What an engine says of a sequence, as events of the protocol."""

from __future__ import annotations

from ...conversation.tokenizer import Tokenizer
from ...generate.logprobs import TokenLogprobs
from ..protocol import Delta, Ended, TokenLogprob
from .work import Work


def delta(work: Work, index: int, token_ids: list[int], tokenizer: Tokenizer) -> Delta:
    """Return what is new of an answer since the last time. token_ids: that a step brought."""
    sequence = work.sequences[index]
    start, first = work.num_characters[index], work.num_tokens[index]
    work.num_characters[index], work.num_tokens[index] = len(sequence.text), first + len(token_ids)
    logprobs = tuple(_token_logprob(each, tokenizer) for each in sequence.logprobs[first : first + len(token_ids)])
    return Delta(work.job.id, index, sequence.text[start:], tuple(token_ids), logprobs)


def ended(work: Work, index: int) -> Ended:
    """Return how an answer ended."""
    sequence = work.sequences[index]
    return Ended(
        work.job.id,
        index,
        "stop" if sequence.finish_reason == "stop" else "length",
        sequence.num_generated,
        num_cached_tokens=sequence.num_cached,
        stop_reason=sequence.stop_reason,
        queue_seconds=sequence.started - work.arrived,
        prefill_seconds=sequence.first_token - sequence.started,
        decode_seconds=sequence.ended - sequence.first_token,
    )


def _token_logprob(found: TokenLogprobs, tokenizer: Tokenizer) -> TokenLogprob:
    top = tuple(_one(token, logprob, tokenizer) for token, logprob in found.top)
    return _one(found.token, found.logprob, tokenizer, top)


def _one(token: int, logprob: float, tokenizer: Tokenizer, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    content = tokenizer.token_bytes(token)
    return TokenLogprob(token, content.decode("utf-8", errors="replace"), content, logprob, top)
