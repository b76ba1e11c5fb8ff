"""merge, sample and split: every row once, the same bytes for the same seed, no image in two parts."""

from __future__ import annotations

import json

import pytest
from data_sets import row, write_lines, write_list
from prepared import prepare, rows_of

from paddlemix.prepare.record import record_path

ROWS = [row(number, f"{number // 3}.jpg" if number % 5 else None) for number in range(400)]


@pytest.fixture
def file(tmp_path):
    return write_list(tmp_path / "rows.json", ROWS)


def ids(path):
    return [one["id"] for one in rows_of(path)]


def test_merge_keeps_rows_as_they_are_in_the_order_of_the_files(tmp_path):
    odd = {"messages": [{"role": "user", "content": "x"}], "note": {"a": [1, None, "水"]}, "id": 7}
    first, second = write_lines(tmp_path / "a.jsonl", [odd, ROWS[1]]), write_list(tmp_path / "b.json", ROWS[2:4])
    output = tmp_path / "all.jsonl"
    assert prepare("merge", first, second, "--output", output) == 0
    assert rows_of(output) == [odd, *ROWS[1:4]]
    assert list(rows_of(output)[0]) == list(odd)


def test_merge_puts_the_prefix_of_each_file_before_its_images(tmp_path):
    several = {**row("s"), "image": ["a.jpg", "http://h/b.jpg", "/abs/c.jpg"]}
    first, second = write_lines(tmp_path / "a.jsonl", [ROWS[1], several]), write_lines(tmp_path / "b.jsonl", [ROWS[1]])
    output = tmp_path / "all.jsonl"
    assert prepare("merge", first, second, "--output", output, "--image_prefix", "one/", "two") == 0
    images = [one["image"] for one in rows_of(output)]
    assert images == ["one/0.jpg", ["one/a.jpg", "http://h/b.jpg", "/abs/c.jpg"], "two/0.jpg"]


def test_merge_refuses_another_number_of_prefixes_and_an_input_as_output(file, tmp_path, capsys):
    other = write_lines(tmp_path / "b.jsonl", ROWS[:1])
    words = ("merge", file, other, "--output")
    assert prepare(*words, tmp_path / "c.jsonl", "--image_prefix", "a", "b", "c") == 1
    assert "3 folders for 2 files" in capsys.readouterr().err
    assert prepare(*words, other) == 1
    assert "is an input" in capsys.readouterr().err
    assert rows_of(other) == ROWS[:1]


def test_merge_counts_rows_that_are_not_json_and_keeps_the_others(tmp_path, capsys):
    path = write_lines(tmp_path / "a.jsonl", ROWS[:2])
    path.write_bytes(path.read_bytes() + b'{"id": 1, "id": 2}\n{"cut')
    assert prepare("merge", path, "--output", tmp_path / "all.jsonl") == 0
    assert rows_of(tmp_path / "all.jsonl") == ROWS[:2]
    assert "4 rows read, 2 written, 2 dropped" in capsys.readouterr().out


@pytest.mark.parametrize("how", [("--num_rows", 50), ("--share", 0.125)])
def test_sample_draws_the_same_rows_for_the_same_seed_in_their_order(file, tmp_path, how):
    outputs = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for output, seed in zip(outputs, (1, 1, 2), strict=True):
        assert prepare("sample", file, "--output", output, "--seed", seed, *how) == 0
    first, again, other = (path.read_bytes() for path in outputs)
    assert first == again != other
    found = ids(outputs[0])
    assert found == sorted(set(found))
    assert rows_of(outputs[0]) == [ROWS[number] for number in found]
    assert len(found) == 50 if how[0] == "--num_rows" else 25 < len(found) < 80


def test_sample_draws_each_row_about_equally_often(file, tmp_path):
    counts = [0] * len(ROWS)
    for seed in range(30):
        output = tmp_path / f"{seed}.jsonl"
        assert prepare("sample", file, "--output", output, "--seed", seed, "--num_rows", 100) == 0
        for number in ids(output):
            counts[number] += 1
    halves = sum(counts[:200]), sum(counts[200:])  # binomial: 1,500 each, standard deviation 23
    assert sum(counts) == 3000
    assert max(halves) < 1620
    assert max(counts) < 22  # 7.5 on average, standard deviation 2.4


def test_sample_refuses_more_rows_than_there_are_and_both_ways_at_once(file, tmp_path, capsys):
    output = tmp_path / "a.jsonl"
    assert prepare("sample", file, "--output", output, "--num_rows", 401) == 1
    assert "only 400 rows" in capsys.readouterr().err
    assert prepare("sample", file, "--output", output) == 1
    assert prepare("sample", file, "--output", output, "--num_rows", 4, "--share", 0.5) == 1
    assert prepare("sample", file, "--output", output, "--share", 1.5) == 1
    assert not output.exists()


def images_of(path):
    images = [one.get("image", []) for one in rows_of(path)]
    return {name for one in images for name in ([one] if isinstance(one, str) else one)}


def test_split_has_each_row_once_and_no_image_twice(file, tmp_path):
    assert prepare("split", file, "--val_share", 0.2, "--test_share", 0.2) == 0
    parts = [tmp_path / f"rows_{part}.jsonl" for part in ("train", "val", "test")]
    assert sorted(number for part in parts for number in ids(part)) == list(range(400))
    assert all(ids(part) == sorted(ids(part)) and 30 < len(ids(part)) < 300 for part in parts)
    sets = [images_of(part) for part in parts]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])


def test_split_keeps_rows_together_that_share_images_through_other_rows(tmp_path):
    # a chain 0-1, 1-2, ... in mixed order: all of it is one group; single images of the chain follow it
    chain = [{**row(f"c{number}"), "image": [f"{number}.jpg", f"{number + 1}.jpg"]} for number in range(30)]
    singles = [row(f"s{number}", f"{number}.jpg") for number in range(31)]
    others = [row(f"o{number}", f"x{number}.jpg") for number in range(100)]
    mixed = chain[::2] + singles + others + chain[1::2]
    file = write_lines(tmp_path / "rows.jsonl", mixed)
    assert prepare("split", file, "--val_share", 0.4) == 0
    parts = [set(ids(tmp_path / f"rows_{part}.jsonl")) for part in ("train", "val")]
    together = {one["id"] for one in chain + singles}
    assert sorted(len(part & together) for part in parts) == [0, 61]
    assert all(len(part) > 20 for part in parts)


def test_images_in_turns_count_for_split_and_are_refused_by_a_prefix(tmp_path, capsys):
    def in_turn(number):
        part = {"type": "image_url", "image_url": {"url": f"{number % 8}.jpg"}}
        turns = [{"role": "user", "content": [part, {"type": "text", "text": "q"}]}]
        return {"id": number, "messages": [*turns, {"role": "assistant", "content": "a"}]}

    file = write_lines(tmp_path / "rows.jsonl", [in_turn(number) for number in range(80)])
    assert prepare("split", file, "--val_share", 0.4, "--seed", 1) == 0
    parts = [{number % 8 for number in ids(tmp_path / f"rows_{part}.jsonl")} for part in ("train", "val")]
    assert sorted(parts[0] | parts[1]) == list(range(8))
    assert not parts[0] & parts[1]
    output = tmp_path / "all.jsonl"
    assert (
        prepare("merge", file, write_lines(tmp_path / "b.jsonl", ROWS[:2]), "--output", output, "--image_prefix", "x")
        == 0
    )
    assert "dropped 80: images in turns" in capsys.readouterr().out
    assert len(rows_of(output)) == 2


def test_split_of_a_row_does_not_depend_on_the_rows_around_it(tmp_path):
    with_images = [one for one in ROWS if "image" in one]
    for folder, rows in (("a", with_images), ("b", with_images[::-1][:150])):
        assert prepare("split", write_lines(tmp_path / folder / "rows.jsonl", rows), "--val_share", 0.3) == 0
    parts = [{one: images_of(tmp_path / one / f"rows_{part}.jsonl") for one in "ab"} for part in ("train", "val")]
    assert all(part["b"] <= part["a"] for part in parts)


def test_split_by_a_key_drops_rows_without_it_and_by_row_ignores_images(tmp_path, capsys):
    rows = [{**row(number, "same.jpg"), "paper": f"p{number // 4}"} for number in range(80)]
    file = write_lines(tmp_path / "rows.jsonl", [*rows, row("none", "same.jpg")])
    assert prepare("split", file, "--val_share", 0.3, "--group", "paper", "--output_dir", tmp_path / "key") == 0
    assert "1: no group paper" in capsys.readouterr().out
    papers = [{one["paper"] for one in rows_of(tmp_path / "key" / f"rows_{part}.jsonl")} for part in ("train", "val")]
    assert not papers[0] & papers[1]
    assert len(papers[0] | papers[1]) == 20
    assert prepare("split", file, "--val_share", 0.3, "--group", "row", "--output_dir", tmp_path / "row") == 0
    assert all(len(ids(tmp_path / "row" / f"rows_{part}.jsonl")) > 10 for part in ("train", "val"))


@pytest.mark.parametrize("shares", [(0, 0), (1, 0), (0.5, 0.5), (-0.1, 0), (float("nan"), 0)])
def test_split_refuses_shares_that_leave_nothing_to_train_on(file, shares, capsys):
    assert prepare("split", file, f"--val_share={shares[0]}", f"--test_share={shares[1]}") == 1
    assert "leave rows to train on" in capsys.readouterr().err


def test_rerun_changes_nothing_and_foreign_files_stay(file, tmp_path, capsys):
    words = ("split", file, "--val_share", 0.3)
    assert prepare(*words) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.jsonl")}
    assert prepare(*words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert capsys.readouterr().out.count(": unchanged") == 2
    foreign = write_lines(tmp_path / "mine.jsonl", ROWS[:1])
    assert prepare("merge", file, "--output", foreign) == 1
    assert json.loads(foreign.read_text(encoding="utf-8")) == ROWS[0]


def test_a_part_of_an_earlier_split_that_has_no_row_any_more_is_removed(file, tmp_path, capsys):
    """Its rows are in the other parts now, and an evaluation on them would be on rows that were trained."""
    assert prepare("split", file, "--val_share", 0.2, "--test_share", 0.2) == 0
    parts = {part: tmp_path / f"{file.stem}_{part}.jsonl" for part in ("train", "val", "test")}
    assert all(path.is_file() for path in parts.values())
    assert prepare("split", file, "--val_share", 0.2) == 0
    assert not parts["test"].exists() and not record_path(parts["test"]).exists()
    assert f"{parts['test']}: removed, as no row belongs to it any more" in capsys.readouterr().out
    assert len(rows_of(parts["train"])) + len(rows_of(parts["val"])) == len(ROWS)

    write_list(file, ROWS[:1])
    assert prepare("split", file, "--val_share", 0.2) == 0
    assert [path.exists() for path in parts.values()].count(True) == 1


def test_a_split_leaves_files_of_others_alone(file, tmp_path, capsys):
    foreign = tmp_path / f"{file.stem}_test.jsonl"
    foreign.write_text("mine")
    assert prepare("split", file, "--val_share", 0.2) == 0
    assert foreign.read_text() == "mine" and str(foreign) not in capsys.readouterr().out
