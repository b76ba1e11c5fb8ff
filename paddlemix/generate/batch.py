"""Generation for several prompts at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle

from ..data.sample import Batch
from .engine import Engine
from .sampling import Sampler, SamplingParams


def generate(model, batch: Batch, sampling: SamplingParams | None = None) -> list[list[int]]:
    """Return the new ids of each row, its end token included.

    Rows may have any length: they are moved so that all end at the same place, what was padding stays unseen, and each
    row counts its own positions, so that a row's answer does not depend on its neighbours. Raises ValueError when the
    longest prompt leaves no room in the context, and for packed rows. `sampling.stop` is for text, see ChatSession.
    """
    sampling = sampling or SamplingParams()
    batch = align_right(batch)
    num_rows, length = batch.token_ids.shape
    context = model.config.language.max_position_embeddings
    if length >= context:
        raise ValueError(f"the longest prompt has {length} tokens, but the context holds {context}: shorten it")
    budget = min(sampling.max_new_tokens, context - length)
    stops = set() if sampling.ignore_eos else set(model.config.eos_token_ids)
    was_training = model.training
    model.eval()
    try:
        engine = Engine(model, num_rows, length + budget)
        engine.hide_padding(batch.segment_ids > 0)
        with paddle.no_grad():
            logits = engine.read(model.embed(batch), batch.position_ids)
        return _continue(engine, logits, batch.position_ids[:, -1:], sampling, budget, stops)
    finally:
        if was_training:
            model.train()


def _continue(engine: Engine, logits, positions, sampling: SamplingParams, budget: int, stops: set[int]):
    """Sample until every row has met a stop or `budget` ids; each row draws from its own random state, as alone."""
    samplers = [Sampler(sampling) for _ in logits]
    answers: list[list[int]] = [[] for _ in logits]
    is_open = [True] * len(answers)
    for step in range(1, budget + 1):
        for row, answer in enumerate(answers):
            if is_open[row]:
                answer.append(samplers[row](logits[row]))
                is_open[row] = answer[-1] not in stops
        if step == budget or not any(is_open):
            break
        logits = engine.read_ids([answer[-1] for answer in answers], positions + step)
    return answers


def align_right(batch: Batch) -> Batch:
    """Move each row's padding to its front. Raises ValueError for a row with several segments or none."""
    segments = np.asarray(batch.segment_ids)
    if (segments > 1).any() or not (segments > 0).any(axis=1).all():
        raise ValueError("generation needs exactly one sequence a row: segment_ids of 1, and 0 for padding")
    order = np.argsort(segments > 0, axis=1, kind="stable")
    moved = {
        name: np.take_along_axis(np.asarray(getattr(batch, name)), order, axis=1)
        for name in ("token_ids", "position_ids", "segment_ids")
    }
    return dataclasses.replace(batch, labels=None, **moved)
