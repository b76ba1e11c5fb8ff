"""The estimate of a card's memory where several cards share the decoder: what the card's own part needs."""

from __future__ import annotations

import math

import pytest

from paddlemix.checkpoints.load import build_model
from paddlemix.doctor.activations import Load
from paddlemix.doctor.memory import Trainable, estimate, outline
from paddlemix.models.config import LanguageConfig, LlavaConfig
from paddlemix.models.parallel.cards import Cards
from paddlemix.train.arguments import ModelArguments
from paddlemix.train.settings import DataSettings, MemorySettings, Method

SIZES = {"vocab_size": 301, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
CONFIG = LlavaConfig(language=LanguageConfig(**SIZES, num_attention_heads=8, num_key_value_heads=4))
LOAD = Load((40,), 20, 0, 0)


@pytest.mark.parametrize("degree", [2, 4])
def test_weights_and_gradients_are_those_of_the_largest_part(degree):
    last = build_model(CONFIG, "float32", is_empty=True, cards=Cards(degree - 1, degree, None))
    sizes = {name: math.prod(one.shape) for name, one in last.named_parameters()}
    trainable = Trainable([name for name in sizes if name.startswith("language_model.")])
    found, whole = (estimate(CONFIG, trainable, LOAD, Method(num_parts=parts)) for parts in (degree, 1))
    assert found.weights == 4 * sum(sizes.values())
    assert found.gradients == 4 * (
        sum(sizes[name] for name in trainable.names) + max(sizes[n] for n in trainable.names)
    )
    assert found.num_trained == whole.num_trained and found.num_parameters == whole.num_parameters
    assert all(found.activations[part] < whole.activations[part] for part in ("layers", "head"))


def test_a_degree_that_does_not_divide_the_model_is_refused():
    trainable = outline(CONFIG, ModelArguments())
    with pytest.raises(ValueError, match="num_attention_heads is 8, which cannot be cut in 3"):
        estimate(CONFIG, trainable, LOAD, Method(num_parts=3))


def test_the_degree_is_read_from_a_runs_values_and_needs_as_many_processes():
    settings = MemorySettings.read({"tensor_parallel_degree": 2, "sharding": "stage1"})
    method = settings.method("npu", 8)
    assert (method.num_parts, method.num_shards, method.sharding) == (2, 4, 1)
    assert settings.method("npu", 1).num_parts == 1  # a single process ignores it
    with pytest.raises(ValueError, match="tensor_parallel_degree is 2, and there are 3 processes"):
        settings.method("npu", 3)


def test_cards_that_share_a_decoder_read_the_same_rows():
    values = {"per_device_train_batch_size": 2}
    assert DataSettings.read({**values, "tensor_parallel_degree": 2}).steps(64, 8) == DataSettings.read(values).steps(
        64, 4
    )
