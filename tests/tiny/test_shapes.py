"""The generator of the tiny model's data: images, questions, files, vocabulary and scoring."""

from __future__ import annotations

import itertools
import json
import math
import random
import re

import numpy as np
import pytest

from paddlemix.examples.llava.tiny import make_data, make_tokenizer, questions, score, shapes

CENTRES = {"left": 0, "right": 1, "top": 0, "bottom": 1}
NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4}


def random_scenes(num: int, seed: int = 1) -> list[shapes.Scene]:
    rng = random.Random(seed)
    return [shapes.random_scene(rng) for _ in range(num)]


def nearest_color(pixel) -> str:
    return min(shapes.COLORS, key=lambda name: math.dist(shapes.COLORS[name], pixel))


def read_image(image) -> list[tuple[int, int, str]]:
    """Return (column, row, color) of the shapes from the pixels alone, row by row."""
    pixels = np.asarray(image).astype(int)
    edges = np.linspace(0, len(pixels), 3).astype(int)
    found = []
    for row, column in itertools.product(range(2), range(2)):
        cell = pixels[edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        is_shape = np.abs(cell - pixels[0, 0]).sum(-1) > 60
        if is_shape.sum() > 40:
            middle = np.median(cell[is_shape], axis=0)
            found.append((column, row, nearest_color(middle)))
    return found


def test_image_shows_each_shape_in_its_color_and_cell():
    for scene in random_scenes(200):
        expected = [(*shape.cell, shape.color) for shape in scene.shapes]
        assert read_image(shapes.draw(scene)) == expected


@pytest.mark.parametrize("side", [48, 72, 336])
def test_pixel_at_a_shapes_center_has_its_color_at_any_side(side):
    for scene in random_scenes(20):
        image = shapes.draw(scene, side)
        assert image.size == (side, side) and image.mode == "RGB"
        for shape in scene.shapes:
            x, y = (int(part * side / 64) for part in shape.center)
            assert image.getpixel((x, y)) == shapes.COLORS[shape.color]


def test_area_of_each_kind_matches_its_geometry():
    share = {
        "circle": math.pi,
        "square": 2.0,
        "triangle": 3 * math.sqrt(3) / 4,
        "star": 10 * 0.45 * math.sin(math.pi / 5) / 2,
    }
    for kind, factor in share.items():
        shape = shapes.Shape(kind, "black", (1, 1), (32.0, 32.0), 10.0)
        pixels = np.asarray(shapes.draw(shapes.Scene((shape,), (255, 255, 255)), 256)).astype(float)
        area = (255 - pixels[..., 0]).sum() / 235 / 16
        assert area == pytest.approx(factor * 100, rel=0.04)


def test_shapes_never_overlap_and_stay_in_the_image():
    for scene in random_scenes(500):
        for first, second in itertools.combinations(scene.shapes, 2):
            apart = max(abs(a - b) for a, b in zip(first.center, second.center, strict=True))
            assert apart > first.radius + second.radius
        for shape in scene.shapes:
            assert all(shape.radius < part < 64 - shape.radius for part in shape.center)


def test_same_seed_makes_the_same_scenes_and_questions():
    first, second = (
        [(scene, questions.ask_all(scene, rng)) for scene, rng in make_data.scenes("train", 50, seed=3)]
        for _ in range(2)
    )
    other = [(scene, questions.ask_all(scene, rng)) for scene, rng in make_data.scenes("train", 50, seed=4)]
    assert first == second and first != other


def test_no_held_out_layout_is_trained_on():
    layouts = {split: {scene.layout for scene, _ in make_data.scenes(split, 3000, 0)} for split in ("train", "test")}
    assert layouts["train"] and layouts["test"] and not layouts["train"] & layouts["test"]


def all_answers(num: int = 400) -> list[tuple[shapes.Scene, questions.QA]]:
    rng = random.Random(5)
    return [(scene, qa) for scene in random_scenes(num) for qa in questions.ask_all(scene, rng)]


def test_every_kind_of_question_is_asked():
    kinds = {qa.kind for _, qa in all_answers()}
    assert kinds == {"count", "colour", "shape", "place", "corner", "yes_no", "description"}


def count_by_words(scene: shapes.Scene, words: str) -> int:
    """Return the number of shapes that match words like "red circles", "shapes" or "blue shape"."""
    names = [f"{shape.color} {shape.kind} shape" for shape in scene.shapes]
    wanted = [word.rstrip("s") for word in words.split()]
    return sum(all(word in name.split() for word in wanted) for name in names)


def test_counts_and_yes_no_answers_agree_with_the_scene():
    for scene, qa in all_answers():
        if qa.kind == "count":
            number, words = re.fullmatch(r"The number of (.+) is (\w+)\.", qa.answer).groups()[::-1]
            assert words in qa.question and NUMBERS[number] == count_by_words(scene, words)
        if qa.kind == "yes_no":
            words = re.search(r"a (\w+ \w+)[?.]| a (\w+ \w+) in", qa.question)
            is_there = count_by_words(scene, words.group(1) or words.group(2)) > 0
            assert qa.answer.startswith("Yes" if is_there else "No")


def test_color_shape_and_place_answers_name_the_only_shape_that_fits():
    for scene, qa in all_answers():
        if qa.kind in ("colour", "shape"):
            kind, color = [re.search("|".join(names), qa.answer).group() for names in (shapes.KINDS, shapes.COLORS)]
            asked = kind if qa.kind == "colour" else color
            fitting = [shape for shape in scene.shapes if asked in (shape.kind, shape.color)]
            assert asked in qa.question and [(s.kind, s.color) for s in fitting] == [(kind, color)]
        if qa.kind == "place":
            name, row, column = re.fullmatch(r"The (.+) is (top|bottom) (left|right)\.", qa.answer).groups()
            asked = re.search(r"the ((?:\w+ )?\w+)(?: in the picture)?\?$", qa.question).group(1)
            for text in (name, asked):
                (shape,) = [s for s in scene.shapes if count_by_words(shapes.Scene((s,), scene.background), text)]
                assert shape.cell == (CENTRES[column], CENTRES[row])
            assert name == f"{shape.color} {shape.kind}"


def test_corner_answers_name_the_shape_there():
    found = {True: 0, False: 0}
    for scene, qa in all_answers():
        if qa.kind == "corner":
            row, column, what = re.fullmatch(r"(Top|Bottom) (left|right) is (.+)\.", qa.answer).groups()
            cell = (CENTRES[column], CENTRES[row.lower()])
            there = [f"a {shape.color} {shape.kind}" for shape in scene.shapes if shape.cell == cell]
            assert f"{row.lower()} {column}" in qa.question and what == (there or ["nothing"])[0]
            found[bool(there)] += 1
    assert min(found.values()) > 20


def test_caption_lists_all_shapes_row_by_row():
    for scene in random_scenes(200):
        found = re.findall(r"(\w+) (circle|square|triangle|star)", questions.caption(scene))
        assert found == [(shape.color, shape.kind) for shape in sorted(scene.shapes, key=lambda s: s.cell[::-1])]


def test_yes_is_correct_about_half_the_time():
    answers = [qa.answer for _, qa in all_answers(2000) if qa.kind == "yes_no"]
    assert len(answers) > 800
    assert 0.45 < sum(answer.startswith("Yes") for answer in answers) / len(answers) < 0.55


def test_case_and_punctuation_are_ignored_but_words_are_not():
    assert score.is_correct("count", "there ARE two red shapes", "There are two red shapes.")
    assert not score.is_correct("count", "There are three red shapes.", "There are two red shapes.")
    assert not score.is_correct("yes_no", "Yes", "No, there is no red star.")
    assert not score.is_correct("colour", "", "The star is red.")


def test_description_needs_all_shapes_in_order_with_their_places():
    expected = "A red circle at the top left and a blue star in the centre."
    assert score.is_correct("description", "I see a red circle, top left, and a blue star in the centre", expected)
    for wrong in (
        "A red circle at the top left.",
        "A blue star in the centre and a red circle at the top left.",
        "A red circle at the top right and a blue star in the centre.",
        "A red circle at the top left, a blue star in the centre and a red star at the top.",
    ):
        assert not score.is_correct("description", wrong, expected)


def test_score_counts_by_kind_and_overall(tmp_path, capsys):
    rows = [
        {"kind": "count", "answer": "Two", "expected": "two"},
        {"kind": "count", "answer": "Two", "expected": "three"},
        {"kind": "text", "answer": "Hello!", "expected": "Hello"},
    ]
    result = score.score(rows)
    assert [(kind, row["right"], row["asked"]) for kind, row in result.items()] == [
        ("count", 1, 2),
        ("text", 1, 1),
        ("all", 2, 3),
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    score.main([str(path)])
    assert "66.7%" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no answer"):
        score.score([])


@pytest.mark.parametrize("line", ["{broken", '{"kind": "count"}', "[]"])
def test_bad_answer_file_is_refused_with_its_line(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match="line 1"):
        score.read_answers(path)


def read_folder(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_data_set_is_the_same_for_a_seed_and_can_be_rewritten(tmp_path):
    arguments = ["--num-train", "30", "--num-eval", "5", "--seed", "7"]
    make_data.main(["--output", str(tmp_path / "a"), *arguments])
    make_data.main(["--output", str(tmp_path / "b"), *arguments])
    first = read_folder(tmp_path / "a")
    make_data.main(["--output", str(tmp_path / "a"), *arguments])
    assert first == read_folder(tmp_path / "b") == read_folder(tmp_path / "a")
    assert not [name for name in first if name.endswith(".tmp")]


def test_data_files_have_the_documented_forms(tmp_path):
    make_data.main(["--output", str(tmp_path), "--num-train", "30", "--num-eval", "5", "--image-root", "root/"])
    pretrain, train, val = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("pretrain", "train", "val")
    )
    test = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert len(pretrain) == 30 and all(row["conversations"][0][0] == "<image>" for row in pretrain)
    for row in train + val:
        roles = [turn["from"] for turn in row["conversations"]]
        assert roles == ["human", "gpt"] * (len(roles) // 2) and roles
        marks = ["<image>" in turn["value"] for turn in row["conversations"]]
        assert marks == [("image" in row) and index == 0 for index in range(len(marks))]
    assert sum("image" not in row for row in train) == 1
    assert len({row["image"] for row in test if row["image"]}) == 5
    for row in pretrain + val + [row for row in test if row["image"]]:
        assert (tmp_path / row["image"].removeprefix("root/")).is_file()


def test_too_small_a_request_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        make_data.main(["--output", str(tmp_path), "--num-train", "0"])
    assert "--num-train is 0" in capsys.readouterr().err


def test_vocabulary_has_llama_ids_and_decodes_every_text(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    make_tokenizer.main(["--output", str(tmp_path)])
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert [model.id_to_piece(index) for index in range(3)] == ["<unk>", "<s>", "</s>"]
    assert model.get_piece_size() == make_tokenizer.VOCAB_SIZE
    for text in [*itertools.islice(make_tokenizer.texts(seed=9), 200), "\nIs it Zürich 2024?", "多少个圆形？"]:
        ids = model.encode(text)
        assert 0 not in ids and model.decode(ids) == text
    assert len(model.encode("The number of red circles is three.")) == 8
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["legacy"] is True


def test_vocabulary_is_the_same_each_time():
    pytest.importorskip("sentencepiece")
    assert make_tokenizer.train_model(make_tokenizer.texts()) == make_tokenizer.train_model(make_tokenizer.texts())
