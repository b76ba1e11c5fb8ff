"""Cards that share one decoder train as one card does, which gives the expected values.

All runs share one import of the packages, and those of a number of cards and a degree their processes, because starting
takes most of the time.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_folder
from tiny_training import LORA, settings, weights

from paddlemix import LlavaForConditionalGeneration

DRIVER = Path(__file__).parent / "forked_cards.py"
NUM_STEPS, NUM_SAVED = 3, 2
# Sizes that four cards can share, in nf4 too; the vocabulary cannot be divided evenly.
LANGUAGE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 4}
LANGUAGE |= {"vocab_size": 423, "has_qkv_bias": True, "has_out_bias": True}
# A new adapter's lora_A gets no gradient before lora_B has changed: with small steps it would not show in a weight.
LARGE_STEPS = {"learning_rate": 0.02, "lora_alpha": 32}
KINDS = {
    "full": {"weight_decay": 0.1, "do_eval": True},
    "lora": {**LORA, "lora_plus_scale": 4.0, **LARGE_STEPS},
    "lora over nf4": {**LORA, "load_in_4bit": True, "recompute": True},
    "lora with dropout": {**LORA, "lora_dropout": 0.3},
    "full in bf16": {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True},
}
RUNS = {
    2: [(2, "", kind) for kind in KINDS],
    4: [(2, "stage1", "full"), (2, "", "lora over nf4"), (4, "", "full"), (4, "", "lora over nf4")],
}
# Dropout of a cut layer has other random numbers on each card than one card has.
CASES = [(num, *run) for num, runs in RUNS.items() for run in runs if run[-1] != "lora with dropout"]
RESUMED = [(2, 2, "", "full"), (2, 2, "", "lora with dropout"), (4, 2, "stage1", "full")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shared")
    tiny_folder.make_folder(root / "model", "anyres", **LANGUAGE)
    tiny_folder.write_rows(root / "rows")
    return root


@pytest.fixture(scope="module")
def shared(npu_sim, root):
    """Return a function from (cards, degree, sharding, kind) to its run; with "resumed" to its resumed second half.

    (1, kind) is the run of one card.
    """
    kinds = dict.fromkeys(case[-1] for case in CASES)
    launches = [(1, {(1, kind): _configure(root, f"one {kind}", kind, 4) for kind in kinds})]
    for num_cards in RUNS:
        groups = dict.fromkeys(run[:2] for run in RUNS[num_cards])  # Fleet makes its groups once for a process
        launches += [(num_cards, _configure_all(root, num_cards, *group)) for group in groups]
    _train(npu_sim, root, launches)
    folders = {key: folder for _, own in launches for key, folder in own.items()}
    return lambda *key: folders[key]


def _configure_all(root: Path, num_cards: int, degree: int, sharding: str) -> dict:
    folders = {}
    for kind in (run[-1] for run in RUNS[num_cards] if run[:2] == (degree, sharding)):
        key, size = (num_cards, degree, sharding, kind), 4 * degree // num_cards
        options = {"tensor_parallel_degree": degree, "sharding": sharding}
        folders[key] = _configure(root, f"{num_cards} {degree} {sharding} {kind}", kind, size, **options)
        if key in RESUMED:
            options |= {"resume_from_checkpoint": str(folders[key] / "out" / f"checkpoint-{NUM_SAVED}")}
            options |= {"save_strategy": "no"}
            name = f"resumed {num_cards} {degree} {sharding} {kind}"
            folders[("resumed", *key)] = _configure(root, name, kind, size, **options)
    return folders


def _configure(root: Path, name: str, kind: str, batch_size: int, **changes) -> Path:
    folder = root / name.replace(" ", "-")
    folder.mkdir()
    shared = {"max_steps": NUM_STEPS, "max_grad_norm": 1.0, "adam_epsilon": 0.01, "max_length": 500, "device": "npu"}
    shared |= {"save_strategy": "steps", "save_steps": NUM_SAVED, "per_device_train_batch_size": batch_size}
    shared |= {"model_name_or_path": str(root / "model")}
    rows = str(root / "rows/train.json")
    values = settings(folder, {"train": rows, "eval": rows}, "anyres", **{**shared, **KINDS[kind], **changes})
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def _train(npu_sim, root: Path, launches: list[tuple[int, dict]]) -> None:
    words: list = [DRIVER]
    for num_cards, folders in launches:
        words += [str(num_cards), *(f"sft:{folder / 'config.json'}" for folder in folders.values())]
    environment = {"OMP_NUM_THREADS": "1", "FLAGS_tcp_store_using_libuv": "0"}
    done = npu_sim.run(words, num_cards=max(RUNS), environment=environment, folder=root, timeout=900)
    assert done.returncode == 0, done.text[-4000:]


def _losses(folder: Path, rank: int = 0) -> list[float]:
    return json.loads((folder / f"losses.{rank}.json").read_text())


def _weights(root: Path, folder: Path) -> dict:
    base = root / "model" if (folder / "lora_config.json").is_file() else None
    return weights(LlavaForConditionalGeneration.from_pretrained(folder, base=base, dtype="float32", device="cpu"))


@pytest.mark.parametrize(("num_cards", "degree", "sharding", "kind"), CASES)
def test_cards_that_share_a_decoder_train_like_one(root, shared, num_cards, degree, sharding, kind):
    one, many = shared(1, kind), shared(num_cards, degree, sharding, kind)
    is_half = kind.endswith("16")
    assert _losses(many) == pytest.approx(_losses(one), rel=2e-3 if is_half else 5e-6)
    assert len(_losses(one)) == NUM_STEPS + (NUM_STEPS + 1) * KINDS[kind].get("do_eval", False)
    first, second, start = _weights(root, one / "out"), _weights(root, many / "out"), _weights(root, root / "model")
    assert max(np.abs(first[name] - start[name]).max() for name in start) > 1e-4
    for name in start:
        change = np.abs(first[name] - start[name]).max()
        limit = np.abs(first[name]).max() * 2**-6 + 1e-4 if is_half else 1e-5 + 1e-4 * change
        assert np.abs(first[name] - second[name]).max() <= limit, name


@pytest.mark.parametrize("case", RESUMED)
def test_cards_that_share_a_decoder_resume_bit_for_bit(root, shared, case):
    whole, resumed = shared(*case), shared("resumed", *case)
    trained, evaluated = _losses(whole)[:NUM_STEPS], _losses(whole)[NUM_STEPS:]
    assert _losses(resumed) == trained[NUM_SAVED:] + evaluated[NUM_SAVED:]
    first, second = _weights(root, whole / "out"), _weights(root, resumed / "out")
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
