"""Penalties, biases, limits and logprobs against transformers' logits processors, on the same logits."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import reference_models as tiny
import torch
from transformers.generation import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from paddlemix.generate.adjustment import Adjustment
from paddlemix.generate.engine import Engine
from paddlemix.generate.sampler import Sampler
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.sequence import Ending, Sequence

NUM_VOCABULARY = 40
END = 2
BIASES = ((3, 2.5), (7, -100.0), (11, 100.0), (12, -0.25))


def their_scores(params: SamplingParams, ids: list[int], num_prompt: int, logits: np.ndarray) -> torch.Tensor:
    """Return the scores of transformers' processors, in the order of its `_get_logits_processor`."""
    processors = []
    if params.logit_bias:
        processors.append(SequenceBiasLogitsProcessor([[[token], addend] for token, addend in params.logit_bias]))
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.min_new_tokens:
        processors.append(MinNewTokensLengthLogitsProcessor(num_prompt, params.min_new_tokens, END, device="cpu"))
    if params.temperature:
        processors.append(TemperatureLogitsWarper(params.temperature))
        processors += [TopKLogitsWarper(params.top_k)] if params.top_k else []
        processors += [TopPLogitsWarper(params.top_p)] if params.top_p < 1 else []
        processors += [MinPLogitsWarper(params.min_p)] if params.min_p else []
    scores = torch.tensor(logits)[None]
    for processor in processors:
        scores = processor(torch.tensor([ids]), scores)
    return scores[0]


def sampler_after(params: SamplingParams, prompt: list[int], answer: list[int]) -> Sampler:
    sampler = Sampler(params, prompt, [END])
    for token in answer:
        sampler.append(token)
    return sampler


OPTIONS = (
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"logit_bias": BIASES},
    {"min_new_tokens": 3},
    {"min_new_tokens": 4},
    {"logit_bias": BIASES, "repetition_penalty": 1.3, "min_new_tokens": 9},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_adjusted_logits_equal_those_of_transformers_processors(options, seed):
    rng = np.random.default_rng(seed)
    params = SamplingParams(**options)
    prompt, answer = rng.integers(0, NUM_VOCABULARY, 9).tolist(), rng.integers(3, NUM_VOCABULARY, 3).tolist()
    logits = rng.normal(0, 2, NUM_VOCABULARY).astype(np.float32)
    given = logits.copy()
    adjusted = adjusted_after(params, prompt, answer, logits)
    np.testing.assert_allclose(adjusted, their_scores(params, [*prompt, *answer], len(prompt), logits), rtol=1e-6)
    assert (adjusted == logits).all() == (options == {"min_new_tokens": 3})
    assert (logits == given).all()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 1.6, "top_k": 9, "top_p": 0.9, "min_p": 0.15},
        {"temperature": 0.7, "min_p": 1.0},
        {"temperature": 1.2, "repetition_penalty": 1.4, "logit_bias": BIASES[:1], "min_new_tokens": 5, "min_p": 0.02},
    ],
    ids=str,
)
def test_draws_follow_the_distribution_of_transformers_processors(options):
    rng = np.random.default_rng(0)
    params = SamplingParams(seed=0, **options)
    prompt, answer = rng.integers(0, NUM_VOCABULARY, 9).tolist(), [5, 5, 6]
    logits = rng.normal(0, 2, NUM_VOCABULARY).astype(np.float32)
    sampler, num_draws = sampler_after(params, prompt, answer), 4000
    found = np.bincount([sampler(logits) for _ in range(num_draws)], minlength=NUM_VOCABULARY) / num_draws
    scores = their_scores(params, [*prompt, *answer], len(prompt), logits)
    expected = scores.softmax(-1).double().numpy()
    assert ((found > 0) <= (expected > 0)).all()
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / num_draws)).all()


def adjusted_after(params: SamplingParams, prompt: list[int], answer: list[int], logits: np.ndarray) -> np.ndarray:
    adjustment = Adjustment(params, prompt, [END])
    for token in answer:
        adjustment.append(token)
    return adjustment(logits)


def openai_formula(logits: np.ndarray, answer: list[int], frequency: float, presence: float) -> list[float]:
    """Return mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence, of OpenAI's API reference."""
    count = Counter(answer)
    return [
        mu - count[token] * frequency - float(count[token] > 0) * presence for token, mu in enumerate(logits.tolist())
    ]


@pytest.mark.parametrize(("frequency", "presence"), [(0.7, 0.0), (0.0, 1.5), (-1.0, 0.4), (2.0, -2.0)])
def test_frequency_and_presence_penalties_follow_the_formula_of_openai(frequency, presence):
    rng = np.random.default_rng(1)
    params = SamplingParams(frequency_penalty=frequency, presence_penalty=presence)
    answer = rng.integers(0, 6, 12).tolist()
    logits = rng.normal(0, 2, NUM_VOCABULARY).astype(np.float32)
    expected = openai_formula(logits, answer, frequency, presence)
    np.testing.assert_allclose(adjusted_after(params, [0, 1, 20], answer, logits), expected, atol=1e-6)


def test_the_penalties_of_an_answer_come_after_the_bias_and_the_repetition_penalty():
    logits = np.array([1.0, 3.0, 2.9, 0.0], np.float32)
    # 0: (1 + 7) / 2 - 3.5 = 0.5; the other way round (1 + 7 - 3.5) / 2 = 2.25. 1: 3 / 2 = 1.5. 2: 2.9 / 2 = 1.45.
    params = SamplingParams(repetition_penalty=2.0, logit_bias=((0, 7.0),), presence_penalty=1.5, frequency_penalty=2.0)
    assert sampler_after(params, [1, 2], [0])(logits) == 1


@pytest.mark.parametrize("num_top", [0, 1, 5, 97, 500])
def test_logprobs_of_an_answer_equal_transformers(pair, num_top):
    rng = np.random.default_rng(3)
    prompt = rng.integers(3, 97, 20).tolist()
    params = SamplingParams(max_new_tokens=12, ignore_eos=True, num_logprobs=num_top, presence_penalty=1.0)
    sequence = Sequence(list(prompt), {}, params, 100, Ending())
    Engine(pair.ours).run([sequence])
    ids = torch.tensor([[*prompt, *sequence.answer_ids]])
    with torch.no_grad():
        logits = pair.theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
    expected = logits.double().log_softmax(-1).numpy()
    assert [each.token for each in sequence.logprobs] == sequence.answer_ids
    for entry, row in zip(sequence.logprobs, expected, strict=True):
        assert entry.logprob == pytest.approx(row[entry.token], abs=1e-4)
        assert len(entry.top) == min(num_top, len(row))
        assert [logprob for _, logprob in entry.top] == pytest.approx(np.sort(row)[::-1][: len(entry.top)], abs=1e-4)
        for token, logprob in entry.top:
            assert logprob == pytest.approx(row[token], abs=1e-4)


def test_probabilities_of_the_whole_vocabulary_sum_up_to_one(pair):
    params = SamplingParams(max_new_tokens=3, ignore_eos=True, num_logprobs=10_000)
    sequence = Sequence([5, 6, 7], {}, params, 100, Ending())
    Engine(pair.ours).run([sequence])
    for entry in sequence.logprobs:
        assert math.fsum(math.exp(logprob) for _, logprob in entry.top) == pytest.approx(1, abs=1e-6)


def test_a_repetition_penalty_gives_the_greedy_answer_of_transformers(pair):
    batch = tiny.make_batch(np.random.default_rng(2), [[17]], pair.spec)
    with torch.no_grad():
        out = pair.theirs.generate(
            **tiny.hf_inputs(batch, pair.is_next),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=0,
            repetition_penalty=1.6,
            eos_token_id=END,
            min_new_tokens=24,
        )
    params = SamplingParams(max_new_tokens=24, repetition_penalty=1.6, min_new_tokens=24)
    assert pair.ours.generate(batch, params) == [out[0, batch.token_ids.shape[1] :].tolist()]


LARGE = ({}, {"top_k": 30}, {"top_k": 2500}, {"top_p": 0.9}, {"top_p": 0.1, "top_k": 2000}, {"min_p": 0.1})
LARGE += ({"min_p": 1e-5}, {"min_p": 0.9, "top_p": 0.5})


def sorted_draw(logits: np.ndarray, params: SamplingParams, number: float) -> int:
    """Return the token at a number of the distribution by sorting the whole vocabulary."""
    scaled = (logits - logits.max()).astype(np.float64) / params.temperature
    order = sorted(range(len(logits)), key=lambda token: (-scaled[token], token))[: params.top_k or None]
    weights = np.exp(scaled[order])
    weights /= weights.sum()
    keep = max(int((weights.cumsum() - weights < params.top_p).sum()), 1)
    keep = min(keep, int((weights >= params.min_p * weights[0]).sum()))
    sums = weights[:keep].cumsum()
    return order[int((sums <= number * sums[-1]).sum())]


@pytest.mark.parametrize("is_rounded", [False, True])
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("options", LARGE, ids=str)
def test_a_large_vocabulary_gives_the_tokens_of_a_sorted_one(options, spread, is_rounded):
    rng = np.random.default_rng(0)
    params = SamplingParams(temperature=0.9, seed=4, **options)
    sampler, numbers = Sampler(params), np.random.default_rng(4)
    for _ in range(6):
        logits = rng.normal(0, spread, 5000).astype(np.float32)
        logits = logits.round(1) if is_rounded else logits  # many equal ones, as of 16 bits
        assert sampler(logits) == sorted_draw(logits, params, numbers.random())
