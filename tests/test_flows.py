"""CONTRIBUTING's page "How it flows" names the files of each way in the order in which they first run."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from paddlemix import ChatSession, LlavaForConditionalGeneration, LlavaProcessor

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "paddlemix"
TINY = PACKAGE / "examples/llava/tiny"
FILE = re.compile(r"`([a-z_0-9/]+\.py)`")
# Not stops on a way: operations, devices, printing and JSON rules, whose names say it all, and the types of values.
LEFT_OUT = (
    "ops/",
    "models/cpu/",
    "models/parallel/",
    "terminal/",
    "device.py",
    "json_object.py",
    "foreign_json.py",
    "output.py",
)
LEFT_OUT += ("conversation/messages.py", "conversation/templates.py", "image/spec.py", "data/row.py")
CONVERSION = ("checkpoints/", "tensor_files/")  # configurations and tokenizers are values there
MAX_STEPS = 10


def page() -> dict[str, str]:
    """Return the parts of "How it flows" by their titles."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    flows = text.partition("## How it flows\n")[2].partition("\n## ")[0]
    parts = flows.split("\n### ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}


def files_that_run(action: Callable[[], object]) -> list[str]:
    """Return the files of the package that run during an action, in the order of their first calls."""
    files: dict[str, None] = {}

    def note(frame, event, argument):
        name = frame.f_code.co_filename
        if event == "call" and frame.f_code.co_name != "<module>" and name.startswith(f"{PACKAGE}/"):
            files.setdefault(name.removeprefix(f"{PACKAGE}/"))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return [name for name in files if not name.startswith(LEFT_OUT)]


def chat_turn(folder: Path) -> Callable[[], object]:
    model = LlavaForConditionalGeneration.from_pretrained(TINY / "model", device="cpu")
    session = ChatSession(model, LlavaProcessor.from_pretrained(TINY / "model"))
    return lambda: session.ask("How many shapes are there?", [TINY / "shapes.png"])


def conversion(folder: Path) -> Callable[[], object]:
    from paddlemix.checkpoints.convert import convert

    return lambda: convert(TINY / "model", folder / "converted", "paddlemix")


def row_to_loss(folder: Path) -> Callable[[], object]:
    """Return the function that computes the loss of the first batch of a run."""
    from paddlemix.train.arguments import parse
    from paddlemix.train.run import build

    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A circle."}]
    shutil.copy(TINY / "shapes.png", folder)
    rows = [{"id": str(number), "image": "shapes.png", "conversations": turns} for number in range(2)]
    (folder / "rows.json").write_text(json.dumps(rows))
    values = {"model_name_or_path": str(TINY / "model"), "dataset": str(folder / "rows.json")}
    values |= {"output_dir": str(folder / "out"), "device": "cpu", "max_steps": 1, "do_train": True}
    trainer = build(parse({**values, "report_to": "none"}), template=None, config_folder=None)
    loader = iter(trainer.get_train_dataloader())
    return lambda: trainer.compute_loss(trainer.model, trainer._prepare_inputs(next(loader)))


@pytest.mark.parametrize(
    ("flow", "prepare", "rooms", "max_files"),
    [
        ("A row to its loss", row_to_loss, "", 25),
        ("A turn of a chat", chat_turn, "", 32),
        ("A conversion", conversion, CONVERSION, 33),
    ],
)
def test_the_page_names_the_files_of_a_flow_in_order_and_no_others(flow, prepare, rooms, max_files, tmp_path):
    text = page()[flow]
    named = FILE.findall(text)
    assert named == [name for name in files_that_run(prepare(tmp_path)) if name.startswith(rooms)]
    assert len(named) <= max_files
    assert sum(line.startswith(tuple("123456789")) for line in text.splitlines()) <= MAX_STEPS
