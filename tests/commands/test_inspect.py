"""`paddlemix inspect`: its output and exit code."""

from __future__ import annotations

import argparse
import json
import shutil

import tiny_folder

from paddlemix.commands import inspect


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    return inspect.run(parser.parse_args(list(map(str, arguments))))


def test_text_describes_the_model_in_a_few_lines(capsys):
    folder = tiny_folder.folder("anyres")
    size = (folder / "model.safetensors").stat().st_size

    assert run(folder) == 0
    assert (
        capsys.readouterr().out
        == f"""{folder}
  format           paddle (this project's own)
  architecture     llava
  model            CLIP 3 x 32 (28 px, patches of 7) -> mlp2x_gelu -> LLaMA 2 x 48 (vocabulary 420, 512 positions)
  weights          1 weight file, {size / 1000:.1f} kB

parameters
  vision tower      31,040  float32
  projector          3,936  float32
  image_newline         48  float32
  language model    77,424
    embeddings      20,160  float32
    layers          37,104  float32
    head            20,160  float32
  total            112,448

use
  images           anyres, 28 px, patches of 7
  grids            28x56 56x28 56x56 84x28 28x84 (width x height), merged as spatial_unpad
  tokens           16 to 88 an image (640x480: 70, 480x640: 72, 1920x1080: 52)
  template         vicuna_v1
  tokenizer        tokenizer.model (SentencePiece, 420 tokens)
  answers end at   </s> (2)

files
  model.safetensors  {size / 1000:.1f} kB     81 tensors  float32

nothing is missing
"""
    )


def test_json_has_the_same_facts(capsys):
    assert run(tiny_folder.folder("pad"), "--json") == 0
    found = json.loads(capsys.readouterr().out)

    assert found["num_parameters"] == 112_400 == sum(one["num_parameters"] for one in found["components"])
    assert found["components"][0] == {
        "name": "vision tower",
        "num_parameters": 31_040,
        "num_expected": 31_040,
        "dtypes": ["float32"],
    }
    assert (found["image"]["mode"], found["text"]["eos_token_ids"], found["problems"]) == ("pad", [2], [])


def test_missing_parts_are_listed_with_code_1(capsys, tmp_path):
    shutil.copytree(tiny_folder.folder("pad"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()

    assert run(tmp_path / "model") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  vision tower     0  31,040 missing" in lines
    assert lines[-3] == "2 problems"
    assert lines[-2] == "  - there are no weights (*.safetensors, *.bin or *.pdparams)"
    assert run(tmp_path / "model", "--json") == 1
    assert len(json.loads(capsys.readouterr().out)["missing"]) == 80


def test_model_name_is_resolved_as_in_other_commands(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder.folder("pad"), tmp_path / "own" / "model")

    assert run("own/model") == 0
    assert capsys.readouterr().out.startswith("own/model\n  format")
