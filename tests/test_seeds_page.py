"""The commands of seeds.md are valid, those for models run on tiny ones in its order, and settings are answered."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import sys

import pytest
import tiny_folder
from documentation import FENCED, ROOT, SEEDS, linked_folder
from tiny_families import tiny_model

from paddlemix import cli
from paddlemix.cli import command_parser
from paddlemix.train import arguments
from paddlemix.train.config_file import read_values
from paddlemix.train.foreign_settings import FOREIGN

PAGE = SEEDS[0]
VARIABLES = {"$IMAGE_PATH": "image.png", "$DATA_PATH": "mmbench"}
VARIABLES |= {"$RESULT_PATH-phi-3": "results-phi-3", "$RESULT_PATH": "results"}
STAGES = {"pretrain": "pretrain.json", "sft": "train.json"}
TINY = "--max_length 256 --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --device cpu".split()
STEP = "--max_steps 1 --save_strategy no --report_to none --dataloader_num_workers 0 --lora_rank 4".split()
# Names in the page -> the folder of recipes whose tiny model stands there.
MODELS = {
    "internlm/internlm-chat-7b": "internlm",
    "microsoft/Phi-3-mini-4k-instruct": "phi3",
    "lmsys/vicuna-7b-v1.5": "cerebras",
    "checkpoints/llama-vicuna-13b": "scienceqa",
    "openai/clip-vit-large-patch14-336": "internlm",
    "openai/clip-vit-large-patch14": "scienceqa",
}
# What names the models whose commands are run, and the commands that are only parsed, because their own tests run them.
RUN = """llava-internlm-7b llava/internlm/ phi-3-mini llava/phi3/ iter_39620 v1.5-7b-start v1.5-7b-phase llava/cerebras/
phase_1 phase_2 13b-scienceqa llava/scienceqa/ llava-13b-v0-start""".split()
NOT_RUN = ("llava", "serve", "review", "summarize")


def lines_of(language: str) -> list[str]:
    """Return the commands of a language's blocks, each on one line."""
    text = PAGE.read_text(encoding="utf-8")
    joined = "".join(code for name, code in FENCED.findall(text) if name == language).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip()]


def parts_of(line: str) -> tuple[str, list[str]]:
    """Return the command and the words of a line of ours, with scripts as the commands that they run."""
    words = [VARIABLES.get(word, word) for word in shlex.split(line, comments=True) if "=sk-" not in word]
    if words[0] == "paddlemix":
        return words[1], words[2:]
    place = next(index for index, word in enumerate(words) if word.endswith(".py"))
    source = (ROOT / words[place]).read_text(encoding="utf-8")
    name, given = re.search(r'run_command\("([\w-]+)", (.*)\)', source).groups()
    return name, [*re.findall(r'"([^"]+)"', given), *words[place + 1 :]]


OURS = [line for line in lines_of("bash") if not line.startswith("pip ")]


@pytest.mark.parametrize("line", OURS)
def test_command_is_valid(line):
    name, words = parts_of(line)
    parsed = command_parser(name).parse(words)
    if name in STAGES:
        _, data, _ = arguments.parse({**read_values(parsed.settings), "device": "cpu", "output_dir": "out"})
        assert data.dataset and (ROOT / parsed.settings[0]).is_file()


def test_every_recipe_is_in_a_command_or_named():
    text = PAGE.read_text(encoding="utf-8")
    for path in (ROOT / "paddlemix/config/llava").glob("*/recipe_*.json"):
        if not path.parent.name.startswith("v1_"):
            assert f"{path.parent.name}/{path.name}" in text


def test_settings_in_the_seeds_commands_are_ours_or_answered_with_ours():
    known = set().union(*(arguments._field_types(cls) for cls in arguments.SETTINGS)) | arguments.WITHOUT_EFFECT
    runs = [line for line in lines_of("sh") if re.search(r"train_mem\.py|xtuner train|run\.py", line)]
    flags = {flag.replace("-", "_") for line in runs for flag in re.findall(r" --([\w-]+)", line)}
    assert len(runs) >= 9 and len(flags) > 30
    assert flags - {"nnodes", "nproc_per_node", "master_port"} <= known | FOREIGN.keys()


def test_message_in_the_page_is_that_of_the_package():
    command, message = FENCED.search(PAGE.read_text(encoding="utf-8"))[2].strip().split("\nerror: ")
    with pytest.raises(ValueError, match=re.escape(message)):
        arguments.parse(read_values(shlex.split(command)[3:]))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Return a folder with tiny models under the names of the page, rows, an image and questions."""
    folder = linked_folder(tmp_path_factory.mktemp("seeds"))
    for name, family in MODELS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(tiny_model(family))
    tiny_folder.write_rows(folder / "data", kinds="1")
    tiny_folder.write_captions(folder / "data")
    (folder / "data/LLaVA-Pretrain").mkdir()
    (folder / "data/LLaVA-Pretrain/images").symlink_to(folder / "data")  # of the recipe on HDF5 files
    tiny_folder.save_image(folder / "image.png", 1)
    write_mmbench(folder / "mmbench")
    return folder


def write_mmbench(folder) -> None:
    """Write a question of MMBench's TSV."""
    file = io.BytesIO()
    tiny_folder.random_image(1).save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    head = "index\tquestion\thint\tA\tB\tcategory\tl2-category\timage\tanswer\tsplit"
    row = f"1\tWhat is this?\t\tred\tblue\tcolor\tperception\t{image}\tA\tdev"
    folder.mkdir()
    (folder / "MMBench_DEV_EN.tsv").write_text(f"{head}\n{row}\n", encoding="utf-8")


def tiny_words(name: str, words: list[str]) -> list[str]:
    """Return the words of a command with what a tiny run changes: sizes, and the rows of a run on raw files."""
    is_raw = "cerebras" not in " ".join(words)
    stage = "pretrain" if name == "pretrain" or "pretrain" in words else "sft"
    dataset = ["--dataset", f"data/{STAGES[stage]}"] if is_raw else []
    if name == "prepare":
        return [*words, *TINY[:2], *dataset, "--workers", "1"] if words[0] == "cache" else words
    return [*words, *TINY, *STEP, *dataset] if name in STAGES else words


def test_commands_for_models_run_in_the_order_of_the_page(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(cli, "prepare_environment", lambda device: {})  # it would stay set in later tests
    number = 0
    for line in OURS:
        name, words = parts_of(line)
        if not any(part in line for part in RUN) or name.startswith(NOT_RUN) or words[0] == "scienceqa":
            continue
        if "xtuner/llava-internlm-7b" in line and not (workspace / "xtuner").exists():
            (workspace / "xtuner").mkdir()
            shutil.copytree("checkpoints/llava-internlm-7b-xtuner", "xtuner/llava-internlm-7b")
        monkeypatch.setattr(sys, "stdin", io.StringIO("What is this?\n"))
        words += ["--max-new-tokens", "4"] if name in ("chat", "eval") else []
        code = cli.run_command(name, tiny_words(name, words))
        assert code in (0, None), (line, capsys.readouterr())
        number += 1
    assert number >= 20
    for name in ("", "projector/", "visual_encoder/"):  # the tower's adapter is merged, as by xtuner's --is-clip
        assert (workspace / f"checkpoints/llava-internlm-7b-xtuner/{name}config.json").is_file()
    for folder in ("results", "results-phi-3"):
        assert json.loads((workspace / folder / "scores.json").read_text())["mmbench_en_dev"]
    for folder in ("iter_39620_llava", "iter_39620_hf", "checkpoints/llava-v1.5-7b-phase-2-official"):
        assert (workspace / folder / "config.json").is_file()
