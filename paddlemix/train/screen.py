"""What a run shows before its first step and at its end: settings, steps, losses, and the commands that come next."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paddlenlp.peft import LoRAModel

from ..data.dataset import PackedRows
from ..data.encode import find_image
from ..data.mixture import SPLITS, parse_entries
from ..image.load import ImageError
from ..terminal.columns import padded
from ..terminal.next_steps import end_of_command, hanging, near, this_command
from ..terminal.sizes import in_time, plural
from ..terminal.visible import visible_line
from .arguments import RunArguments
from .config_file import plain
from .data_sets import DataSets
from .progress import evaluated
from .results import PLOT
from .run_facts import samples_per_step

NOT_SHOWN = ("do_train",)  # it is usual


def show_settings(settings: RunArguments, values: Mapping[str, Any]) -> None:
    """Print a line for each setting that the user gave and that is not the default. values: the raw settings."""
    rows = [row for key, given in values.items() for row in _rows(key, given, settings)]
    if not rows:
        return
    width = max(len(key) for key, _ in rows) + 2
    lines = [line for key, text in rows for line in hanging(f"  {padded(key, width)}", visible_line(text))]
    print("\n".join(["settings that are not the default:", *lines]), flush=True)


def _rows(key: str, given: Any, settings: RunArguments) -> Iterator[tuple[str, str]]:
    """Yield the names and values to show of a key, none for a default. given: the value as the user wrote it."""
    owner = next((one for one in settings if key in vars(one)), None)
    if owner is None or key in NOT_SHOWN:
        return
    if key == "do_eval" and settings.training.evaluation_strategy.value != "no":
        return  # evaluation_strategy is shown, and evaluates whatever do_eval says
    value = plain(vars(owner)[key])
    if value == _default(owner, key):
        return
    if key == "dataset":
        entries = {split: parse_entries(value, split) for split in SPLITS}
        for split in filter(entries.get, entries):
            yield f"dataset, {split}", ", ".join(file for entry in entries[split] for file in entry.data_files)
    else:
        yield key, given if isinstance(given, str) else _short(given)


def _default(owner: Any, key: str) -> Any:
    field = next(one for one in dataclasses.fields(owner) if one.name == key)
    has_factory = field.default_factory is not dataclasses.MISSING
    return plain(field.default_factory() if has_factory else field.default)


def _short(value: Any) -> str:
    """Return a value in one line; a list of texts without brackets and quotes."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def show_steps(trainer, dtype: str) -> None:
    """Print how much a run trains, and on what. dtype: of the weights."""
    args, data = trainer.args, trainer.data
    num_each = samples_per_step(args)
    num_steps = trainer.num_steps()
    is_cut = args.max_steps > 0
    epochs = f"{num_steps * num_each / max(len(data.train), 1) if is_cut else args.num_train_epochs:.3g}"
    of_what = "packed row" if isinstance(data.train, PackedRows) else "row"
    where = args.device if args.world_size <= 1 else f"{args.world_size} processes ({args.device})"
    computed = next((name for name, is_on in (("float16", args.fp16), ("bfloat16", args.bf16)) if is_on), dtype)
    print(
        f"steps: {num_steps:,} of {plural(num_each, of_what)} ({epochs} epoch{'' if epochs == '1' else 's'}), on "
        f"{where} in {computed}",
        flush=True,
    )


def show_end(trainer, metrics: Mapping[str, Any]) -> None:
    """Print where the result is, how the losses went, and what to do next. metrics: of the last evaluation."""
    output_dir, is_adapter = Path(trainer.args.output_dir), isinstance(trainer.model, LoRAModel)
    rows = []
    if trainer.args.do_train:
        rows += [("trained", _trained(trainer)), *_losses(trainer)]
    evaluation = evaluated(metrics, trainer.data.main_metrics)
    if "eval_loss" in metrics:
        evaluation[0] += _best_evaluation(trainer)
    rows += [("evaluation", ", ".join(evaluation))] if evaluation else []
    rows += [("result", f"{output_dir} ({'a LoRA adapter, which names its base' if is_adapter else 'a whole model'})")]
    rows += [("plot", str(output_dir / PLOT))] if (output_dir / PLOT).is_file() else []
    print("\n" + end_of_command(rows, next_commands(trainer, is_adapter)), flush=True)


def _trained(trainer) -> str:
    """Return the steps of this run, and the same time and speed as train_results.json has."""
    num_steps = trainer.state.global_step - trainer.num_done_steps
    speed = trainer.meter.overall()["tokens_per_second"] if num_steps else 0.0
    skipped = trainer.tally.metrics("train")["train_skipped_rows"]
    parts = [f"{plural(num_steps, 'step')} in {in_time(trainer.meter.seconds)}"]
    parts += [f"{speed:,.0f} tokens/s on average"] if speed else []
    parts += [f"{plural(skipped, 'row')} skipped ({trainer.tally.file})"] if skipped else []
    return ", ".join(parts)


def _losses(trainer) -> list[tuple[str, str]]:
    """Return the line of the logged losses: the first, the best and the last; of the steps' if nothing was logged."""
    found = trainer.history.values.get("loss")
    if not found:
        return [("loss", _unlogged(trainer))] if trainer.history.ends else []
    (start, first), (step, best), (_, last) = found[0], min(found, key=lambda pair: pair[1]), found[-1]
    return [("loss", f"{first:.4g} at step {start:,}, best {best:.4g} at step {step:,}, last {last:.4g}")]


def _unlogged(trainer) -> str:
    """Return the first and the last step's loss, and why there is no other."""
    (start, first), (step, last) = trainer.history.ends[0], trainer.history.ends[-1]
    every = trainer.args.logging_steps
    return f"{first:.4g} at step {start:,}, last {last:.4g} at step {step:,} (logging_steps is {every:,})"


def _best_evaluation(trainer) -> str:
    """Return the first and the best of several evaluation losses, to stand behind the last one."""
    found = dict(trainer.history.values.get("eval_loss", []))  # the last step may be evaluated twice
    if len(found) < 2:
        return ""
    step = min(found, key=found.get)
    return f" (first {next(iter(found.values())):.4g}, best {found[step]:.4g} after step {step:,})"


def next_commands(trainer, is_adapter: bool) -> list[tuple[str, str]]:
    """Return what can be done with the result: a word, and the command as it can be pasted into a shell."""
    output_dir = trainer.args.output_dir
    result, beside, command = shlex.quote(output_dir), output_dir.rstrip("/"), this_command()
    image = _first_image(trainer.data)
    about = f" --image-file {shlex.quote(image)}" if image else ""
    found = [("chat", f"{command} chat --model-path {result}{about}")]
    if trainer.data.train_processor.template.name == "plain":  # stage 1 trains captions, not conversations
        found += [("stage 2", f"{command} sft CONFIG.json --model_name_or_path {result}")]
    if is_adapter:
        found += [("merge", f"{command} merge --lora-path {result} --output {shlex.quote(beside + '_merged')}")]
    for task in trainer.data.tasks:
        data, output = shlex.quote(str(task.setting.data_dir)), shlex.quote(f"{beside}_{task.name}")
        run = f"{command} eval run {task.setting.task.name} --model-path {result} --data-dir {data} --output {output}"
        found += [("evaluate", run)]
    return found if trainer.data.tasks else [*found, ("evaluate", f"{command} eval list")]


def _first_image(data: DataSets) -> str | None:
    """Return the path of an image of the first row to evaluate on, else to train on, None without one."""
    if data.eval is None and data.train is None:  # benchmarks are answered without rows
        return None
    row = (data.train_rows if data.eval is None else data.eval.rows)[0]
    try:
        image = find_image(row.conversation.images[0], row.folders) if row.conversation.images else None
    except ImageError:
        return None
    return near(image) if isinstance(image, str) and os.path.isfile(image) else None
