"""Phi-3's two sets of rotary factors: a sequence is read with those for its prompt and budget, from first to last."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch
from cached_reader import CachedReader
from test_families import GREEDY, LONGROPE, NUM_NEW, TOLERANCE, apart, batch_of, our_logits, rebuilt
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from paddlemix.data.sample import Batch
from paddlemix.generate.engine import Engine
from paddlemix.generate.passes import Passes
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.sequence import Ending, Sequence
from paddlemix.generate.session import ChatSession
from paddlemix.models.config import LanguageConfig, RopeScaling
from paddlemix.models.language.families import FAMILIES
from paddlemix.models.language.positions import amplitude, frequency_scales, sequence_lengths

ORIGINAL = 64  # positions; longer sequences have the long factors
CROSSING = [ORIGINAL - 10]  # a prompt within them, whose answer ends beyond them


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair(False, family="phi3", rope_scaling=LONGROPE, original_max_position_embeddings=ORIGINAL)


def test_factors_and_amplitude_are_those_of_transformers():
    rng = np.random.default_rng(0)
    factors = {name: (1 + 30 * rng.random(48)).tolist() for name in ("short_factor", "long_factor")}
    scaling, lengths = {"type": "longrope", **factors}, {"max_position_embeddings": 131072}
    lengths["original_max_position_embeddings"] = 4096
    shape = {"hidden_size": 3072, "num_attention_heads": 32, "num_key_value_heads": 32, "rope_theta": 10000.0}
    theirs = tiny.text_config("phi3", rope_scaling=scaling, **shape, **lengths)
    ours = FAMILIES["phi3"].read({**theirs.to_dict(), "rope_scaling": {**scaling, "type": "su"}})
    plain, _ = ROPE_INIT_FUNCTIONS["default"](theirs, "cpu")
    for is_long, length in ((False, 4096), (True, 4097)):
        expected, factor = ROPE_INIT_FUNCTIONS["longrope"](theirs, "cpu", seq_len=length)
        np.testing.assert_allclose(frequency_scales(ours, is_long), (expected / plain).numpy(), rtol=1e-5)
        assert amplitude(ours) == pytest.approx(factor)


@pytest.mark.parametrize("length", [ORIGINAL - 1, ORIGINAL, ORIGINAL + 1])
def test_logits_equal_transformers_on_both_sides_of_the_boundary(pair, length):
    batch = batch_of(pair, [length - 1])  # a first token is added
    assert batch.token_ids.shape[1] == length
    theirs = tiny.hf_logits(pair.theirs, batch, False)
    assert np.abs(our_logits(pair.ours, batch) - theirs).max() < TOLERANCE


def transformers_answer(pair, batch, num_new: int) -> list[int]:
    """Decode greedily, each time with a pass over the whole sequence."""
    ids = torch.tensor(batch.token_ids)
    with torch.no_grad():
        for _ in range(num_new):
            logits = pair.theirs(input_ids=ids, use_cache=False).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids[0, batch.token_ids.shape[1] :].tolist()


def test_answer_within_the_original_context_is_that_of_transformers(pair):
    batch = batch_of(pair, CROSSING)
    fitting = dataclasses.replace(GREEDY, max_new_tokens=ORIGINAL - batch.token_ids.shape[1])
    assert pair.ours.generate(batch, fitting) == [transformers_answer(pair, batch, fitting.max_new_tokens)]


def test_answer_whose_budget_crosses_the_boundary_has_the_long_factors_from_its_first_token(pair, monkeypatch):
    batch = batch_of(pair, CROSSING)
    tiny.hf_logits(pair.theirs, batch_of(pair, [ORIGINAL]), False)  # this sets its long factors
    rotary = next(module for module in pair.theirs.modules() if hasattr(module, "long_inv_freq"))
    monkeypatch.setattr(rotary, "original_inv_freq", rotary.long_inv_freq)  # for sequences of any length
    assert pair.ours.generate(batch, GREEDY) == [transformers_answer(pair, batch, NUM_NEW)]


def test_budget_decides_the_logits_of_a_short_prompt(pair):
    batch = batch_of(pair, [5])
    short, long = (CachedReader(pair.ours, 1, capacity) for capacity in (ORIGINAL, ORIGINAL + 1))
    with paddle.no_grad():
        found = [reader.read(pair.ours.embed(batch)) for reader in (short, long)]
    np.testing.assert_allclose(found[0], our_logits(pair.ours, batch)[:, -1], atol=TOLERANCE)
    assert np.abs(found[0] - found[1]).max() > 10 * TOLERANCE


def test_cached_logits_equal_uncached_ones_of_the_whole_sequence(pair):
    batch = batch_of(pair, [40, (60, 40), 20])
    length = batch.token_ids.shape[1]
    assert length > ORIGINAL + 10
    with paddle.no_grad():
        embeds = pair.ours.embed(batch)

    def check(reader: CachedReader, num_all: int, *cuts: int) -> None:
        """Read pieces of a sequence that becomes num_all positions long."""
        with paddle.no_grad():
            hidden = pair.ours.language_model(embeds[:, :num_all], paddle.arange(num_all).unsqueeze(0))
            whole = pair.ours.language_model.logits(hidden).numpy()
        reader.trim(cuts[0])
        for start, end in itertools.pairwise(cuts):
            logits = reader.read(embeds[:, start:end])
            np.testing.assert_allclose(logits, whole[:, end - 1], atol=TOLERANCE)

    reader = CachedReader(pair.ours, 1, length)
    check(reader, length, 0, 30, ORIGINAL, length)
    check(reader, length, 10, ORIGINAL + 1, length)
    check(CachedReader(pair.ours, 1, ORIGINAL), ORIGINAL, 0, 30, ORIGINAL)


def test_keys_rotated_by_the_long_factors_are_of_no_use_to_a_short_sequence(pair):
    ids = np.random.default_rng(0).integers(3, 100, ORIGINAL).tolist()
    engine = Engine(pair.ours, max_slots=1)

    def num_read(length: int, budget: int) -> int:
        sequence = new_sequence(ids[:length], budget)
        engine.run([sequence])
        assert sequence.answer_ids == answer_alone(pair.ours, ids[:length], budget)
        return sequence.num_prefilled

    assert num_read(50, ORIGINAL - 49) == 50
    assert num_read(48, 2) == 48, "the slot has long factors"
    assert num_read(50, ORIGINAL - 50) == 2
    assert num_read(49, ORIGINAL - 48) == 1, "the store has those of the first sequence"


def new_sequence(ids: list[int], budget: int) -> Sequence:
    return Sequence(list(ids), {}, SamplingParams(max_new_tokens=budget), budget, Ending())


def answer_alone(model, ids: list[int], budget: int) -> list[int]:
    sequence = new_sequence(ids, budget)
    Engine(model, prefix_bytes=0).run([sequence])
    return sequence.answer_ids


def test_short_row_beside_a_long_one_answers_as_alone(pair):
    rows = [[5], CROSSING, [ORIGINAL + 20]]
    batch = batch_of(pair, *rows)
    alone = [pair.ours.generate(part, GREEDY)[0] for part in apart(batch, rows)]
    assert pair.ours.generate(batch, GREEDY) == alone


def chat(model, processor, questions) -> list[list[int]]:
    session = ChatSession(model, processor, sampling=GREEDY)
    for question in questions:
        session.ask(question)
    return [turn.answer_ids for turn in session.turns]


def test_conversation_answers_as_one_that_reads_all_of_it_anew(monkeypatch):
    model, processor = tiny_folder.load()
    config, questions = model.config.language, ["What is this?", "How many shapes?", "What colour?", "Where?"]
    factors = {name: LONGROPE[name] + [8.0, 9.0] for name in ("short_factor", "long_factor")}
    plain = chat(model, processor, questions)
    scaling = RopeScaling(
        "longrope", config.max_position_embeddings / 120, original_max_position_embeddings=120, **factors
    )
    model.language_model = rebuilt(model.language_model, dataclasses.replace(config, rope_scaling=scaling))
    session = ChatSession(model, processor, sampling=GREEDY, engine=Engine(model))
    was_long, num_prefilled = [], []
    for question in questions:
        session.ask(question)
        num_prefilled.append(session.num_prefilled)
        assert answer_anew(session, question, session.turns[:-1]) == session.turns[-1].answer
        was_long.append(any(session.engine.slots.cache.is_long))
    first_long = was_long.index(True)
    assert first_long > 0 and all(was_long[first_long:])
    num_before = [len(turn.prompt_ids) + len(turn.answer_ids) for turn in session.turns[:first_long]]
    assert num_prefilled[first_long] == sum(num_before) + len(session.turns[first_long].prompt_ids), "all is read again"
    assert num_prefilled[-1] < 60 and [turn.answer_ids for turn in session.turns] != plain
    session.drop_oldest(3)  # the rest is a short sequence again and has to be read with the short factors

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Passes, "_logits", interrupted)  # the cache has been written to
        session.ask("How many?")
    expected = answer_anew(session, "How many?", session.turns)
    assert session.ask("How many?") == expected


def answer_anew(session: ChatSession, question: str, turns) -> str:
    """Return the answer of a session with these turns and an empty cache."""
    fresh = ChatSession(session.model, session.processor, sampling=GREEDY, engine=Engine(session.model))
    fresh.turns = list(turns)
    return fresh.ask(question)


def test_packed_sequences_go_by_their_own_lengths(pair):
    parts = apart(batch_of(pair, [17], [ORIGINAL + 9]), [[17], [ORIGINAL + 9]])
    ids, positions = (np.concatenate([getattr(p, n) for p in parts], 1) for n in ("token_ids", "position_ids"))
    segments = np.concatenate([(number + 1) * part.segment_ids for number, part in enumerate(parts)], 1)
    expected = np.concatenate([our_logits(pair.ours, part) for part in parts], 1)
    packed = our_logits(pair.ours, Batch(ids, None, positions, segments))
    np.testing.assert_allclose(packed, expected, atol=TOLERANCE)


def test_length_of_every_sequence_is_read_off_the_positions():
    positions = np.array([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6], [5, 6, 0, 1, 2, 3, 4], [2, 0, 0, 0, 0, 0, 0]])
    expected = [[3, 3, 3, 2, 2, 1, 1], [7] * 7, [7, 7, 5, 5, 5, 5, 5], [3, 1, 1, 1, 1, 1, 1]]
    assert sequence_lengths(positions).tolist() == expected


def test_dynamic_changes_nothing_within_the_context_and_is_refused_beyond(make_pair):
    plain = make_pair(False, max_position_embeddings=ORIGINAL)
    values = {**vars(plain.ours.config.language), "rope_scaling": RopeScaling("dynamic", 3.0)}
    dynamic = rebuilt(plain.ours.language_model, LanguageConfig(**values))
    theirs = tiny.hf_model(
        False, max_position_embeddings=ORIGINAL, rope_scaling={"rope_type": "dynamic", "factor": 3.0}
    )
    theirs.load_state_dict(plain.theirs.state_dict())
    fitting, longer = (batch_of(plain, [length - 1]) for length in (ORIGINAL, ORIGINAL + 1))
    plain.ours.language_model = dynamic
    expected = tiny.hf_logits(theirs, fitting, False)
    assert np.abs(our_logits(plain.ours, fitting) - expected).max() < TOLERANCE
    with pytest.raises(ValueError, match="a sequence of 65 positions is longer than max_position_embeddings 64"):
        our_logits(plain.ours, longer)
    with pytest.raises(ValueError, match="a sequence of 65 positions is longer"):
        Engine(plain.ours).check(new_sequence([5] * (ORIGINAL - 1), budget=2))
