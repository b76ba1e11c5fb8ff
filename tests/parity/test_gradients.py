"""Losses and gradients against transformers on the same weights, and against our own other ways to the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest
import reference_models as tiny

from paddlemix.checkpoints.layouts import hf
from paddlemix.constants import IGNORE_INDEX
from paddlemix.data.sample import Batch

ROWS = {
    "one-image": [[4, (60, 40), 9]],
    "mixed": [[3, (60, 40), 6, (20, 90), 5], [9], [(300, 299), 8]],
    "no-image": [[12], [5]],
}


@pytest.fixture(autouse=True)
def untouched_after(pair):
    """Restore the pair after the test."""
    yield
    for parameter in pair.ours.parameters():
        parameter.stop_gradient = False
        parameter.clear_gradient(False)
    pair.ours.language_model.enable_recompute = False
    pair.ours.eval()
    pair.theirs.zero_grad(set_to_none=True)


def batch_of(pair, rows, seed: int = 0) -> Batch:
    return tiny.make_batch(np.random.default_rng(seed), rows, pair.spec, with_labels=True)


def our_gradients(model, batch: Batch) -> tuple[float, dict[str, np.ndarray]]:
    """Return the loss and the gradients of every parameter that got one, by our name."""
    for parameter in model.parameters():
        parameter.clear_gradient(False)
    loss = model.loss(batch)
    loss.backward()
    named = model.named_parameters()
    return float(loss), {name: value.grad.numpy() for name, value in named if value.grad is not None}


def their_gradients(pair, batch: Batch) -> tuple[float, dict[str, np.ndarray]]:
    """Return transformers' loss and gradients, under our names and in our layout."""
    pair.theirs.zero_grad(set_to_none=True)
    loss = pair.theirs(**tiny.hf_inputs(batch, pair.is_next)).loss
    loss.backward()
    table = hf.table(pair.ours.config)
    gradients = {}
    for name, parameter in pair.theirs.named_parameters():
        ours, is_transposed = table.to_ours(hf.canonical(name))
        if parameter.grad is not None:
            gradients[ours] = parameter.grad.numpy().T if is_transposed else parameter.grad.numpy()
    return loss.item(), gradients


def assert_close(ours: np.ndarray, theirs: np.ndarray, name: str) -> None:
    """Compare by norm: the difference is at most a thousandth of the reference."""
    scale = np.linalg.norm(theirs)
    assert np.linalg.norm(ours - theirs) <= 1e-3 * scale, (name, scale)


def names_of(pair, *starts: str) -> set[str]:
    return {name for name, _ in pair.ours.named_parameters() if name.startswith(starts)}


def freeze_tower(model) -> None:
    for parameter in model.vision_tower.parameters():
        parameter.stop_gradient = True


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_loss_and_every_gradient_equal_transformers(pair, rows):
    freeze_tower(pair.ours)
    batch = batch_of(pair, rows)
    our_loss, ours = our_gradients(pair.ours, batch)
    their_loss, theirs = their_gradients(pair, batch)
    assert our_loss == pytest.approx(their_loss, rel=1e-5)
    has_images = batch.pixels is not None
    expected = names_of(pair, "language_model.", *(("projector.", "image_newline") if has_images else ()))
    assert set(ours) == expected
    for name in expected:
        assert np.linalg.norm(theirs[name]) > 0, name
        assert_close(ours[name], theirs[name], name)


def test_unfrozen_tower_gets_transformers_gradients_in_the_layers_that_are_used(pair):
    batch = batch_of(pair, ROWS["mixed"])
    _, ours = our_gradients(pair.ours, batch)
    _, theirs = their_gradients(pair, batch)
    # hidden state -2 of three layers: the last layer and the norm after it are not read
    unused = names_of(pair, "vision_tower.layers.2.", "vision_tower.post_norm.")
    expected = names_of(pair, "vision_tower.") - unused
    assert {name for name in ours if name.startswith("vision_tower.")} == expected
    for name in expected:
        if name.endswith("k_proj.bias"):  # softmax does not feel it: both are noise around zero
            assert np.abs(ours[name]).max() < 1e-6 and np.abs(theirs[name]).max() < 1e-6
        else:
            assert_close(ours[name], theirs[name], name)


def test_frozen_tower_gets_no_gradient_and_changes_no_other(pair):
    batch = batch_of(pair, ROWS["mixed"])
    _, unfrozen = our_gradients(pair.ours, batch)
    freeze_tower(pair.ours)
    _, frozen = our_gradients(pair.ours, batch)
    assert set(frozen) == {name for name in unfrozen if not name.startswith("vision_tower.")}
    for name, gradient in frozen.items():
        assert_close(gradient, unfrozen[name], name)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_recompute_gives_the_same_gradients(pair, rows):
    batch = batch_of(pair, rows)
    pair.ours.train()  # in which a batch without images gives zero gradients to the parameters that encode images
    plain_loss, plain = our_gradients(pair.ours, batch)
    pair.ours.language_model.enable_recompute = True
    loss, recomputed = our_gradients(pair.ours, batch)
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    assert set(recomputed) == set(plain)
    for name, gradient in recomputed.items():
        np.testing.assert_allclose(gradient, plain[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "trained"),
    [
        ("one-image", "projector."),
        ("mixed", "projector."),
        ("mixed", "language_model.layers."),
        ("no-image", "language_model.layers."),
    ],
)
def test_recompute_reaches_trained_parameters_when_the_rest_is_frozen(pair, kind, trained):
    batch = batch_of(pair, ROWS[kind])
    for name, parameter in pair.ours.named_parameters():
        parameter.stop_gradient = not name.startswith(trained)
    assert_recompute_changes_nothing(pair, batch, names_of(pair, trained))


def assert_recompute_changes_nothing(pair, batch: Batch, expected: set[str]) -> None:
    pair.ours.train()
    _, plain = our_gradients(pair.ours, batch)
    pair.ours.language_model.enable_recompute = True
    _, recomputed = our_gradients(pair.ours, batch)
    assert set(plain) == set(recomputed) == expected
    for name, gradient in recomputed.items():
        np.testing.assert_allclose(gradient, plain[name], rtol=1e-4, atol=1e-6, err_msg=name)


def pack(batch: Batch) -> Batch:
    """Concatenate the rows of a right-padded batch: positions start again, segments count 1, 2, ..."""
    lengths = (batch.segment_ids > 0).sum(axis=1)

    def join(rows) -> np.ndarray:
        return np.concatenate([row[:length] for row, length in zip(rows, lengths, strict=True)])[None]

    numbered = batch.segment_ids * np.arange(1, len(lengths) + 1)[:, None]
    return dataclasses.replace(
        batch,
        token_ids=join(batch.token_ids),
        labels=join(batch.labels),
        position_ids=join(batch.position_ids),
        segment_ids=join(numbered),
    )


def token_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each trained token, in order."""
    logits, labels = logits[:, :-1].astype(np.float64), labels[:, 1:]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    rows, columns = np.nonzero(labels != IGNORE_INDEX)
    return -log_probability[rows, columns, labels[rows, columns]]


@pytest.mark.parametrize("rows", [ROWS["mixed"], ROWS["no-image"]], ids=["mixed", "no-image"])
def test_packed_row_gives_the_token_losses_and_gradients_of_separate_rows(pair, rows):
    separate = batch_of(pair, rows)
    separate.labels[:, 0] = IGNORE_INDEX  # nothing predicts the first token of a sample
    packed = pack(separate)
    with paddle.no_grad():
        apart, together = pair.ours(separate).numpy(), pair.ours(packed).numpy()
    theirs = token_losses(tiny.hf_logits(pair.theirs, separate, pair.is_next), separate.labels)
    np.testing.assert_allclose(token_losses(apart, separate.labels), theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(token_losses(together, packed.labels), theirs, rtol=1e-4, atol=1e-5)
    separate_loss, ours = our_gradients(pair.ours, separate)
    packed_loss, again = our_gradients(pair.ours, packed)
    assert packed_loss == pytest.approx(separate_loss, rel=1e-5)
    for name, gradient in ours.items():
        np.testing.assert_allclose(again[name], gradient, rtol=1e-3, atol=1e-5, err_msg=name)


def test_recompute_keeps_packed_samples_apart(pair):
    freeze_tower(pair.ours)
    trained = names_of(pair, "language_model.", "projector.", "image_newline")
    assert_recompute_changes_nothing(pair, pack(batch_of(pair, ROWS["mixed"])), trained)


def test_padding_behind_a_packed_row_changes_nothing(pair):
    packed = pack(batch_of(pair, ROWS["mixed"]))
    fields = {"token_ids": 0, "labels": IGNORE_INDEX, "position_ids": 0, "segment_ids": 0}
    padded = {
        name: np.pad(getattr(packed, name), ((0, 0), (0, 6)), constant_values=value) for name, value in fields.items()
    }
    loss = pair.ours.loss(packed).item()
    assert pair.ours.loss(dataclasses.replace(packed, **padded)).item() == pytest.approx(loss, rel=1e-6)


def test_batch_without_a_trained_token_has_zero_loss_and_finite_gradients(pair):
    batch = batch_of(pair, ROWS["one-image"])
    batch.labels[:] = IGNORE_INDEX
    loss, gradients = our_gradients(pair.ours, batch)
    assert loss == 0
    assert gradients and all((gradient == 0).all() for gradient in gradients.values())


def test_batch_without_labels_has_no_loss(pair):
    with pytest.raises(ValueError, match="no labels"):
        pair.ours.loss(dataclasses.replace(batch_of(pair, ROWS["no-image"]), labels=None))


def test_tied_embeddings_get_the_gradients_of_both_their_uses(make_pair):
    tied = make_pair(False, tie_word_embeddings=True)
    batch = batch_of(tied, ROWS["mixed"])
    _, ours = our_gradients(tied.ours, batch)
    _, theirs = their_gradients(tied, batch)
    assert "language_model.lm_head.weight" not in ours
    for name in names_of(tied, "language_model.", "projector."):
        assert_close(ours[name], theirs[name], name)
