"""Models that hold their decoder's weights as codes: the layer, loading, chatting and what they refuse."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny_folder
from paddle import nn

from paddlemix import LlavaForConditionalGeneration, LlavaProcessor
from paddlemix.checkpoints.quantized import QUANTIZED_NAME
from paddlemix.cli import main
from paddlemix.constants import BUNDLED_MODEL
from paddlemix.conversation.messages import Conversation, Message
from paddlemix.generate.sampling import SamplingParams
from paddlemix.generate.session import ChatSession
from paddlemix.models.quantized import QuantizedLinear, quantized_layers
from paddlemix.ops import dequantize as on_device
from paddlemix.ops.quantize import KINDS, dequantize, quantize

SWITCHES = {"int8": {"load_in_8bit": True}, "nf4": {"load_in_4bit": True}}


def rounded(matrix: np.ndarray, kind: str) -> np.ndarray:
    """Return the dequantized weight [in, out] of a layer."""
    return dequantize(quantize(np.ascontiguousarray(matrix.T), kind)).T


def on_device_weight(layer: QuantizedLinear):
    return on_device.dequantize(layer.codes, paddle.float32)


def load(kind: str | None = None, folder=None):
    return LlavaForConditionalGeneration.from_pretrained(folder or tiny_folder.folder(), **SWITCHES.get(kind, {}))


def batch_of(processor):
    conversation = Conversation([Message("user", "<image>\nWhat colour is shape 3?")], [tiny_folder.random_image(1)])
    return processor.collate([processor.encode(conversation)])


@pytest.fixture(scope="module", params=KINDS)
def layers(request):
    """A quantized layer with a bias and a plain one with the same weight: (kind, quantized, plain)."""
    paddle.seed(0)
    plain = nn.Linear(72, 40)
    plain.bias.set_value(paddle.normal(shape=[40]))
    codes = quantize(np.ascontiguousarray(plain.weight.numpy().T), request.param)
    quantized = QuantizedLinear((72, 40), plain.bias, request.param, paddle.float32)
    quantized.set_codes(codes)
    plain.weight.set_value(np.ascontiguousarray(dequantize(codes).T))
    return request.param, quantized, plain


def test_layer_and_its_gradient_are_those_of_a_linear_layer_with_the_rounded_weight(layers):
    _, quantized, plain = layers
    results = []
    for layer in (quantized, plain):
        paddle.seed(1)
        x = paddle.normal(shape=[2, 5, 72])
        x.stop_gradient = False
        y = layer(x)
        (y * paddle.normal(shape=y.shape)).sum().backward()
        results.append((y.numpy(), x.grad.numpy()))
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [[1, 192], [2, 3, 192], [1, 16, 192], [40, 192]])
def test_layer_without_gradients_computes_the_same_with_bias_and_adapter(kind, shape):
    """Few rows are multiplied with the codes; the adapter's and the bias's parts are not quantized."""
    paddle.seed(0)
    weight, left, right = (paddle.normal(shape=size).numpy() for size in ([45, 192], [192, 4], [4, 45]))
    layer = QuantizedLinear((192, 45), nn.Linear(2, 45).bias, kind, paddle.float32)
    layer.bias.set_value(paddle.normal(shape=[45]))
    layer.set_codes(quantize(weight, kind), (left, right))
    x = paddle.normal(shape=shape)
    expected = x.numpy() @ (dequantize(quantize(weight, kind)).T + left @ right) + layer.bias.numpy()
    with paddle.no_grad():
        found = layer(x)
    x.stop_gradient = False
    for result in (found, layer(x)):
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_layer_keeps_no_weight_between_forward_and_backward(layers):
    _, quantized, _ = layers
    x = paddle.normal(shape=[1, 1, 72])
    x.stop_gradient = False
    kept = {}
    for product in (quantized, lambda x: paddle.matmul(x, on_device_weight(quantized), transpose_y=True)):
        shapes = []
        keep = functools.partial(lambda shapes, one: shapes.append(one.shape) or one, shapes)
        with paddle.autograd.saved_tensors_hooks(keep, lambda one: one):
            product(x).sum()
        kept[product] = [40, 72] in shapes
    assert list(kept.values()) == [False, True]  # the second is what would happen without the layer's own gradient


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_layers_of_the_decoder_and_no_others_are_quantized(kind):
    model = load(kind)
    names = set(quantized_layers(model))
    expected = {name.removesuffix(".weight") for name, _ in load().named_parameters() if QUANTIZED_NAME.fullmatch(name)}
    assert names == expected and len(names) == 2 * 7
    assert all(re.match(r"language_model\.layers\.\d", name) for name in names)
    left = {name for name, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    assert "language_model.lm_head" in left and not any(name.startswith("language_model.layers") for name in left)
    assert not any(name.removesuffix(".weight") in names for name in model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_model_with_rounded_weights(kind):
    processor = LlavaProcessor.from_pretrained(tiny_folder.folder())
    reference = load()
    before = reference(batch_of(processor)).numpy()
    for name, parameter in reference.named_parameters():
        if QUANTIZED_NAME.fullmatch(name):
            parameter.set_value(np.ascontiguousarray(rounded(parameter.numpy(), kind)))
    expected = reference(batch_of(processor)).numpy()
    result = load(kind)(batch_of(processor)).numpy()
    np.testing.assert_allclose(result, expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(result - before).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_bundled_model_answers_as_codes(kind):
    tiny = Path(BUNDLED_MODEL).parent
    question, expected = next(iter(json.loads((tiny / "scene.json").read_text())["questions"].items()))
    session = ChatSession(load(kind, BUNDLED_MODEL), LlavaProcessor.from_pretrained(BUNDLED_MODEL))
    assert session.ask(question, images=[tiny / "shapes.png"], sampling=SamplingParams(temperature=0)) == expected


def test_quantized_model_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="has 14 weights in nf4 and cannot be saved"):
        load("nf4").save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_chat_refuses_both_switches_before_it_loads(capsys):
    assert main(["chat", "--load-8bit", "--load-4bit", "--model-path", "nowhere"]) == 1
    assert "not both: give one of --load-8bit and --load-4bit" in capsys.readouterr().err


def test_unknown_kinds_are_refused():
    from paddlemix.checkpoints.load import load_model

    with pytest.raises(ValueError, match="quantization is 'fp4': expected int8 or nf4"):
        load_model(tiny_folder.folder(), quantization="fp4")
