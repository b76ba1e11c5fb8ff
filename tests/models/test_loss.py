"""The loss against torch's, in parts and whole, and its weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
import torch

from paddlemix.constants import IGNORE_INDEX
from paddlemix.data.collate import collate_packs, loss_weights
from paddlemix.data.sample import Sample
from paddlemix.models import loss as loss_file
from paddlemix.models.loss import weighted_loss

WIDTH, VOCAB = 6, 11


@pytest.fixture
def problem():
    """Return hidden [2, 9, WIDTH], labels, weights, and a head's weight [WIDTH, VOCAB]."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, VOCAB, [2, 9])
    labels[generator.random([2, 9]) < 0.4] = IGNORE_INDEX
    weights = generator.random([2, 9]).astype(np.float32) * (labels != IGNORE_INDEX)
    hidden = generator.standard_normal([2, 9, WIDTH]).astype(np.float32)
    return hidden, labels, weights, generator.standard_normal([WIDTH, VOCAB]).astype(np.float32)


def torch_loss(hidden, labels, weights, head):
    """Return the loss and its gradients with respect to hidden and head."""
    hidden, head = (torch.tensor(value, requires_grad=True) for value in (hidden, head))
    logits = (hidden @ head)[:, :-1].reshape(-1, VOCAB)
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[:, 1:]).reshape(-1), reduction="none")
    total = (losses * torch.tensor(weights[:, 1:]).reshape(-1)).sum()
    total.backward()
    return total.item(), hidden.grad.numpy(), head.grad.numpy()


@pytest.mark.parametrize("max_logits", [1 << 26, 3 * VOCAB, 1])
def test_loss_and_gradients_equal_torch_whole_and_in_parts(problem, monkeypatch, max_logits):
    hidden, labels, weights, head = problem
    expected = torch_loss(*problem)
    monkeypatch.setattr(loss_file, "MAX_LOGITS", max_logits)
    states, matrix = (paddle.to_tensor(value, stop_gradient=False) for value in (hidden, head))
    calls = []

    def logits(part):
        calls.append(part.shape[0])
        return paddle.matmul(part, matrix)

    loss = weighted_loss(states, labels, weights, logits, VOCAB)
    loss.backward()
    for value, wanted in zip((loss.item(), states.grad.numpy(), matrix.grad.numpy()), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    assert max(calls) <= max(1, max_logits // VOCAB)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("max_logits", [1 << 26, 3 * VOCAB])
def test_logit_that_is_no_number_makes_the_loss_nan(problem, monkeypatch, value, max_logits):
    hidden, labels, weights, head = problem
    monkeypatch.setattr(loss_file, "MAX_LOGITS", max_logits)
    spoiled = paddle.to_tensor([[value] + [0.0] * (VOCAB - 1)])
    for place in (-1, 0):  # the last trained position, all of them
        states = paddle.to_tensor(hidden, stop_gradient=False)
        seen = []

        def logits(part, place=place, seen=seen):
            seen.append(part.shape[0])
            own = paddle.matmul(part, paddle.to_tensor(head))
            if place == 0:
                return own + spoiled
            return paddle.concat([own[:-1], own[-1:] + spoiled])

        assert np.isnan(float(weighted_loss(states, labels, weights, logits, VOCAB)))


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_check_of_the_logits_changes_no_bit_of_loss_and_gradients(problem, level):
    hidden, labels, weights, head = problem

    def plain(chosen, targets, weight, logits, size, _losses_of):
        losses = paddle.nn.functional.cross_entropy(logits(chosen).astype("float32"), targets, reduction="none")
        return (losses.reshape([-1]) * weight).sum()

    results = []
    for way in (loss_file._sum_in_parts, plain):
        matrix = paddle.to_tensor(head, stop_gradient=False)
        with pytest.MonkeyPatch.context() as patch, paddle.amp.auto_cast(level != "O0", level=level, dtype="bfloat16"):
            patch.setattr(loss_file, "_sum_in_parts", way)
            states = paddle.to_tensor(hidden)
            loss = weighted_loss(states, labels, weights, lambda part, one=matrix: paddle.matmul(part, one), VOCAB)
        loss.backward()
        results.append((loss.numpy().tobytes(), matrix.grad.numpy().tobytes()))
    assert results[0] == results[1]


def test_only_positions_that_predict_a_trained_token_go_through_the_head(problem):
    hidden, labels, _, head = problem
    sizes = []

    def logits(part):
        sizes.append(part.shape[0])
        return paddle.matmul(part, paddle.to_tensor(head))

    weighted_loss(paddle.to_tensor(hidden), labels, None, logits, VOCAB)
    assert sizes == [(labels[:, 1:] != IGNORE_INDEX).sum()]


def packed(label_counts):
    """Return a batch of one row: a sample of 5 tokens for each count, whose last tokens are trained."""
    samples = []
    for count in label_counts:
        labels = np.full(5, IGNORE_INDEX)
        labels[5 - count :] = 7
        samples.append(Sample(np.full(5, 7), labels))
    return collate_packs([samples])


def test_by_token_every_trained_token_counts_one():
    weights = loss_weights(packed([1, 4]), "token")
    assert weights.tolist() == [[0, 0, 0, 0, 1, 0, 1, 1, 1, 1]]


def test_by_sample_every_sample_counts_one_however_many_tokens_it_trains():
    weights = loss_weights(packed([1, 4]), "sample")
    assert weights.tolist() == [[0, 0, 0, 0, 1, 0, 0.25, 0.25, 0.25, 0.25]]


def test_first_token_of_a_sample_is_not_trained_despite_its_label():
    assert loss_weights(packed([5, 5]), "token").sum() == 8


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'mean': expected one of token, sample"):
        loss_weights(packed([1]), "mean")
