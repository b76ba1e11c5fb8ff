"""Fused layers compute the same as plain ones, and have no weight twice."""

import numpy as np
import paddle
import pytest
import tiny_folder

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.generate.batch import generate
from paddlemix.generate.sampling import SamplingParams
from paddlemix.models.config import LlavaConfig, VisionConfig
from paddlemix.models.cpu import fused_layer, reader
from paddlemix.models.cpu.blockwise import BatchRow, block_ends, read_blockwise, read_rows, split_evenly
from paddlemix.models.cpu.fused_layer import num_blocks, row_product, transposed_row_product
from paddlemix.models.cpu.reader import fuse_projections

HALF = tiny_folder.LANGUAGE["hidden_size"] // tiny_folder.LANGUAGE["num_attention_heads"] // 2
LONGROPE = {"kind": "longrope", "factor": 2.0, "short_factor": (1.0,) * HALF, "long_factor": (2.0,) * HALF}
LONGROPE["original_max_position_embeddings"] = 70  # some of the prompts below are longer
FAMILIES = {
    "grouped": {},
    "one key head a query": {"num_key_value_heads": 4},
    "biases": {"has_qkv_bias": True},
    "pairs": {"rope_order": "pairs"},
    "alibi": {"positions": "alibi", "num_key_value_heads": 4},
    "window": {"sliding_window": 20, "num_full_layers": 0},
    "clipped": {"clip_qkv": 0.05},
    "layer norm": {"norm": "layer"},
    "offset": {"norm_offset": 1.0, "activation": "gelu_tanh"},
    "two scalings": {"rope_scaling": LONGROPE},
    "scaled scores": {"softmax_scale": 0.3},
    "biases everywhere": {"has_qkv_bias": True, "has_out_bias": True, "tie_word_embeddings": True},
}
QUESTIONS = ("What colour is shape 3?", "What?", "How many shapes lie on the left, and which of them is red?")


def config_of(**changes) -> LlavaConfig:
    language = {**tiny_folder.LANGUAGE, "vocab_size": tiny_folder.VOCAB_SIZE, **changes}
    image = {"side": tiny_folder.SIDE, "patch_size": tiny_folder.PATCH, "mode": "pad", "merge": "flat"}
    vision = VisionConfig(**tiny_folder.VISION)
    return LlavaConfig.from_dict({"language": language, "image": image, "vision": vars(vision)})


def batch(*questions: str):
    processor = LlavaProcessor.from_pretrained(tiny_folder.folder())
    texts = [f"<image>\n{question}" for question in questions or QUESTIONS[:1]]
    talks = [Conversation([Message("user", text)], [tiny_folder.random_image(1)]) for text in texts]
    return processor.collate([processor.encode(talk) for talk in talks])


def random_model(**changes):
    model = LlavaForConditionalGeneration(config_of(**changes))
    model.initialize_weights(seed=0, std=0.2)
    for number, parameter in enumerate(model.parameters()):
        if parameter.ndim == 1:
            parameter.set_value(paddle.normal(0.5, 0.1, parameter.shape) + 0.01 * number)
    model.eval()
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_fused_model_computes_the_same(name, monkeypatch):
    monkeypatch.setattr(fused_layer, "SMALL", 0)
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "4")
    model = random_model(**FAMILIES[name])
    logits, answer = model(batch()).numpy(), model.generate(batch(), max_new_tokens=40)
    answers = model.generate(batch(*QUESTIONS), max_new_tokens=20)
    assert fuse_projections(model)
    np.testing.assert_allclose(model(batch()).numpy(), logits, atol=1e-5 * np.abs(logits).max())
    assert model.generate(batch(), max_new_tokens=40) == answer
    assert model.generate(batch(*QUESTIONS), max_new_tokens=20) == answers


def test_fused_model_has_no_weight_twice():
    model = random_model()
    norms = [norm for layer in model.language_model.layers for norm in layer.sublayers() if hasattr(norm, "epsilon")]
    before = {parameter.data_ptr() for parameter in model.parameters()}
    size = sum(parameter.size for parameter in model.parameters())
    assert fuse_projections(model) and not fuse_projections(model)
    # The norms' weights are multiplied into the matrices after them.
    assert sum(parameter.size for parameter in model.parameters()) == size - sum(norm.weight.size for norm in norms)
    projections = [layer.out.weight.data_ptr() for layer in model.language_model.reader.layers]
    assert set(projections) <= before, "projections of one part are not copied"


def test_single_tokens_take_the_quick_step():
    model, steps = random_model(), []
    fuse_projections(model)
    first = model.language_model.reader.layers[0]
    quick = type(first).step
    first.step = lambda *arguments: steps.append(1) or quick(first, *arguments)
    (answer,) = model.generate(batch(), max_new_tokens=8)
    assert len(steps) == len(answer) - 1 > 0


@pytest.mark.parametrize("name", ["grouped", "biases everywhere", "pairs", "window"])
@pytest.mark.parametrize("length", [65, 128, 300])
def test_threads_read_a_long_prompt_block_by_block(name, length, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "2")
    model = random_model(**FAMILIES[name])
    language = model.language_model
    embeds = paddle.randn([2, length, language.config.hidden_size])
    positions = paddle.arange(length).unsqueeze(0).expand([2, length])

    def read() -> tuple:
        cache = language.new_cache(2, 2 * length + 1)
        with paddle.no_grad():
            hidden = language.forward_cached(embeds, positions, cache)
            more = language.forward_cached(embeds[:, ::-1], positions + length, cache)
            follows = language.forward_cached(embeds[:, :1], positions[:, -1:] + length + 1, cache)
        return hidden.numpy(), more.numpy(), follows.numpy()

    expected = read()
    assert fuse_projections(model)
    blocks = []
    monkeypatch.setattr(reader, "read_blockwise", lambda *given: blocks.append(given[2]) or read_blockwise(*given))
    found = read()
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5 * np.abs(plain).max())
    is_windowed = language.config.sliding_window is not None
    assert len(blocks) == (0 if is_windowed else 2)  # layers with a window are not read in blocks
    assert is_windowed or (blocks[0][0][0], blocks[0][-1][1]) == (0, length)


@pytest.mark.parametrize("shares_prefixes", [True, False])
@pytest.mark.parametrize("name", ["grouped", "biases everywhere", "window", "two scalings"])
def test_threads_read_a_batch_row_by_row(name, shares_prefixes, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "2")
    model, sampling = random_model(**FAMILIES[name]), SamplingParams(max_new_tokens=12)
    alone = [answer for question in QUESTIONS for answer in generate(model, batch(question), sampling)]
    calls = []
    monkeypatch.setattr(reader, "read_rows", lambda *given: calls.append(given[1]) or read_rows(*given))
    assert generate(model, batch(*QUESTIONS), sampling, shares_prefixes=shares_prefixes) == alone and not calls
    assert fuse_projections(model)
    assert generate(model, batch(*QUESTIONS), sampling, shares_prefixes=shares_prefixes) == alone
    assert bool(calls) != (name == "window")
    lengths = {row.number: row.length for row in calls[-1]} if calls else {}
    assert len(set(lengths.values())) == len(lengths) or shares_prefixes  # no row has padding


def test_rows_are_split_evenly_evenly(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "2")
    rows = [
        BatchRow(number, 0, paddle.zeros([1, length, 1]), None)
        for number, length in enumerate([900, 10, 300, 300, 290])
    ]
    parts = split_evenly(rows)
    assert sorted(row.number for part in parts for row in part) == [0, 1, 2, 3, 4]
    assert sorted(sum(row.length for row in part) for part in parts) == [300, 300, 300, 900]


def test_one_thread_reads_a_prompt_at_once(monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", "1")
    assert block_ends(3000) == [(0, 3000)]


@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("length", [1, 64, 65, 300, 2400])
def test_blocks_cover_a_prompt(threads, length, monkeypatch):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", str(threads))
    ends = block_ends(length)
    assert [number for start, end in ends for number in range(start, end)] == list(range(length))
    assert max(end - start for start, end in ends) <= 256


def test_feed_forward_without_a_gate_stays_as_it_is():
    model = random_model(is_gated=False, activation="gelu")
    assert not fuse_projections(model) and model.language_model.reader is None


def test_layers_with_codes_stay_as_they_are():
    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder.folder(), load_in_8bit=True)
    assert not fuse_projections(model) and model.language_model.reader is None


def test_fused_model_refuses_to_be_saved_by_parts(tmp_path):
    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder.folder())
    fuse_projections(model)
    with pytest.raises(ValueError, match="load it again to save it"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_row_product_in_blocks_equals_the_product(blocks):
    rng = np.random.default_rng(0)
    row, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ([1, 24], [24, 16]))
    found = row_product(paddle.to_tensor(row), paddle.to_tensor(weight), blocks)
    np.testing.assert_allclose(found.numpy(), row @ weight, rtol=1e-5, atol=1e-6)
    found = transposed_row_product(paddle.to_tensor(row), paddle.to_tensor(weight.T.copy()), 2 * blocks)
    np.testing.assert_allclose(found.numpy(), row @ weight, rtol=1e-5, atol=1e-6)


def test_there_are_as_many_blocks_as_threads_where_the_rows_allow_it(monkeypatch):
    monkeypatch.setattr(fused_layer, "SMALL", 0)
    assert [num_blocks(paddle.ones([rows, 2]), 4) for rows in (8, 9, 7, 1)] == [4, 3, 1, 1]
    assert num_blocks(paddle.ones([4096, 2]), 64) == fused_layer.MAX_BLOCKS


def test_small_matrices_and_other_types_stay_whole():
    assert num_blocks(paddle.ones([512, 512]), 4) == 1 and num_blocks(paddle.ones([512, 1024]), 4) == 4
    assert num_blocks(paddle.ones([512, 1024], dtype="float16"), 4) == 1
