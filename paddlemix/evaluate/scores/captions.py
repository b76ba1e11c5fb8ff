"""Captions: BLEU-1 to 4, CIDEr-D and ROUGE-L with the arithmetic of pycocoevalcap 1.2, without Java.

Items: "id" (of the image, once), "prediction", "references" (texts). Names and values are pycocoevalcap's: BLEU and
ROUGE-L are fractions, CIDEr is not bounded by 1. All three are of the whole set, so `judge` does not exist. Texts are
tokenized first (ptb_tokens.py) unless they are tokens already.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .ptb_tokens import tokenize
from .result import Figure, Item, Scores, choose, mean

RULES = ("ptb", "words")
MAX_ORDER = 4
_TINY, _SMALL = 1e-15, 1e-9  # added to numerators and denominators of BLEU, so that nothing is divided by zero
_SIGMA = 6.0  # of CIDEr-D's penalty for different lengths
_BETA = 1.2  # weight of the recall in ROUGE-L

Tokens = Sequence[str]


@dataclass(frozen=True)
class Captioned:
    """Hold the tokens of a caption and of its references."""

    caption: Tokens
    references: Sequence[Tokens]


def parse(text: str, rule: str = "ptb") -> list[str]:
    """Return the tokens of a caption. words: split at white space only, as VLMEvalKit scores and for given tokens."""
    return choose({"ptb": tokenize, "words": str.split}, rule)(text)


def ngrams(tokens: Tokens) -> Counter:
    """Count the n-grams of 1 to 4 tokens."""
    orders = range(1, MAX_ORDER + 1)
    return Counter(tuple(tokens[i : i + n]) for n in orders for i in range(len(tokens) - n + 1))


def bleu(captions: Sequence[Captioned]) -> list[float]:
    """Return BLEU-1 to BLEU-4 of a set: clipped counts and the closest reference lengths, summed over captions."""
    right, guessed = [0] * MAX_ORDER, [0] * MAX_ORDER
    length = reference_length = 0
    for one in captions:
        size = len(one.caption)
        length += size
        reference_length += min((abs(len(reference) - size), len(reference)) for reference in one.references)[1]
        most = Counter()
        for reference in one.references:
            most |= ngrams(reference)
        for order in range(MAX_ORDER):
            guessed[order] += max(0, size - order)
        for ngram, count in ngrams(one.caption).items():
            right[len(ngram) - 1] += min(count, most[ngram])
    ratio = (length + _TINY) / (reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    values, product = [], 1.0
    for order in range(MAX_ORDER):
        product *= (right[order] + _TINY) / (guessed[order] + _SMALL)
        values.append(product ** (1 / (order + 1)) * penalty)
    return values


@dataclass(frozen=True)
class _Weighted:
    """Hold tf-idf weights by n-gram, their norm for each order, and the length as CIDEr-D takes it."""

    weights: tuple[Mapping[tuple, float], ...]
    norms: tuple[float, ...]
    length: int


def cider(captions: Sequence[Captioned]) -> list[float]:
    """Return CIDEr-D of each caption; the set's value is the mean. Document frequencies are those of the references.

    NOTE: every caption of a set of one image gets 0, because the logarithm of the number of images is 0.
    """
    frequencies = Counter(ngram for one in captions for ngram in {n for ref in one.references for n in ngrams(ref)})
    log_images = math.log(len(captions))
    values = []
    for one in captions:
        caption = _weighted(one.caption, frequencies, log_images)
        references = [_weighted(reference, frequencies, log_images) for reference in one.references]
        total = math.fsum(_similarity(caption, reference) for reference in references)
        values.append(10.0 * total / MAX_ORDER / len(references))
    return values


def _weighted(tokens: Tokens, frequencies: Mapping[tuple, int], log_images: float) -> _Weighted:
    """Weigh the n-grams of a text. NOTE: as in the original, the length is the number of pairs of tokens."""
    weights: tuple[dict[tuple, float], ...] = tuple({} for _ in range(MAX_ORDER))
    for ngram, count in ngrams(tokens).items():
        weights[len(ngram) - 1][ngram] = count * (log_images - math.log(max(1, frequencies[ngram])))
    norms = tuple(math.sqrt(math.fsum(value**2 for value in order.values())) for order in weights)
    return _Weighted(weights, norms, max(0, len(tokens) - 1))


def _similarity(caption: _Weighted, reference: _Weighted) -> float:
    """Return the sum over orders of the clipped cosines, times the penalty for different lengths."""
    total = 0.0
    for order in range(MAX_ORDER):
        own, other = caption.weights[order], reference.weights[order]
        product = math.fsum(min(weight, other[ngram]) * other[ngram] for ngram, weight in own.items() if ngram in other)
        norm = caption.norms[order] * reference.norms[order]
        total += product / norm if norm else product
    return total * math.exp(-((caption.length - reference.length) ** 2) / (2 * _SIGMA**2))


def rouge_l(one: Captioned) -> float:
    """Return ROUGE-L of a caption: the best precision and the best recall over its references, recall weighted 1.2.

    NOTE: a text without tokens has the length 1, as the original splits it at spaces.
    """
    common = [_common_length(one.caption, reference) for reference in one.references]
    precision = max(common) / max(1, len(one.caption))
    recall = max(length / max(1, len(reference)) for length, reference in zip(common, one.references, strict=True))
    if not precision or not recall:
        # An empty caption equals an empty reference: both are one empty token in the original.
        return float(not one.caption and any(not reference for reference in one.references))
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common_length(first: Tokens, second: Tokens) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for a in first:
        diagonal = 0
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], diagonal + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]


def score(items: Sequence[Item], rule: str = "ptb") -> Scores:
    """Return Bleu_1 to Bleu_4, CIDEr and ROUGE_L of a set. Raises ValueError without items or references.

    An empty caption is failed, and scored as it is.
    """
    captions = [captioned(item, rule) for item in items]
    if not captions:
        raise ValueError("There are no captions to score.")
    count = len(captions)
    figures = {f"Bleu_{order}": Figure(value, count) for order, value in enumerate(bleu(captions), 1)}
    figures["CIDEr"] = mean(cider(captions))
    figures["ROUGE_L"] = mean(rouge_l(one) for one in captions)
    notes = (f"tokenizer: {rule}", *(["CIDEr of one image is always 0"] if count == 1 else []))
    return Scores("CIDEr", figures, count, sum(not one.caption for one in captions), notes)


def captioned(item: Item, rule: str) -> Captioned:
    """Return the tokens of an item. Raises ValueError without references."""
    if not item["references"]:
        raise ValueError(f"Image {item['id']!r} has no reference captions.")
    references = [parse(str(reference), rule) for reference in item["references"]]
    return Captioned(parse(str(item["prediction"]), rule), references)
