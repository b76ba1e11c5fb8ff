"""LLaVA: a vision tower, a projector and a language model.

Knows no tokenizer and no files. A batch has NumPy arrays whose image placeholders are already repeated.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import paddle
from paddle import nn

from ..constants import IMAGE_TOKEN_ID
from ..data.sample import Batch
from ..device import bucketed_count
from ..ops.packed_attention import find_runs
from ..ops.plain_attention import segment_bias
from .config import LlavaConfig
from .image_features import arrange, check_tiles, place
from .language.decoder import LanguageModel, scaled
from .layers import ZERO, initialize
from .loss import weighted_loss
from .parallel.cards import Cards
from .parallel.cuts import check_degree
from .projector import build_projector
from .vision.vit import VisionTower


class Llava(nn.Layer):
    """A whole model. The weights of a new one are zeros: load them, or call `initialize_weights` to train from scratch.

    neftune_alpha: above 0, embeddings of text get `neftune_noise` in training.
    only_trained_ids: the tokens whose embeddings alone get gradients as inputs; None for all.
    is_sliced: each process stores a slice of every weight and gathers a layer when it is called (sharding stage 3). A
    loss then calls the same layers in the same order whatever the batch contains.
    cards: those that share the decoder, each with a part of its weights; None for one card. The config is of the whole.
    weights_version: counts how often training started. What was computed with an earlier version is stale.
    engine: None, or what generates with this model (`generate.engine.engine_of`), until training starts.
    """

    weights_version = 0
    engine = None

    def __init__(self, config: LlavaConfig, cards: Cards | None = None):
        super().__init__()
        self.config = config
        self.cards = cards
        if cards is not None:
            check_degree(config, cards.degree)
        self.neftune_alpha = 0.0
        self.only_trained_ids: tuple[int, ...] | None = None
        self.is_sliced = False
        self.vision_tower = VisionTower(config.vision)
        self.projector = build_projector(config.projector_type, config.vision.hidden_size, config.language.hidden_size)
        self.language_model = LanguageModel(config.language, cards)
        self.image_newline = None
        if config.has_image_newline:
            attribute = paddle.ParamAttr(initializer=ZERO)
            self.image_newline = self.create_parameter([config.language.hidden_size], attr=attribute)

    def initialize_weights(self, seed: int, std: float = 0.02) -> None:
        """Draw every matrix from normal(0, std), for training from scratch."""
        paddle.seed(seed)
        initialize(self, std)
        for vector in (self.vision_tower.class_embedding, self.image_newline):
            if vector is not None:
                vector.set_value(paddle.normal(0.0, std, vector.shape).astype(vector.dtype))

    @property
    def training(self) -> bool:
        return self._is_training

    @training.setter
    def training(self, is_training: bool) -> None:
        """Set the mode and count the start of training, which changes the weights.

        A property, because `train()` of a layer around this one sets the attribute and calls no method.
        """
        self._is_training = is_training
        if is_training:
            self.weights_version += 1
            self.engine = None

    def encode_images(self, pixels, tiles_per_image, image_sizes) -> list:
        """Return the features of each image, [num_image_tokens, hidden_size].

        pixels float32 [sum of tiles, 3, side, side]; tiles_per_image [images]; image_sizes [images, 2] (width, height).
        """
        counts = [int(count) for count in tiles_per_image]
        check_tiles(counts, len(pixels))
        hidden = self.encode_tiles(pixels)
        tiles = paddle.split(hidden, counts) if len(counts) > 1 else [hidden]
        return [self.arrange(tile, size) for tile, size in zip(tiles, image_sizes, strict=True)]

    def encode_tiles(self, pixels):
        """Return the projected features of tiles, [tiles, patches, hidden_size]. pixels: [tiles, 3, side, side]."""
        tower, num_tiles = self.vision_tower, len(pixels)
        pixels = np.asarray(pixels, dtype=np.float32)
        if num_more := bucketed_count(num_tiles) - num_tiles:
            pixels = np.concatenate([pixels, np.zeros([num_more, *pixels.shape[1:]], np.float32)])
        with paddle.no_grad() if tower.is_frozen else nullcontext():
            hidden = tower.encode(paddle.to_tensor(pixels))
        hidden = self.projector(hidden)
        return hidden[:num_tiles] if num_more else hidden

    def arrange(self, tiles, size):
        """Return the features [num_image_tokens, hidden_size] of one image. tiles: from `encode_tiles`; size: in px."""
        features = arrange(tiles, (int(size[0]), int(size[1])), self.config.image, self.image_newline)
        if self.config.has_scaled_features:
            return features
        # The decoder multiplies them by the same scale again.
        return scaled(features, 1 / self.config.language.embedding_scale)

    def embed(self, batch: Batch):
        """Return the decoder's input [B, T, hidden_size]: token embeddings, with image features at the placeholders."""
        ids = np.asarray(batch.token_ids)
        self.check_ids(ids)
        features, zero = [], None
        if batch.pixels is not None and len(batch.tiles_per_image):
            features = self.encode_images(batch.pixels, batch.tiles_per_image, batch.image_sizes)
        elif self.training or self.is_sliced:
            zero = self._blank_image_sum() * 0.0  # in float32: in 16 bits the sum may be infinite
        embeds = place(self._embed_text, ids, features)
        if zero is not None:
            # Times zeros of the same shape, so that the gradient of `zero` is a sum of zeros: a sum of the embeddings'
            # gradients may overflow in float16.
            embeds = embeds + zero.astype(embeds.dtype) * paddle.zeros_like(embeds)
        if self.training and self.neftune_alpha:
            embeds = embeds + neftune_noise(ids, np.asarray(batch.segment_ids), embeds, self.neftune_alpha)
        return embeds

    def _embed_text(self, ids):
        """Return the embeddings [n, hidden_size] of token ids [n]."""
        embeds = self.language_model.embed_tokens(ids)
        if not self.training or self.only_trained_ids is None:
            return embeds
        is_trained = paddle.to_tensor(np.isin(ids.numpy(), self.only_trained_ids)).unsqueeze(-1).astype(embeds.dtype)
        return embeds * is_trained + embeds.detach() * (1 - is_trained)

    def check_ids(self, token_ids: np.ndarray) -> None:
        """Raise ValueError for ids that are neither image placeholders nor in the vocabulary."""
        highest = self.config.language.vocab_size
        if ((token_ids != IMAGE_TOKEN_ID) & ((token_ids < 0) | (token_ids >= highest))).any():
            raise ValueError(
                f"token ids range from {token_ids.min()} to {token_ids.max()}, but the vocabulary has {highest} "
                f"entries (placeholders are {IMAGE_TOKEN_ID}): the tokenizer is not this model's"
            )

    def forward(self, batch: Batch, with_loss: bool = False, loss_weights: np.ndarray | None = None):
        """Return logits [B, T, vocab_size], or if with_loss is set the mean cross-entropy over the trained tokens.

        loss_weights: float32 [B, T]; the loss is then the sum of weight * cross-entropy. One method does both because
        data-parallel wrappers call `forward` only.
        """
        bias = _mask(np.asarray(batch.segment_ids))
        positions = paddle.to_tensor(np.asarray(batch.position_ids))
        hidden = self.language_model(self.embed(batch), positions, bias=bias)
        if with_loss:
            if batch.labels is None:
                raise ValueError("the batch has no labels and so no loss: collate samples encoded for training")
            head, size = self.language_model.part_logits, self.config.language.vocab_size
            options = {"is_once": self.is_sliced, "cards": self.cards}
            return weighted_loss(hidden, batch.labels, loss_weights, head, size, **options)
        return self.language_model.logits(hidden)

    def loss(self, batch: Batch):
        """Return the mean cross-entropy of predicting each trained token from the tokens before it."""
        return self(batch, with_loss=True)

    def _blank_image_sum(self):
        """Return the sum of a blank image's features, which depends on every parameter that encodes images.

        It is added times zero to the embeddings of a batch without images. The parameters then have zero gradients
        instead of none, so that the optimizer treats them alike after any batches and on all processes. It is computed
        where images would be encoded, so that processes with and without images call the layers in the same order,
        forward and backward: under sharding stage 3 each call waits for all processes.
        """
        side = self.config.image.side
        return self.encode_images(np.zeros([1, 3, side, side]), [1], [(side, side)])[0].astype("float32").sum()


def _mask(segment_ids: np.ndarray):
    """Return the decoder's bias for rows of segments [B, T]."""
    if is_right_padded(segment_ids):
        return None
    runs = find_runs(segment_ids)
    return segment_bias(paddle.to_tensor(segment_ids)) if runs is None else runs


def is_right_padded(segment_ids: np.ndarray) -> bool:
    """Return whether every row is one segment 1 followed by padding 0, so that a causal mask is enough."""
    return bool(((segment_ids == 0) | (segment_ids == 1)).all() and (np.diff(segment_ids, axis=1) <= 0).all())


def neftune_noise(token_ids: np.ndarray, segment_ids: np.ndarray, embeds, alpha: float):
    """Return noise on embeddings (NEFTune, Jain et al. 2023), [B, T, H]; 0 for images and padding.

    It is uniform in -s .. s with s = alpha / sqrt(L H). L: the number of tokens in the token's sample, so that packing
    does not change a sample's noise.
    """
    width = embeds.shape[-1]
    scales = np.zeros(token_ids.shape, dtype=np.float32)
    for row, segments in enumerate(segment_ids):
        lengths = np.bincount(segments)[segments]
        is_text = (segments > 0) & (token_ids[row] != IMAGE_TOKEN_ID)
        scales[row] = np.where(is_text, alpha / np.sqrt(lengths * width), 0.0)
    noise = paddle.uniform(embeds.shape, dtype="float32", min=-1.0, max=1.0)
    return (noise * paddle.to_tensor(scales).unsqueeze(-1)).astype(embeds.dtype)
