"""The fastest way through a decoder with a cache on the current device."""

from __future__ import annotations

from .cpu.decoder import CpuDecoder, supports
from .language.cached_decoder import CachedDecoder
from .language.decoder import LanguageModel
from .parallel.led_decoder import LedDecoder


def decoder_for(language: LanguageModel) -> CachedDecoder:
    """Return the fastest decoder with a cache that fits a language model's weights and the current device."""
    if language.leader is not None:
        return LedDecoder(language)
    return CpuDecoder(language) if supports(language) else CachedDecoder(language)
