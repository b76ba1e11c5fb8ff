"""Captions: known values of BLEU, CIDEr and ROUGE-L, and the tokens that COCO's evaluation makes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from paddlemix.evaluate.scores import captions, ptb_tokens

TOKENS = json.loads((Path(__file__).resolve().parents[2] / "assets" / "ptb_captions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", TOKENS["cases"], ids=lambda case: case["caption"][:40])
def test_tokens_equal_those_of_the_penn_treebank_tokenizer(case):
    assert ptb_tokens.tokenize(case["caption"]) == case["tokens"].split()


def items_of(*pairs: tuple[str, list[str]]) -> list[dict]:
    return [{"id": n, "prediction": text, "references": references} for n, (text, references) in enumerate(pairs)]


def test_bleu_clips_repeated_words_and_penalizes_short_captions():
    """The example of the BLEU paper (Papineni et al. 2002): "the" seven times has a clipped precision of 2/7."""
    references = ["the cat is on the mat", "there is a cat on the mat"]
    scores = captions.score(items_of(("the the the the the the the", references)))
    assert scores.value("Bleu_1") == pytest.approx(2 / 7)
    short = captions.score(items_of(("the cat", ["the cat is on the mat"])))
    assert short.value("Bleu_1") == pytest.approx(math.exp(1 - 6 / 2))


def test_rouge_l_takes_the_best_precision_and_recall_over_references():
    scores = captions.score(items_of(("a b c d", ["a x b", "c d"])))
    precision, recall = 2 / 4, 2 / 2
    assert scores.value("ROUGE_L") == pytest.approx(2.44 * precision * recall / (recall + 1.44 * precision))


def test_cider_of_one_image_is_zero_and_noted():
    scores = captions.score(items_of(("a dog", ["a dog"])))
    assert scores.value("CIDEr") == 0 and "CIDEr of one image is always 0" in scores.notes


def test_cider_of_equal_captions_of_four_words_is_ten():
    pairs = [("a dog runs fast", ["a dog runs fast"]), ("two red cars stop", ["two red cars stop"])]
    assert captions.score(items_of(*pairs)).value("CIDEr") == pytest.approx(10)


def test_punctuation_and_case_do_not_matter_to_ptb_but_to_words():
    pairs = [("A dog, running.", ["a dog running"]), ("Two cars!", ["two cars"])]
    assert captions.score(items_of(*pairs)).value("Bleu_1") == pytest.approx(1)
    assert captions.score(items_of(*pairs), "words").value("Bleu_1") < 0.5


def test_empty_caption_is_failed_and_scores_nothing():
    scores = captions.score(items_of(("", ["a dog"]), ("a cat", ["a cat"])))
    assert scores.num_failed == 1 and scores.value("ROUGE_L") == 0.5


def test_set_without_items_or_references_is_refused():
    with pytest.raises(ValueError, match="no captions"):
        captions.score([])
    with pytest.raises(ValueError, match="Image 0 has no reference"):
        captions.score(items_of(("a", [])))
