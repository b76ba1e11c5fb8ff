"""LLaVA: a vision tower, a projector and a language model put together.

Knows no tokenizer and no file. A batch comes in as NumPy arrays whose placeholders are already repeated.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import paddle
from paddle import nn

from ..constants import IMAGE_TOKEN_ID
from ..data.sample import Batch
from ..device import bucketed_count
from ..ops.attention import segment_bias
from ..ops.packed_attention import find_runs
from ..ops.quantize import choose_kind
from .config import LlavaConfig
from .feature_cache import FeatureCache
from .image_features import arrange, check_tiles, place
from .language.decoder import LanguageModel
from .layers import ZERO, initialize, scaled
from .loss import weighted_loss
from .neftune import neftune_noise
from .projector import build_projector
from .vision.vit import VisionTower


class LlavaForConditionalGeneration(nn.Layer):
    """A whole model. A new one holds zeros: use `from_pretrained`, or `initialize_weights` to train from nothing.

    neftune_alpha: above 0, embeddings of text get `neftune_noise` while training.
    feature_cache: what generation keeps of the pictures it has seen.
    is_sliced: the weights lie in parts on several processes, which put a layer together when they call it (sharding
    stage 3): a loss then calls the same layers in the same order whatever the batch holds.
    """

    def __init__(self, config: LlavaConfig):
        super().__init__()
        self.config = config
        self.neftune_alpha = 0.0
        self.feature_cache = FeatureCache()
        self.is_sliced = False
        self.vision_tower = VisionTower(config.vision)
        self.projector = build_projector(config.projector_type, config.vision.hidden_size, config.language.hidden_size)
        self.language_model = LanguageModel(config.language)
        self.image_newline = None
        if config.has_image_newline:
            attribute = paddle.ParamAttr(initializer=ZERO)
            self.image_newline = self.create_parameter([config.language.hidden_size], attr=attribute)

    @classmethod
    def from_pretrained(
        cls,
        path,
        dtype: str | None = None,
        device: str | None = None,
        base=None,
        load_in_8bit: bool = False,
        load_in_4bit: bool = False,
    ):
        """Load a folder in any known layout, or side files with their base. See `checkpoints.load.load_model`.

        load_in_8bit, load_in_4bit: hold the decoder's linear layers in int8 or NF4.
        """
        from ..checkpoints.load import load_model

        kind = choose_kind(load_in_8bit, load_in_4bit)
        return load_model(path, base=base, dtype=dtype, device=device, quantization=kind)

    def save_pretrained(self, path, max_shard_size: int | str = "5GB", dtype: str | None = None) -> None:
        """Write config and weights to a folder. See `checkpoints.save.save_model`.

        Raises ValueError after `fuse_projections`.
        """
        from ..checkpoints.save import save_model

        if self.language_model.is_fused:
            raise ValueError("the model's layers are fused for inference: load it again to save it")

        save_model(self, path, max_shard_size=max_shard_size, dtype=dtype)

    def initialize_weights(self, seed: int, std: float = 0.02) -> None:
        """Draw every matrix from normal(0, std), for training from nothing."""
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
        """Note the mode; training changes the weights, so that no features stay.

        A property, because `train()` of a layer around this one sets the attribute and calls nothing.
        """
        self._is_training = is_training
        if is_training and hasattr(self, "feature_cache"):  # not yet while the layer is made
            self.feature_cache.clear()

    def encode_images(self, pixels, tiles_per_image, image_sizes) -> list:
        """Return for each picture its features [num_image_tokens, hidden_size].

        pixels float32 [sum of tiles, 3, side, side]; tiles_per_image [images]; image_sizes [images, 2] (width, height).
        """
        tower, counts = self.vision_tower, [int(count) for count in tiles_per_image]
        num_tiles = len(pixels)
        check_tiles(counts, num_tiles)
        pixels = np.asarray(pixels, dtype=np.float32)
        if num_more := bucketed_count(num_tiles) - num_tiles:
            pixels = np.concatenate([pixels, np.zeros([num_more, *pixels.shape[1:]], np.float32)])
        with paddle.no_grad() if tower.is_frozen else nullcontext():
            hidden = tower.encode(paddle.to_tensor(pixels))
        hidden = self.projector(hidden)
        hidden = hidden[:num_tiles] if num_more else hidden
        tiles = paddle.split(hidden, counts) if len(counts) > 1 else [hidden]
        features = [
            arrange(tile, (int(size[0]), int(size[1])), self.config.image, self.image_newline)
            for tile, size in zip(tiles, image_sizes, strict=True)
        ]
        if self.config.has_scaled_features:
            return features
        return [scaled(feature, 1 / self.config.language.embedding_scale) for feature in features]  # taken back there

    def embed(self, batch: Batch):
        """Return the decoder's input [B, T, hidden_size]: token embeddings with the image features in their places."""
        ids = np.asarray(batch.token_ids)
        self.check_ids(ids)
        features, nothing = [], None
        if batch.pixels is not None and len(batch.tiles_per_image):
            features = self.encode_images(batch.pixels, batch.tiles_per_image, batch.image_sizes)
        elif self.training or self.is_sliced:
            nothing = self._blank_picture() * 0.0  # in float32: in 16 bits the sum may be infinite
        embeds = place(self.language_model.embed_tokens, ids, features)
        if nothing is not None:
            # Each gradient meets its own zero: their sum, which a number's gradient is, has no room in float16.
            embeds = embeds + nothing.astype(embeds.dtype) * paddle.zeros_like(embeds)
        if self.training and self.neftune_alpha:
            embeds = embeds + neftune_noise(ids, np.asarray(batch.segment_ids), embeds, self.neftune_alpha)
        return embeds

    def check_ids(self, token_ids: np.ndarray) -> None:
        """Raise ValueError for ids that are neither placeholders nor in the vocabulary."""
        highest = self.config.language.vocab_size
        if ((token_ids != IMAGE_TOKEN_ID) & ((token_ids < 0) | (token_ids >= highest))).any():
            raise ValueError(
                f"token ids go from {token_ids.min()} to {token_ids.max()}, but the vocabulary has {highest} entries "
                f"(placeholders are {IMAGE_TOKEN_ID}): the tokenizer is not this model's"
            )

    def forward(self, batch: Batch, with_loss: bool = False, loss_weights: np.ndarray | None = None):
        """Return logits [B, T, vocab_size], or with with_loss the loss: the mean over the trained tokens.

        loss_weights: float32 [B, T]; the loss is then the sum of weight * cross-entropy. One method does both because
        data-parallel wrappers only follow `forward`.
        """
        bias = _mask(np.asarray(batch.segment_ids))
        positions = paddle.to_tensor(np.asarray(batch.position_ids))
        hidden = self.language_model(self.embed(batch), positions, bias=bias)
        if with_loss:
            if batch.labels is None:
                raise ValueError("the batch has no labels, hence no loss: collate samples that were encoded to train")
            head, size = self.language_model.logits, self.config.language.vocab_size
            return weighted_loss(hidden, batch.labels, loss_weights, head, size, is_once=self.is_sliced)
        return self.language_model.logits(hidden)

    def loss(self, batch: Batch):
        """Return the cross-entropy of predicting each trained token from those before it, mean over them."""
        return self(batch, with_loss=True)

    def _blank_picture(self):
        """Return a number that hangs on every parameter a picture would pass.

        Added times zero to the embeddings of a batch without pictures, it gives them zero gradients instead of none:
        what the optimizer does then depends neither on the batches since the start nor on what other processes have.
        It is made and added where pictures are, so that processes with and without them call the layers in the same
        order, forward and backward: under sharding stage 3 each call is a meeting of all.
        """
        side = self.config.image.side
        return self.encode_images(np.zeros([1, 3, side, side]), [1], [(side, side)])[0].astype("float32").sum()

    def generate(self, batch: Batch, sampling=None, *, max_new_tokens: int | None = None) -> list[list[int]]:
        """Return the new token ids of every row. See `generate.batch.generate`.

        max_new_tokens: for greedy answers of at most so many tokens, in place of sampling.
        """
        from ..generate.batch import generate
        from ..generate.sampling import SamplingParams

        if max_new_tokens is not None:
            assert sampling is None, "sampling says it already"
            sampling = SamplingParams(max_new_tokens=max_new_tokens)
        return generate(self, batch, sampling)


def _mask(segment_ids: np.ndarray):
    """Return what the decoder takes as bias for rows [B, T] of segments."""
    if is_right_padded(segment_ids):
        return None
    runs = find_runs(segment_ids)
    return segment_bias(paddle.to_tensor(segment_ids)) if runs is None else runs


def is_right_padded(segment_ids: np.ndarray) -> bool:
    """Tell if every row is one segment 1 followed by padding 0: a causal mask alone then hides what it must."""
    return bool(((segment_ids == 0) | (segment_ids == 1)).all() and (np.diff(segment_ids, axis=1) <= 0).all())
