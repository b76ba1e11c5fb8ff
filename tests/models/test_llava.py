"""Errors of the model and its configuration, and parts that have no reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest
import reference_models as tiny
import tiny_folder
import torch

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.constants import IMAGE_TOKEN_ID
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.image.spec import ImageSpec
from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig
from paddlemix.models.image_features import arrange, place
from paddlemix.models.language.decoder import scaled
from paddlemix.models.llava import is_right_padded
from paddlemix.models.projector_type import projector_blocks

LANGUAGE = LanguageConfig(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
)
VISION = VisionConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7
)
ANYRES = ImageSpec(side=28, patch_size=7, mode="anyres", grids=((56, 28), (28, 56), (56, 56)), merge="spatial_unpad")
SQUARE = ImageSpec(side=28, patch_size=7)
CONFIG = LlavaConfig(LANGUAGE, VISION, image=SQUARE)


@pytest.fixture(scope="module")
def model():
    model = LlavaForConditionalGeneration(CONFIG)
    model.initialize_weights(seed=0)
    model.eval()  # paddle 3.0.0 returns None
    return model


def batch_of(rows, seed: int = 0):
    batch = tiny.make_batch(np.random.default_rng(seed), rows, SQUARE)
    ids = np.where(batch.token_ids > 0, batch.token_ids % 50, batch.token_ids)
    return dataclasses.replace(batch, token_ids=ids)


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_number_of_images_that_does_not_match_the_placeholders_raises_with_both_numbers(model, num_images):
    batch, other = batch_of([[3, (9, 9), 2, (5, 5), 1]]), batch_of([[(9, 9)] * num_images])
    wrong = dataclasses.replace(
        batch, pixels=other.pixels, tiles_per_image=other.tiles_per_image, image_sizes=other.image_sizes
    )
    with pytest.raises(ValueError, match=f"32 image placeholders .* {16 * num_images} image features"):
        model(wrong)


def test_images_in_a_row_without_placeholders_raise(model):
    batch = batch_of([[3, (9, 9)], [5]])
    ids = batch.token_ids.copy()
    ids[0, 4:12], ids[1, 1:9] = 7, IMAGE_TOKEN_ID
    with pytest.raises(ValueError, match="row 0 has 8 image placeholders, which is not the sum of whole images"):
        model(dataclasses.replace(batch, token_ids=ids))


def test_wrong_tile_count_raises(model):
    batch = batch_of([[3, (9, 9)]])
    with pytest.raises(ValueError, match=r"tiles_per_image \[2\] sums to 2, but there are 1 tiles"):
        model(dataclasses.replace(batch, tiles_per_image=np.array([2])))


@pytest.mark.parametrize("token", [50, -1, -201])
def test_token_ids_outside_the_vocabulary_raise(model, token):
    batch = batch_of([[5]])
    batch.token_ids[0, 2] = token
    with pytest.raises(ValueError, match="the vocabulary has 50 entries"):
        model(batch)


def test_image_features_are_at_the_placeholders():
    embedding = paddle.nn.Embedding(50, 4)
    ids = np.array([[3, -200, -200, 7], [-200, 9, 8, 2]])
    features = [paddle.full([2, 4], 100.0), paddle.full([1, 4], 200.0)]
    out = place(embedding, ids, features).numpy()
    table = embedding.weight.numpy()
    expected = table[np.where(ids < 0, 0, ids)]
    expected[0, 1:3], expected[1, 0] = 100.0, 200.0
    np.testing.assert_array_equal(out, expected)


def test_arranging_refuses_another_number_of_tiles_than_the_size_needs():
    with pytest.raises(ValueError, match=r"100x90 px needs 5 tiles \(a grid of 2x2 and an overview\), found 3"):
        arrange(paddle.zeros([3, 16, 4]), (100, 90), ANYRES, paddle.zeros([4]))


@pytest.mark.parametrize("merge", ["flat", "spatial"])
def test_tiles_keep_their_places_without_newlines(merge):
    spec = dataclasses.replace(ANYRES, merge=merge)
    tiles = paddle.arange(5 * 16, dtype="float32").reshape([5, 16, 1])
    found = arrange(tiles, (100, 90), spec).numpy()[:, 0]
    grid = np.arange(16, 80).reshape(2, 2, 4, 4)
    mosaic = np.block([[grid[0, 0], grid[0, 1]], [grid[1, 0], grid[1, 1]]]).ravel()
    np.testing.assert_array_equal(found, np.arange(80) if merge == "flat" else np.concatenate([np.arange(16), mosaic]))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 1, 0], [1, 1, 1]], True),
        ([[1, 1, 1]], True),
        ([[0, 1, 1]], False),
        ([[1, 2, 2]], False),
        ([[1, 0, 1]], False),
        ([[2, 2, 0]], False),
    ],
)
def test_right_padding_is_recognized(rows, expected):
    assert is_right_padded(np.array(rows)) == expected


def test_left_padded_row_gives_the_logits_of_the_row_alone(model):
    batch = batch_of([[4, (9, 9), 3]])
    padded = dataclasses.replace(
        batch,
        **{
            name: np.pad(getattr(batch, name), ((0, 0), (5, 0)))
            for name in ("token_ids", "position_ids", "segment_ids")
        },
    )
    with paddle.no_grad():
        np.testing.assert_allclose(model(padded).numpy()[:, 5:], model(batch).numpy(), atol=1e-5)


def test_initialization_with_a_seed_is_repeatable_and_fills_every_matrix():
    first, second, other = (LlavaForConditionalGeneration(CONFIG) for _ in range(3))
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        model.initialize_weights(seed=seed)
    others = dict(other.named_parameters())
    for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())
        if one.ndim >= 2 or "class_embedding" in name:
            assert one.numpy().std() > 0.01 and not np.array_equal(one.numpy(), others[name].numpy()), name


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("identity", (0, 0)),
        ("linear", (1, 0)),
        ("mlp1x_gelu", (1, 0)),
        ("mlp2x_gelu", (2, 0)),
        ("mlp13x_gelu", (13, 0)),
        ("mlp2x_res2x_gelu", (2, 2)),
        ("mlp1x_res12x_gelu", (1, 12)),
    ],
)
def test_projector_types_are_read(name, blocks):
    assert projector_blocks(name) == blocks


@pytest.mark.parametrize(
    "name",
    [
        *["", "mlp0x_gelu", "mlpx_gelu", "mlp2x_relu", "mlp2x_gelux", "mlp-2x_gelu", "Linear", "pooler"],
        *["mlp2x_res0x_gelu", "mlp2x_resx_gelu", "mlp2x_res2x", "res2x_gelu", "mlp2x_res2x_gelu\n"],
    ],
)
def test_unknown_projector_types_raise_and_name_those_there_are(name):
    with pytest.raises(ValueError, match=r"unknown projector type .* expected linear, identity, mlpNx_gelu .*resMx"):
        projector_blocks(name)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"projector_type": "identity", "vision": dataclasses.replace(VISION, hidden_size=18)}, "needs equal widths"),
        (
            {"image": dataclasses.replace(SQUARE, side=35)},
            "do not fit a tower .*: `paddlemix compose --image-size` adapts",
        ),
        ({"vision": dataclasses.replace(VISION, select_feature="cls_patch")}, "must be set together"),
        ({"image": ANYRES}, "needs has_image_newline"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_configs_whose_parts_do_not_fit_raise(changes, text):
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize(
    ("cls", "values", "text"),
    [
        (LanguageConfig, {"num_attention_heads": 6, "num_key_value_heads": 4}, "6 is not a multiple of .* 4"),
        (LanguageConfig, {"head_dim": 7}, "head_dim 7 is odd"),
        (VisionConfig, {"hidden_act": "relu"}, "hidden_act is 'relu', expected 'quick_gelu' or"),
        (VisionConfig, {"has_class_token": False, "select_feature": "cls_patch"}, "tower has no class token"),
        (VisionConfig, {"image_size": 13}, "image_size 13 px is smaller than patch_size 14 px"),
        (VisionConfig, {"select_layer": 25}, "select_layer 25 does not exist in a tower of 24 layers"),
        (VisionConfig, {"select_layer": -26}, "select_layer -26 does not exist"),
    ],
)
def test_config_values_that_cannot_be_raise(cls, values, text):
    with pytest.raises(ValueError, match=text):
        cls(**values)


def test_config_is_the_same_there_and_back():
    config = LlavaConfig(LANGUAGE, VISION, image=ANYRES, has_image_newline=True, eos_token_ids=[2, 5])
    assert LlavaConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_factor_of_embeddings_is_rounded_as_in_transformers(dtype):
    x = torch.linspace(-3, 3, 50).to(getattr(torch, dtype))
    expected = x * torch.tensor(3072**0.5, dtype=x.dtype)  # GemmaModel.forward
    ours = scaled(paddle.to_tensor(x.float().numpy()).astype(dtype), 3072**0.5)
    assert str(ours.dtype) == f"paddle.{dtype}"
    np.testing.assert_array_equal(ours.astype("float32").numpy(), expected.float().numpy())


def test_projector_has_zero_gradients_without_images_even_for_gradients_near_the_float16_limit():
    folder = tiny_folder.folder()
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    model.train()
    # The sum of these gradients is more than float32 can hold; each of them is not.
    processor = LlavaProcessor.from_pretrained(folder)
    batch = processor.collate([processor.encode(Conversation([Message("user", "Hello"), Message("assistant", "Hi")]))])
    (model.embed(batch) * 3e38).sum().backward()
    for name, parameter in model.projector.named_parameters():
        assert parameter.grad is not None and not parameter.grad.numpy().any(), name
