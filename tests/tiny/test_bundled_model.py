"""The model in the repository is small, complete and answers correctly."""

import json
from pathlib import Path

import pytest

from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor, SamplingParams
from paddlemix.examples.llava.tiny.evaluate import answer
from paddlemix.examples.llava.tiny.make_data import write_data
from paddlemix.examples.llava.tiny.score import score

TINY = Path(__file__).parents[2] / "paddlemix" / "examples" / "llava" / "tiny"
MODEL, PICTURE = TINY / "model", TINY / "shapes.png"


@pytest.fixture(scope="module")
def session():
    model = LlavaForConditionalGeneration.from_pretrained(MODEL)
    return ChatSession(model, LlavaProcessor.from_pretrained(MODEL), sampling=SamplingParams(temperature=0))


def test_folder_is_small_and_stored_in_half_precision(session):
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 8_000_000
    assert json.loads((MODEL / "config.json").read_text())["dtype"] == "float16"
    assert sum(int(parameter.size) for parameter in session.model.parameters()) < 3_000_000


def test_bundled_image_is_described_correctly_over_several_turns(session):
    # The program that drew shapes.png recorded its shapes in scene.json.
    scene = json.loads((TINY / "scene.json").read_text())
    for number, (question, expected) in enumerate(scene["questions"].items()):
        images = [PICTURE] if number == 0 else None
        assert session.ask(question, images=images) == expected


def test_questions_about_unseen_images_are_answered_correctly(tmp_path):
    write_data(tmp_path, 1, 500, seed=0)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    scores = score(answer(MODEL, tmp_path, rows, 64))
    assert scores["all"]["asked"] > 3000
    assert scores["all"]["share"] >= 0.95, scores
    for kind in ("colour", "shape", "place", "corner", "description"):
        assert scores[kind]["share"] >= 0.98, scores
    assert min(scores[kind]["share"] for kind in ("count", "yes_no")) >= 0.78, scores


def test_images_that_were_not_used_to_choose_the_recipe_either_are_answered_equally_well(tmp_path):
    write_data(tmp_path, 1, 60, seed=987)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    scores = score(answer(MODEL, tmp_path, rows, 64))
    assert scores["all"]["share"] >= 0.93, scores
