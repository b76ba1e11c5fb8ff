"""The decoder with a key-value cache on a CPU in float32: from the layers' own weights, which nothing changes."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import paddle
from paddle import nn

from ...ops.rope import rotation_matrices
from ...ops.vector_math import vector_math
from ..kv_cache import KVCache, Run
from ..language.cached_decoder import CachedDecoder
from ..language.decoder import LanguageModel, scaled
from ..language.masks import step_masks
from .layer import CpuLayer, masked_attention
from .pieces import LARGEST, LARGEST_CALLED, Piece, Segment, attend, masks_of, piece_size, split_runs
from .projection import Choice, choose, ways
from .slot_attention import SlotAttention
from .threads import in_parallel

SMALL_KEYS = 1 << 18  # elements of a layer's keys up to which a step attends with one thread
MIN_SLOTS = 8  # whose lengths differ enough to read each up to its own
COMPILED_BYTES = 1 << 30  # of weights from which a step is so long that compiling loops for it pays


def supports(language: LanguageModel) -> bool:
    """Return whether `CpuDecoder` computes what a language model does."""
    config, weight = language.config, language.norm.weight
    is_cpu_float = weight.dtype == paddle.float32 and weight.place.is_cpu_place()
    return is_cpu_float and config.positions == "rotary" and config.clip_qkv is None and language.cards is None


class CpuDecoder(CachedDecoder):
    """Decodes by `CpuLayer.step`, and computes prompts in pieces by several threads.

    The modules and parameters are looked up once: make a new decoder when some are replaced. Linear layers that are
    not plain, such as quantized ones and those with an adapter, are called.
    """

    def __init__(self, language: LanguageModel):
        super().__init__(language)
        config = self.config
        self.layers = [CpuLayer(config, layer) for layer in language.layers]
        self.scale = 1.0 / math.sqrt(config.head_dim) if config.softmax_scale is None else config.softmax_scale
        self._largest = LARGEST if all(each.is_plain for each in self.layers[0].projections) else LARGEST_CALLED
        is_tied = config.tie_word_embeddings
        head = None if is_tied else language.lm_head
        self._head = language.embed_tokens.weight if is_tied else head.weight if type(head) is nn.Linear else None
        self._choices: list[Choice] | None = None
        self._multiply_head = None

    def choices(self) -> list[Choice]:
        """Return how single rows are multiplied with weights of each shape; measured when first called."""
        if self._choices is None:
            groups = defaultdict(list)
            for projection in (each for layer in self.layers for each in layer.projections if each.is_plain):
                groups[tuple(projection.weight.shape)].append(projection)
            weights = [projection.weight for group in groups.values() for projection in group]
            may_compile = sum(4 * math.prod(weight.shape) for weight in weights) >= COMPILED_BYTES
            self._choices = []
            for group in groups.values():
                choice = choose([projection.weight for projection in group], may_compile=may_compile)
                self._choices.append(choice)
                for projection in group:
                    projection.use(choice)
            if self._head is not None:
                is_transposed = self.config.tie_word_embeddings
                choice = choose([self._head], is_transposed=is_transposed, may_compile=may_compile)
                self._choices.append(choice)
                self._multiply_head = ways(*choice.shape, is_transposed=is_transposed)[choice.way]
        return self._choices

    @paddle.no_grad()
    def decode(self, embeds, cache: KVCache):
        """Append one position to every slot, embeds [slots, H]; return the hidden states [slots, H]."""
        config, slots = self.config, cache.num_slots
        if slots == 1:
            self.choices()
        lengths = paddle.to_tensor(cache.lengths, dtype="int64")
        tables = self.rotary.tables(lengths.unsqueeze(1), 1, embeds.dtype, self.rotary.scales_of(cache.is_long))
        matrices = rotation_matrices(*tables, config.rope_order)
        matrices = matrices * self.scale, matrices
        rows, hidden = cache.next_rows(lengths), scaled(embeds, config.embedding_scale)
        # Waiting for each other costs threads more than they gain, in particular if other programs take their cores.
        num_threads = 1 if math.prod(cache.keys[0].shape) <= SMALL_KEYS else 0
        attentions = self._attentions(cache, lengths)
        for number, (layer, attention) in enumerate(zip(self.layers, attentions, strict=True)):
            hidden = layer.step(hidden, matrices, attention, cache, number, rows, num_threads)
        return self.language.norm(hidden)

    def _attentions(self, cache: KVCache, lengths) -> list[Callable]:
        """Return each layer's attention of a step, see `CpuLayer.step`. lengths: those of the cache, int64 [slots]."""
        config, num_keys = self.config, self.config.num_key_value_heads
        num_each, mkl = config.num_attention_heads // num_keys, vector_math()
        if cache.num_slots >= MIN_SLOTS and mkl is not None:
            full = SlotAttention(mkl, cache, num_each, None)
            windowed = (
                full if config.sliding_window is None else SlotAttention(mkl, cache, num_each, config.sliding_window)
            )
            return [full] * config.num_full_layers + [windowed] * (len(self.layers) - config.num_full_layers)
        masks = step_masks(config, lengths, cache.capacity)
        shape = [cache.num_slots, num_keys, num_each, cache.capacity]
        biases = {mask: mask.expand(shape).contiguous() for mask in set(masks)}  # adding equal shapes is fastest
        return [partial(masked_attention, biases[mask]) for mask in masks]

    @paddle.no_grad()
    def prefill(self, embeds, runs: Sequence[Run], cache: KVCache):
        """Append the positions of runs; return the hidden states [sum of num_outputs, H] that they want, or None."""
        pieces = self._pieces(scaled(embeds, self.config.embedding_scale)[0], runs, cache)
        positions = [position for run in runs for position in range(run.start, run.end)]
        rows = cache.rows([run.slot for run in runs for _ in range(run.count)], positions)
        pieces = _in_parallel(partial(self._project, 0), pieces)
        for number in range(len(self.layers)):
            parts = [[getattr(piece, name) for piece in pieces] for name in ("key", "value")]
            cache.write(number, rows, *(paddle.concat(part, axis=2) if len(part) > 1 else part[0] for part in parts))
            # Threads take the pieces that see most keys first, so that they end at about the same time.
            pieces = [piece for piece in pieces if piece.segments][::-1]
            pieces = _in_parallel(partial(self._finish, cache, number), pieces)[::-1]
        if not pieces:
            return None
        hidden = [piece.hidden for piece in pieces]
        return self.language.norm(paddle.concat(hidden) if len(hidden) > 1 else hidden[0])

    def logits(self, hidden):
        """Return the logits [N, vocab] of hidden states [N, H]."""
        if hidden.shape[0] != 1 or self._head is None:
            return self.language.logits(hidden)
        self.choices()
        with paddle.no_grad():
            return self._multiply_head(hidden, self._head)

    def _pieces(self, embeds, runs: Sequence[Run], cache: KVCache) -> list[Piece]:
        pieces, start = [], 0
        for segments in split_runs(runs, piece_size(embeds.shape[0], self._largest)):
            end = start + sum(segment.count for segment in segments)
            hidden = embeds[start:end]
            masks = tuple(masks_of(self.config, segment, cache.capacity, embeds) for segment in segments)
            pieces.append(Piece(segments, hidden, self._tables(segments, cache, embeds.dtype), masks))
            start = end
        return pieces

    def _tables(self, segments: Sequence[Segment], cache: KVCache, dtype) -> tuple:
        """Return the rotary tables for queries, scaled like the scores, and those for keys."""
        ids = [position for segment in segments for position in range(segment.start, segment.end)]
        is_long = [cache.is_long[segment.slot] for segment in segments for _ in range(segment.count)]
        scales = self.rotary.scales_of(is_long)
        if scales is not None and scales.ndim > 1:
            scales = scales.swapaxes(0, 1)
        queries, keys = self.rotary.layer_tables(paddle.to_tensor([ids], dtype="int64"), dtype, scales)
        return tuple(table * self.scale for table in queries), keys

    def _project(self, number: int, piece: Piece) -> Piece:
        """Return a piece with its queries, keys and values of a layer; of the last one only the queries wanted."""
        layer = self.layers[number]
        normed = layer.normed(0, piece.hidden)
        key, value = layer.keys_values(normed, piece.tables[1])
        if number + 1 == len(self.layers):
            piece = piece.wanted()
            normed = layer.normed(0, piece.hidden) if piece.segments else None
        query = layer.queries(normed, piece.tables[0]) if piece.segments else None
        return dataclasses.replace(piece, query=query, key=key, value=value)

    def _finish(self, cache: KVCache, number: int, piece: Piece) -> Piece:
        """Return a piece after a layer, with what the next layer projects, if there is one."""
        layer = self.layers[number]
        window = self.config.sliding_window if number >= self.config.num_full_layers else None
        hidden = layer.finish(piece.hidden, attend(piece, cache, number, window))
        piece = dataclasses.replace(piece, hidden=hidden, query=None, key=None, value=None)
        return piece if number + 1 == len(self.layers) else self._project(number + 1, piece)


def _in_parallel(work, pieces: list[Piece]) -> list[Piece]:
    return in_parallel(work, pieces) if len(pieces) > 1 else [work(piece) for piece in pieces]
