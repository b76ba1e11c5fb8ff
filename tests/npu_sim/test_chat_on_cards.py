"""`paddlemix chat --tensor-parallel N` on simulated cards answers as one card does."""

from __future__ import annotations

import pytest
import tiny_folder

SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4}
FAMILIES = {"llama": {**SIZES, "has_qkv_bias": True, "has_out_bias": True, "vocab_size": 423}}
FAMILIES["mpt"] = {**SIZES, "family": "mpt", "positions": "alibi", "norm": "layer", "is_gated": False}
FAMILIES["mpt"] |= {"activation": "gelu", "tie_word_embeddings": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, sizes in FAMILIES.items():
        tiny_folder.make_folder(root / name, "pad", **sizes)
    tiny_folder.save_image(root / "image.png", 3)
    return root


def answers(npu_sim, folders, name: str, num_cards: int, *options: str) -> str:
    command = ["-m", "paddlemix", "chat", "--model-path", folders / name, "--device", "npu", "--temperature", "0"]
    command += ["--image-file", folders / "image.png", "--max-new-tokens", "24", *options]
    command += ["--tensor-parallel", str(num_cards)] if num_cards > 1 else []
    typed = "What is this?\nHow many shapes are there?\n"
    environment = {"OMP_NUM_THREADS": "1"}
    done = npu_sim.run(command, num_cards=num_cards, environment=environment, typed=typed)
    assert done.returncode == 0, done.text
    return done.output


@pytest.mark.parametrize(("name", "num_cards", "options"), [("llama", 4, ()), ("mpt", 2, ("--load-4bit",))])
def test_cards_that_share_a_decoder_answer_like_one(npu_sim, folders, name, num_cards, options):
    one, many = (answers(npu_sim, folders, name, number, *options) for number in (1, num_cards))
    assert many == one and len(one.splitlines()) >= 2
