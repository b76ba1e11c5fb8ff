"""Load the model of an open checkpoint together with its processor, to answer with them."""

from __future__ import annotations

from ..models.llava import Llava
from ..models.parallel.cards import Cards
from ..ops.row_products import report_missing
from ..terminal.log import notice
from .load import load_model
from .processor import LlavaProcessor
from .source import Source


def load_both(
    source: Source,
    *,
    template: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    cards: Cards | None = None,
) -> tuple[Llava, LlavaProcessor]:
    """Return the model and its processor, with a notice if parts of the model are untrained.

    template: other than the checkpoint's. The rest: see `load_model`. Raises ValueError for an unknown template, before
    the model is loaded.
    """
    processor = LlavaProcessor.from_source(source)
    if template:
        processor = processor.with_template(template)
    model = load_model(source, dtype=dtype, device=device, quantization=quantization, cards=cards)
    if quantization:
        report_missing()  # not in the middle of the first answer
    if text := model.config.untrained_text:
        notice(text)
    return model, processor
