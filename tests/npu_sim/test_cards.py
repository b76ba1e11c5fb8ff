"""Two simulated cards, one process each, train the same as one card with the same global batch.

Expected values come from one card. All runs share one import of the packages, and those with the same number of cards
their processes, because starting takes most of the time.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest
import tiny_folder
from packaging.version import Version
from tiny_training import LORA, PRETRAIN_FREEZE, settings, weights

from paddlemix import LlavaForConditionalGeneration

DRIVER = Path(__file__).parent / "forked_cards.py"
NUM_STEPS, NUM_SAVED = 3, 2
BF16 = {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True}
# Script and settings of each kind of run. Weight decay and the projector's learning rate depend on weight names.
KINDS = {
    "full": ("sft", {"weight_decay": 0.1, "mm_projector_lr": 3e-4}),
    "lora": ("sft", {**LORA, "lora_plus_scale": 4.0}),
    "full in bf16": ("sft", BF16),
    "lora in bf16": ("sft", {**BF16, **LORA}),
    "full in fp16": ("sft", {"fp16": True, "fp16_opt_level": "O2"}),
    "packed": ("sft", {**LORA, "mixtoken": True}),
    "projector": ("pretrain", PRETRAIN_FREEZE),
    "lora over nf4": ("sft", {**LORA, "load_in_4bit": True}),
}
SHARDED = [
    ("stage3", "full"),
    ("stage3", "lora in bf16"),
    ("stage3", "projector"),
    ("stage3 offload", "full in bf16"),
    ("stage2", "full"),
    ("stage2", "lora"),
    ("stage2", "full in bf16"),
    ("stage2 offload", "full in fp16"),
    ("stage1", "full"),
    ("stage1", "lora in bf16"),
    ("stage1", "packed"),
    ("", "full in bf16"),
    ("", "lora over nf4"),
]
RESUMED = [
    ("stage3", "full"),
    ("stage3", "lora in bf16"),
    ("stage3 offload", "full in bf16"),
    ("stage2", "full"),
    ("stage2 offload", "full in fp16"),
    ("stage1", "lora in bf16"),
    ("", "full in bf16"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Write eight rows with zero to three images: in some steps one card has images and the other has none."""
    root = tmp_path_factory.mktemp("cards")
    tiny_folder.write_rows(root / "rows")
    tiny_folder.write_captions(root / "captions")
    return root


@pytest.fixture(scope="module")
def runs(npu_sim, root):
    """Return the folders of all runs: by kind for one card, otherwise as `two_cards` says."""
    one = {kind: _configure(root, f"one {kind}", kind, is_one=True) for kind in KINDS}
    two = {}
    for sharding, kind in SHARDED:
        two[sharding, kind] = _configure(root, f"two {sharding} {kind}", kind, sharding=sharding)
        if (sharding, kind) in RESUMED:
            checkpoint = two[sharding, kind] / "out" / f"checkpoint-{NUM_SAVED}"
            options = {"sharding": sharding, "resume_from_checkpoint": str(checkpoint), "save_strategy": "no"}
            two["resumed", sharding, kind] = _configure(root, f"resumed {sharding} {kind}", kind, **options)
    _train(npu_sim, root, [(1, one), (2, two)])
    return {**one, **two}


@pytest.fixture(scope="module")
def one_card(runs):
    """Return a function from a kind to the folder of its run on one card."""
    return runs.__getitem__


@pytest.fixture(scope="module")
def two_cards(runs):
    """Return a function from (sharding, kind) to the folder of its run; ("resumed", ...) is its resumed second half."""
    return lambda *key: runs[key]


def _configure(root: Path, name: str, kind: str, *, is_one: bool = False, **changes) -> Path:
    """Write the configuration of a run to a new folder; one card has the batch that two accumulate in two steps."""
    folder = root / name.replace(" ", "-")
    folder.mkdir()
    script, options = KINDS[kind]
    data = root / ("captions/pretrain.json" if script == "pretrain" else "rows/train.json")
    is_packed = "mixtoken" in options
    size = {"per_device_train_batch_size": 2 if is_packed else 4} if is_one else {"per_device_train_batch_size": 1}
    size |= {} if is_one or is_packed else {"gradient_accumulation_steps": 2}
    shared = {"max_steps": NUM_STEPS, "max_grad_norm": 1.0, "adam_epsilon": 0.01, "max_length": 500, "device": "npu"}
    shared |= {"save_strategy": "steps", "save_steps": NUM_SAVED}
    values = settings(folder, data, "anyres", **{**shared, **size, **options, **changes})
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def _train(npu_sim, root: Path, launches: list[tuple[int, dict]]) -> None:
    words: list = [DRIVER]
    for num_cards, folders in launches:
        scripts = [KINDS[key if isinstance(key, str) else key[-1]][0] for key in folders]
        items = zip(scripts, folders.values(), strict=True)
        words += [str(num_cards), *(f"{script}:{folder / 'config.json'}" for script, folder in items)]
    environment = {"OMP_NUM_THREADS": "1", "FLAGS_tcp_store_using_libuv": "0"}
    done = npu_sim.run(words, num_cards=2, environment=environment, folder=root, timeout=600)
    assert done.returncode == 0, done.text[-4000:]


def _losses(folder: Path, rank: int = 0) -> list[float]:
    return json.loads((folder / f"losses.{rank}.json").read_text())


def _weights(folder: Path, dtype: str = "float32") -> dict:
    base = tiny_folder.folder("anyres") if (folder / "lora_config.json").is_file() else None
    return weights(LlavaForConditionalGeneration.from_pretrained(folder, base=base, dtype=dtype, device="cpu"))


@pytest.mark.parametrize(("sharding", "kind"), SHARDED)
def test_two_cards_train_like_one_with_the_same_global_batch(one_card, two_cards, sharding, kind):
    one, two = one_card(kind), two_cards(sharding, kind)
    # In bf16, sums in another order round differently. Observed: 2e-4 of a loss; for a weight, its last bit or 3% of
    # its change.
    is_half = kind.endswith("16")
    assert _losses(two) == pytest.approx(_losses(one), rel=1e-3 if is_half else 2e-6)
    assert len(_losses(one)) == NUM_STEPS
    first, second, start = _weights(one / "out"), _weights(two / "out"), _weights(tiny_folder.folder("anyres"))
    assert max(np.abs(first[name] - start[name]).max() for name in start) > 1e-4
    for name in start:
        limit = np.abs(first[name]).max() * 2**-7 + 1e-4 if is_half else 2e-6
        assert np.abs(first[name] - second[name]).max() <= limit, name


@pytest.mark.parametrize(("sharding", "kind"), RESUMED)
def test_two_cards_resume_bit_for_bit(two_cards, sharding, kind):
    whole, resumed = two_cards(sharding, kind), two_cards("resumed", sharding, kind)
    assert _losses(resumed) == _losses(whole)[NUM_SAVED:]
    first, second = _weights(whole / "out"), _weights(resumed / "out")
    if sharding == "stage2 offload" and Version(paddle.__version__) < Version("3.3"):
        # Paddle 3.0.0 resumes from the float16 weights, so their last bit may differ.
        assert all(np.abs(first[name] - second[name]).max() <= np.abs(first[name]).max() * 2**-10 for name in first)
        return
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_only_the_first_process_writes_and_a_checkpoint_records_how_its_state_is_divided(two_cards):
    folder = two_cards("stage2", "full")
    checkpoint = folder / "out" / f"checkpoint-{NUM_SAVED}"
    parts = json.loads((checkpoint / "processes.json").read_text())
    degrees = {"sharding_parallel_degree": 2, "tensor_parallel_degree": 1}
    assert parts == {"num_processes": 2, "sharding": "stage2", **degrees}
    assert {path.name for path in checkpoint.glob("optimizer*")} == {
        "optimizer.shard00.pdopt",
        "optimizer.shard01.pdopt",
    }
    names = {path.name for path in (folder / "out").iterdir()}
    assert {"config.json", "model.safetensors", "train_results.json", "processor_config.json"} <= names


def test_frozen_weights_of_a_divided_model_are_saved_unchanged(two_cards):
    after, start = _weights(two_cards("stage3", "projector") / "out"), _weights(tiny_folder.folder("anyres"))
    same = {name for name in start if after[name].tobytes() == start[name].tobytes()}
    assert {name for name in start if name.startswith(("vision_tower.", "language_model."))} <= same
    assert not {name for name in same if name.startswith("projector.")}
