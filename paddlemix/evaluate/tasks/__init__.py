"""The benchmarks that `paddlemix eval` knows: one table. task.py says what a task is.

To add one: a reader in ../readers if its files have a new form, a row in short_answers.py, choices.py or others.py, and
its prompts in ../prompts.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from . import choices, others, short_answers
from .task import Task

TASKS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for task in (*choices.TASKS, *short_answers.TASKS, *others.TASKS)}
)
# Names that papers and other tools use.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "mmbench": "mmbench_en_dev",
        "mmbench_cn": "mmbench_cn_dev",
        "mmbench_v11": "mmbench_en_dev_v11",
        "captions": "coco_captions",
        "refcoco": "refcoco_val",
        "refcocog": "refcocog_val",
        "seed_bench": "seed",
        "mm_vet": "mmvet",
        "sqa": "scienceqa",
    }
)


def task_of(name: str) -> Task:
    """Return the task of a name, in any case and with "-" for "_". Raises ValueError that names the nearest one."""
    plain = name.strip().lower().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain in TASKS:
        return TASKS[plain]
    near = difflib.get_close_matches(plain, (*TASKS, *ALIASES), n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ":"
    raise ValueError(f"unknown task {name!r}{hint} `paddlemix eval list` lists all tasks")
