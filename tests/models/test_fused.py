"""Fused projections compute what their parts did, over the same number of weights."""

import numpy as np
import paddle
import pytest
import tiny_folder

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.models.config import LanguageConfig, LlavaConfig, VisionConfig
from paddlemix.models.fused import fuse_projections, is_fused

FAMILIES = {
    "grouped": {},
    "one key head a query": {"num_key_value_heads": 4},
    "biases": {"has_qkv_bias": True},
    "pairs": {"rope_order": "pairs"},
    "alibi": {"positions": "alibi", "num_key_value_heads": 4},
    "window": {"sliding_window": 20, "num_full_layers": 0},
    "clipped": {"clip_qkv": 0.05},
}


def config_of(**changes) -> LlavaConfig:
    language = {**tiny_folder.LANGUAGE, "vocab_size": tiny_folder.VOCAB_SIZE, **changes}
    image = {"side": tiny_folder.SIDE, "patch_size": tiny_folder.PATCH, "mode": "pad", "merge": "flat"}
    vision = VisionConfig(**tiny_folder.VISION)
    return LlavaConfig.from_dict({"language": language, "image": image, "vision": vars(vision)})


def batch():
    processor = LlavaProcessor.from_pretrained(tiny_folder.folder())
    conversation = Conversation([Message("user", "<image>\nWhat colour is shape 3?")], [tiny_folder.picture(1)])
    return processor.collate([processor.encode(conversation)])


@pytest.mark.parametrize("name", FAMILIES)
def test_fused_model_computes_the_same(name):
    model = LlavaForConditionalGeneration(config_of(**FAMILIES[name]))
    model.initialize_weights(seed=0, std=0.2)
    for number, parameter in enumerate(model.parameters()):
        if parameter.ndim == 1:
            parameter.set_value(paddle.normal(0.5, 0.1, parameter.shape) + 0.01 * number)
    model.eval()
    size = sum(parameter.size for parameter in model.parameters())
    logits, answer = model(batch()).numpy(), model.generate(batch(), max_new_tokens=40)
    assert fuse_projections(model) == 5 * len(model.language_model.layers)
    assert is_fused(model) and sum(parameter.size for parameter in model.parameters()) == size
    np.testing.assert_allclose(model(batch()).numpy(), logits, atol=1e-4)
    assert model.generate(batch(), max_new_tokens=40) == answer


def test_feed_forward_without_a_gate_stays_as_it_is():
    model = LlavaForConditionalGeneration(config_of(is_gated=False, activation="gelu"))
    assert fuse_projections(model) == 3 * LanguageConfig(**tiny_folder.LANGUAGE).num_hidden_layers


def test_layers_with_codes_stay_as_they_are():
    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder.folder(), load_in_8bit=True)
    assert fuse_projections(model) == 0 and not is_fused(model)


def test_fused_model_refuses_to_be_saved_by_parts(tmp_path):
    model = LlavaForConditionalGeneration.from_pretrained(tiny_folder.folder())
    fuse_projections(model)
    with pytest.raises(ValueError, match="load it again to save it"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
