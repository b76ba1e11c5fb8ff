"""What holds for the repository as a whole: requirements, shipped settings, make, and the rules of the house."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "paddlemix"
CONFIGS = PACKAGE / "config" / "llava"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# PaddleMIX's files (paddlemix/config/llava at 68630549 for pretrain, 1c6c249b and f4da28b7 for the others).
TRAIN_AND_EVAL = (("train", "train.json"), ("eval", "val.json"))
COMMON = {
    "mixtoken": False,
    "overwrite_output_dir": True,
    "recompute": True,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "per_device_eval_batch_size": 1,
    "eval_accumulation_steps": 16,
    "num_train_epochs": 1,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "save_steps": 100,
    "save_strategy": "epoch",
    "max_length": 2048,
    "fp16_opt_level": "O1",
    "do_train": True,
    "do_eval": False,
    "disable_tqdm": True,
    "save_total_limit": 1,
}
PRETRAIN = {
    **COMMON,
    "model_name_or_path": "paddlemix/llava/vicuna-13b-v1.5",
    "freeze_include": ["*llama*", "*lm_head*"],
    "freeze_exclude": ["*llama.mm_projector*"],
    "dataset": {split: [{"name": "chatml_dataset", "data_files": file}] for split, file in TRAIN_AND_EVAL},
    "output_dir": "./checkpoints/llava_pretrain_ckpts",
    "group_by_modality_length": False,
    "learning_rate": 1e-3,
    "evaluation_strategy": "no",
    "fp16": False,
    "eval_steps": 120,
}
TUNE = {
    **COMMON,
    "dataset": {
        split: [{"name": "chatml_dataset", "data_files": file, "chat_template": "chat_template.json"}]
        for split, file in TRAIN_AND_EVAL
    },
    "output_dir": "./checkpoints/llava_sft_ckpts",
    "evaluation_strategy": "epoch",
}
SFT = {**TUNE, "group_by_modality_length": False, "learning_rate": 2e-5, "fp16": False}
LORA = {
    **TUNE,
    "learning_rate": 2e-4,
    "mm_projector_lr": 2e-5,
    "weight_decay": 0.0,
    "bf16": False,
    "load_best_model_at_end": False,
    "eval_with_do_generation": False,
    "skip_memory_metrics": False,
    "benchmark": False,
    "lora": True,
    "lora_rank": 128,
    "lora_alpha": 256,
    "lora_dropout": 0.0,
    "lora_target_modules": [
        "llama.layer.*q_proj.*",
        "llama.layer.*k_proj.*",
        "llama.layer.*v_proj.*",
        "llama.layer.*gate_proj.*",
        "llama.layer.*up_proj.*",
        "llama.layer.*down_proj.*",
        "llama.layer.*o_proj.*",
    ],
}
STAGE2 = {**LORA, "sharding": "stage2", "tensor_parallel_degree": 1, "sharding_parallel_degree": 8}
MODELS = {"v1_5": "liuhaotian/llava-v1.5-7b", "v1_6": "liuhaotian/llava-v1.6-vicuna-7b"}
SHIPPED = {"pretrain.json": PRETRAIN} | {
    f"{version}/{name}_argument{suffix}.json": {**values, "model_name_or_path": model}
    for version, model in MODELS.items()
    for name, suffix, values in (("sft", "", SFT), ("lora_sft", "", LORA), ("lora_sft", "_stage2", STAGE2))
}


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in (re.sub(r"\s*#.*", "", line).strip() for line in lines) if line]


def setup_arguments() -> dict:
    """Run setup.py without building anything and return what it hands to setuptools."""
    code = (
        "import json, setuptools; "
        "setuptools.setup = lambda **values: print(json.dumps(values)); "
        "exec(compile(open('setup.py', encoding='utf-8').read(), 'setup.py', 'exec'), {'__file__': 'setup.py'})"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def test_setup_asks_for_what_the_requirement_files_say():
    values = setup_arguments()
    assert values["install_requires"] == requirement_lines("requirements.txt")
    assert values["extras_require"]["dev"] == requirement_lines("requirements-dev.txt")


def test_package_takes_along_every_file_that_is_no_module():
    values = setup_arguments()
    assert values["entry_points"]["console_scripts"] == ["paddlemix = paddlemix.cli:main"]
    covered = {path for pattern in values["package_data"]["paddlemix"] for path in PACKAGE.glob(pattern)}
    assert set(CONFIGS.rglob("*.json")) <= covered
    assert set((PACKAGE / "examples").rglob("*.json")) <= covered


def test_folders_with_modules_are_packages():
    folders = {path.parent for path in MODULES if path.parent.name != "assets"}  # those draw pictures for the README
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()


def test_shipped_files_are_these_and_recipes():
    names = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.json")}
    assert {name for name in names if "/recipe_" not in name} == set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_file_has_the_keys_and_values_of_paddlemix(name):
    assert json.loads((CONFIGS / name).read_text(encoding="utf-8")) == SHIPPED[name]


@pytest.fixture
def workplace(tmp_path):
    """A copy of what make looks at, with an environment that seems to be installed."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".installed", ".installed-dev"):
        (tmp_path / ".venv" / name).touch()
    return tmp_path


def plan(folder: Path, *words: str) -> str:
    """Return the commands that make would run."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "VENV", "MAKEFLAGS")}
    result = subprocess.run(
        ["make", "-n", *words], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout


TARGETS = [
    ("chat", "paddlemix chat --model-path paddlemix/examples/llava/tiny/model --image-file"),
    ("test", "python -m pytest"),
    ("lint", "ruff check .\n.venv/bin/python -m ruff format --check ."),
    ("tiny", "bash paddlemix/examples/llava/tiny/train.sh"),
]


@pytest.mark.parametrize(("target", "command"), TARGETS)
def test_second_make_runs_the_command_without_installing(workplace, target, command):
    planned = plan(workplace, target)
    assert command in planned
    assert "pip" not in planned and "venv .venv" not in planned


@pytest.mark.parametrize("target", ["chat", "test", "lint", "tiny"])
def test_changed_requirements_are_installed(workplace, target):
    later = time.time() + 60
    os.utime(workplace / "requirements.txt", (later, later))
    assert "pip install" in plan(workplace, target)


def test_changed_development_requirements_are_installed_for_tests_only(workplace):
    later = time.time() + 60
    os.utime(workplace / "requirements-dev.txt", (later, later))
    assert "-r requirements-dev.txt" in plan(workplace, "test")
    assert "pip install" not in plan(workplace, "chat")


def test_missing_environment_is_made_before_anything_is_installed(workplace):
    shutil.rmtree(workplace / ".venv")
    planned = plan(workplace, "test")
    steps = [planned.index(step) for step in ("-m venv .venv", "-r .venv/requirements.txt", "-e .", "-m pytest")]
    assert steps == sorted(steps)


def test_oldest_paddle_has_an_environment_of_its_own_and_the_lower_bound(workplace):
    planned = plan(workplace, "test-paddle300")
    assert ".venv-paddle300/bin/python -m pytest tests/npu_sim" in planned and "VENV=.venv-paddle300" in planned
    constraint = (ROOT / "tests/npu_sim/paddle300.txt").read_text().strip()
    assert f"paddlepaddle>={constraint.split('==')[1]}," in (ROOT / "requirements.txt").read_text()


def test_make_passes_arguments_on_and_uses_another_environment(workplace):
    assert "-m pytest tests/image -k x" in plan(workplace, "test", "ARGS=tests/image -k x")
    assert "other/bin/paddlemix chat" in plan(workplace, "chat", "VENV=other")


def test_python_that_does_not_fit_is_refused_by_name(workplace):
    shutil.rmtree(workplace / ".venv")
    old = workplace / "old-python"
    old.write_text("#!/bin/sh\necho 'is Python 3.9' >&2\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    result = subprocess.run(
        ["make", "chat", "PYTHON=no-such-python ./old-python"], cwd=workplace, capture_output=True, text=True
    )
    assert result.returncode != 0 and not (workplace / ".venv" / ".installed").exists()
    assert "no-such-python: not there; ./old-python: is Python 3.9" in result.stderr


def test_failed_installation_leaves_no_stamp(workplace):
    shutil.rmtree(workplace / ".venv")
    (workplace / ".venv" / "bin").mkdir(parents=True)
    python = workplace / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *install*) exit 1;; esac\n', encoding="utf-8")
    python.chmod(0o755)
    result = subprocess.run(["make", "chat"], cwd=workplace, capture_output=True, text=True)
    assert result.returncode != 0 and not (workplace / ".venv" / ".installed").exists()


@pytest.mark.parametrize(("installed", "is_kept"), [("paddlepaddle-gpu==3.0.0", True), ("paddlepaddle==3.0.0", False)])
def test_paddle_for_an_accelerator_is_not_overwritten(workplace, installed, is_kept):
    (workplace / ".venv" / ".installed").unlink()
    python = workplace / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *list*) echo "{installed}";; esac\n', encoding="utf-8")
    python.chmod(0o755)
    subprocess.run(["make", "install"], cwd=workplace, capture_output=True, check=True)
    lines = (workplace / ".venv" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("paddlenlp==") for line in lines)
    assert any(line.startswith("paddlepaddle>") for line in lines) is not is_kept


def test_continuous_integration_runs_what_a_developer_runs():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text and "make -s lint" in text and "make -s test" in text


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert setup_arguments()["license"] == "Apache-2.0"


@pytest.mark.parametrize(("files", "most"), [(MODULES, 300), (TESTS, 500)], ids=["package", "tests"])
def test_files_are_short(files, most):
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > most} == {}


def test_nothing_is_left_to_do_and_no_room_is_called_utils():
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    unfinished = [str(path) for path in MODULES if mark.search(path.read_text(encoding="utf-8"))]
    assert unfinished == []
    assert [str(path) for path in MODULES if re.search(r"utils|helper|misc|_v\d+$", path.stem)] == []


def test_names_of_test_files_are_unique():
    counts = Counter(path.name for path in TESTS if path.name != "conftest.py")
    assert {name: count for name, count in counts.items() if count > 1} == {}


def imported(path: Path) -> set[str]:
    """Return the top-level names of the libraries that a file imports, at its head or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ["conversation", "image", "data"])
def test_loader_rooms_import_no_framework(room):
    frameworks = {"paddle", "paddlenlp", "torch", "transformers"}
    assert {str(path): imported(path) & frameworks for path in (PACKAGE / room).rglob("*.py")} == {
        str(path): set() for path in (PACKAGE / room).rglob("*.py")
    }


def test_paddlenlp_is_imported_for_training_only_and_torch_never():
    for path in MODULES:
        room = path.relative_to(PACKAGE).parts[0]
        forbidden = {"torch", "transformers"} | ({"paddlenlp"} if room != "train" else set())
        assert imported(path) & forbidden == set(), path


def test_imports_of_the_package_alone_load_no_framework():
    code = "import sys, paddlemix, paddlemix.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "paddlemix.cli" in loaded and not {"paddle", "paddlenlp", "torch", "transformers"} & set(loaded)
