"""The public model class: a `Llava` that can be loaded, saved and asked."""

from __future__ import annotations

from .checkpoints.load import load_model
from .checkpoints.save import save_model
from .data.sample import Batch
from .generate.batch import generate
from .generate.sampling import SamplingParams
from .models.llava import Llava
from .ops.quantize import choose_kind


class LlavaForConditionalGeneration(Llava):
    """A `Llava` with files and generation around it."""

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
        """Load a model folder of any known layout, or a partial checkpoint with its base. See `load_model`.

        load_in_8bit, load_in_4bit: store the weights of the decoder's linear layers as int8 or NF4.
        """
        kind = choose_kind(load_in_8bit, load_in_4bit)
        return load_model(path, base=base, dtype=dtype, device=device, quantization=kind, model_class=cls)

    def save_pretrained(self, path, max_shard_size: int | str = "5GB", dtype: str | None = None) -> None:
        """Write config and weights to a folder. See `save_model`."""
        save_model(self, path, max_shard_size=max_shard_size, dtype=dtype)

    def generate(
        self, batch: Batch, sampling: SamplingParams | None = None, *, max_new_tokens: int | None = None
    ) -> list[list[int]]:
        """Return the new token ids of every row. See `generate.batch.generate`.

        max_new_tokens: decode greedily, at most this many tokens a row; only without `sampling`.
        """
        if max_new_tokens is not None:
            assert sampling is None, "pass either sampling or max_new_tokens"
            sampling = SamplingParams(max_new_tokens=max_new_tokens)
        return generate(self, batch, sampling)
