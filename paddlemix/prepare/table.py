"""All converters, by name."""

from __future__ import annotations

from .converter import Converter
from .sets import (
    ai2d,
    arxivcap,
    arxivqa,
    chartqa,
    docvqa,
    dvqa,
    json2jsonl,
    llava,
    merge,
    pairs,
    refcoco,
    sample,
    scienceqa,
    split,
    stats,
    synthdog,
    validate,
)

_ALL = (
    ai2d.CONVERTER,
    arxivcap.CONVERTER,
    arxivqa.CONVERTER,
    chartqa.CONVERTER,
    docvqa.SP_DOCVQA,
    docvqa.INFOGRAPHICS_DOCVQA,
    dvqa.CONVERTER,
    synthdog.CONVERTER,
    json2jsonl.CONVERTER,
    scienceqa.CONVERTER,
    llava.LLAVA_PRETRAIN,
    llava.LLAVA_INSTRUCT,
    llava.SHAREGPT4V,
    refcoco.CONVERTER,
    pairs.PAIRS_TO_LLAVA,
    pairs.LLAVA_TO_PAIRS,
    merge.CONVERTER,
    sample.CONVERTER,
    split.CONVERTER,
    validate.CONVERTER,
    stats.CONVERTER,
)
CONVERTERS: dict[str, Converter] = {one.name: one for one in _ALL}
