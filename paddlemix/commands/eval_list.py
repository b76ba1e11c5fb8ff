"""`paddlemix eval list`: the benchmarks that can be run, with their files, prompts and rules."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap

from .parser import add_examples

NAME_WIDTH = 22


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "task", nargs="*", metavar="TASK", help="show all of these benchmarks (default: a line of each)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_examples(parser, "paddlemix eval list pope")


def run(arguments: argparse.Namespace) -> int:
    """Print the benchmarks. Raises ValueError for an unknown one."""
    from ..evaluate.tasks import ALIASES, TASKS, task_of

    tasks = [task_of(name) for name in arguments.task] or list(TASKS.values())
    facts = {task.name: _facts(task, ALIASES) for task in tasks}
    if arguments.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    elif arguments.task:
        print("\n\n".join("\n".join(map(_wrapped, _described(name, one))) for name, one in facts.items()))
    else:
        width = max(shutil.get_terminal_size().columns, 60)
        for name, one in facts.items():
            lines = textwrap.wrap(one["description"], width - NAME_WIDTH - 1)
            print(f"{name:<{NAME_WIDTH}} {lines[0]}", *(" " * (NAME_WIDTH + 1) + line for line in lines[1:]), sep="\n")
        end = "`paddlemix eval list TASK` shows the files that a benchmark is read from, its prompts and its rules."
        print("", *textwrap.wrap(end, width), sep="\n")
    return 0


def _facts(task, aliases) -> dict:
    return {
        "description": task.description,
        "also called": sorted(name for name, other in aliases.items() if other == task.name),
        "files": task.expected().split("; or "),
        "folders": [f"{name}/" for name in (task.name, *task.folders)],
        "prompt styles": list(task.styles),
        "rules": [task.rule, *(rule for rule in task.scorer.rules if rule != task.rule)],
        "judge": "needed" if task.has_judge else "none",
        "submission": task.submission_name or "none",
    }


def _wrapped(line: str) -> str:
    """Return a line as lines that fit on the terminal; those after the first stand further right. Names stay whole."""
    indent = " " * (len(line) - len(line.lstrip()))
    width = max(shutil.get_terminal_size().columns, 60)
    wrap = textwrap.TextWrapper(
        width,
        initial_indent=indent,
        subsequent_indent=indent + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrap.fill(line.strip())


def _described(name: str, facts: dict) -> list[str]:
    lines = [f"{name}: {facts['description']}"]
    for key, value in facts.items():
        if key == "description" or not value:
            continue
        if key == "files":
            lines += [f"  files, in --data-dir or one of its folders {', '.join(facts['folders'])}:"]
            lines += [f"    {'or ' if number else ''}{one}" for number, one in enumerate(value)]
        elif key != "folders":
            text = ", ".join(value) if isinstance(value, list) else value
            lines.append(
                f"  {key}{' (the first is the default)' if len(value) > 1 and key in _ORDERED else ''}: {text}"
            )
    return lines


_ORDERED = ("prompt styles", "rules")
