"""One training run from a command line: what pretrain.py and supervised_finetune.py both do."""

from __future__ import annotations

import contextlib
import functools
import gc
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ..accelerators import explained
from ..device import prepare_environment
from ..terminal.interrupts import Preempted, kept_interrupts, raised_terminations
from ..terminal.log import complain, notice
from ..terminal.streams import standard_streams
from .config_file import convert, read_values

NO_MODEL = "model_name_or_path is missing: name the folder of the model to start from"
STOPPED = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended
USAGE = """usage: {script} config.json [--key value ...]
       {script} --key value ...

Keys are those of the shipped files in paddlemix/config/llava/ and of paddlenlp's TrainingArguments; a flag overrides
the file. Needed are model_name_or_path, dataset and output_dir. With --dry-run everything is checked as by `paddlemix
doctor`, one step is tried, and nothing is trained.
"""


def main(argv: list[str], *, script: str, template: str | None) -> int:
    """Run with a command line; print a user's mistake as one line and return 1. template: None for the model's own."""
    try:
        with kept_interrupts(), standard_streams(), explained():
            if not argv or argv[0] in ("-h", "--help"):
                print(USAGE.format(script=script))
                return 0 if argv else 2
            return _run(argv, template)
    except BrokenPipeError:  # before OSError, which it is too
        return 1
    except (ValueError, OSError) as error:
        complain(error)
        return 1
    except Preempted as stop:
        gc.freeze()  # as below
        print(f"{stop}; without overwrite_output_dir the same command goes on from there", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        gc.freeze()  # before it ends, Python would look through all of paddle's objects, for seconds
        print(
            "stopped; without overwrite_output_dir the same command goes on from the last checkpoint", file=sys.stderr
        )
        return 130


def _run(argv: list[str], template: str | None) -> int:
    values = read_values(argv)
    device = values.get("device")
    prepare_environment(device if isinstance(device, str) else None)  # what is no text is refused further down
    with raised_terminations(lambda: import_module(f"{__package__}.arguments")):
        return _act(argv, values, template)


def _act(argv: list[str], values: dict[str, Any], template: str | None) -> int:
    if convert("dry_run", values.pop("dry_run", False), bool):
        return _diagnose(values, template, _config_folder(argv))
    train(values, template=template, config_folder=_config_folder(argv))
    return 0


def _config_folder(argv: list[str]) -> Path | None:
    return None if argv[0].startswith("--") else Path(argv[0]).resolve().parent


def _diagnose(values: dict[str, Any], template: str | None, config_folder: Path | None) -> int:
    from ..doctor.report import show
    from ..doctor.run_checks import diagnose

    diagnosis = diagnose(values, template=template, config_folder=config_folder)
    show(diagnosis, is_json=False)
    return int(diagnosis.has_failed)


def train(values: dict[str, Any], *, template: str | None, config_folder: Path | None) -> None:
    """Load, train, evaluate and save. Raises ValueError for a user's mistake."""
    from ..hub.hub import resolve
    from .arguments import parse
    from .parallel import together
    from .run_folder import claimed
    from .settings import check_work

    settings = parse(values)
    model_args, _, args = settings
    check_work(args.do_train, args.do_eval)
    if not model_args.model_name_or_path:
        raise ValueError(NO_MODEL)
    sources = [Path(resolve(model_args.model_name_or_path))]
    sources += [Path(model_args.lora_path)] if model_args.lora_path else []
    place = claimed(args.output_dir, sources, is_overwriting=args.overwrite_output_dir)
    with contextlib.ExitStack() as stack:
        # One process looks and writes; the others would meet what it is just writing.
        together(lambda: stack.enter_context(place) if args.process_index == 0 else None, args.world_size)
        execute(build(settings, template=template, config_folder=config_folder), args, values)


def build(settings, *, template: str | None, config_folder: Path | None, choose: Callable | None = None):
    """Return the trainer of parsed settings, its model and rows read. choose: see `read_data`."""
    import paddle

    from ..checkpoints.load import load_model
    from ..checkpoints.processor import LlavaProcessor
    from ..checkpoints.source import open_source
    from ..data.bad_rows import BadRowPolicy
    from ..hub.hub import resolve
    from ..models.quantized import describe
    from .callbacks import own_reporters
    from .data_sets import read_data
    from .finite import check_weights
    from .freeze import freeze_as_told, report
    from .tally import RowTally
    from .trainer import LlavaTrainer

    model_args, data_args, args = settings
    home = str(resolve(model_args.model_name_or_path))
    quantization = chosen_quantization(model_args, home)
    source = open_source(home)
    processor = LlavaProcessor.from_source(source)
    template = model_args.conv_mode or model_args.version or template
    tally = RowTally(args.output_dir, BadRowPolicy(data_args.on_bad_sample, data_args.max_bad_samples))
    teacher = processor.with_template(template) if template else processor
    data = read_data(teacher, data_args, args, config_folder, tally, choose=choose)
    dtype = weight_dtype(args)
    model = load_model(source, dtype=dtype, device=args.device, quantization=quantization)
    freeze_as_told(model, model_args)
    if model_args.neftune:
        model.neftune_alpha = model_args.neftune_noise_alpha
    model.train()
    wrapped = model
    if model_args.lora:
        from .lora import add_lora

        paddle.seed(args.seed)
        wrapped = add_lora(model, model_args, dtype, base=home)
    check_weights(wrapped, f"{home} with {model_args.lora_path}" if model_args.lora_path else home)
    print(report(model.named_parameters()), flush=True)
    if quantization:
        notice(describe(model))
    if all(parameter.stop_gradient for parameter in model.parameters()):
        raise ValueError("nothing would train: freeze_include and freeze_exclude freeze every parameter")
    describe = functools.partial(_describe, settings, home, wrapped, data, quantization)
    args.report_to, reporters = own_reporters(args.report_to)
    try:
        trainer = LlavaTrainer(processor=processor, model=wrapped, args=args, tally=tally, data=data, describe=describe)
    except RuntimeError as error:  # what paddlenlp raises for a service without its package
        if "installed" not in str(error):
            raise
        raise ValueError(f"report_to is {', '.join(args.report_to)}: {error}") from error
    for reporter in reporters:
        trainer.add_callback(reporter)
    return trainer


def _describe(settings, home: str, wrapped, data, quantization: str | None) -> dict[str, Any]:
    """Return what a checkpoint of this run will be known by."""
    from ..data.packed_rows import PackedRows
    from .run_facts import describe_run

    rows = data.train.rows.rows if isinstance(data.train, PackedRows) else data.train.rows
    return describe_run(
        settings,
        home=Path(home),
        trained=[name for name, parameter in wrapped.named_parameters() if not parameter.stop_gradient],
        template=data.teacher.template.name,
        files=dict.fromkeys(row.file for row in rows),
        num_rows=len(rows),
        quantization=quantization,
    )


def chosen_quantization(model_args, home: str) -> str | None:
    """Return how the base's weights are held, None for floats. Raises ValueError for what cannot train like that."""
    from ..checkpoints.source import partial_layout
    from ..ops.quantize import choose_kind

    kind = choose_kind(model_args.load_in_8bit, model_args.load_in_4bit)
    if kind is None:
        return None
    if not model_args.lora:
        raise ValueError(
            f"load_in_{'8' if kind == 'int8' else '4'}bit holds weights in {kind}, which cannot be trained: set lora: "
            "true to train an adapter over them, or leave it out"
        )
    trained = partial_layout(home)
    if trained is not None:
        raise ValueError(
            f"{home} is {trained.title}: over {kind} weights start from its base, with lora_path to go on from an "
            "adapter, or from what `paddlemix merge` makes of it"
        )
    return kind


def weight_dtype(args) -> str:
    """Return the dtype of the weights: half only with fp16_opt_level O2, as in PaddleMIX."""
    if args.fp16_opt_level != "O2":
        return "float32"
    return "float16" if args.fp16 else "bfloat16"


def execute(trainer, args, settings: dict[str, Any] | None = None) -> None:
    """Train (going on from a checkpoint where there is one), save the result, evaluate.

    settings: what train_results.json tells of the command. Raises Preempted.
    """
    from .saving import FINISHED, save_result, start_of

    if args.do_train:
        checkpoint = start_of(trainer, args)
        if checkpoint == FINISHED:
            _evaluate_result(trainer, args)
            return
        if checkpoint is not None:
            notice(f"going on from {checkpoint}")
        result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if trainer.stop_request.was_followed:
            raise Preempted(f"stopped by SIGTERM after step {trainer.state.global_step}, with a checkpoint")
        trainer.log_metrics("train", result.metrics)
        save_result(trainer, result.metrics, settings)
    if args.do_eval:
        _evaluate(trainer)


def _evaluate(trainer) -> None:
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


def _evaluate_result(trainer, args) -> None:
    """Evaluate the result of a finished run that ended before it had been."""
    from .saving import EVAL_RESULTS, finished_step

    if args.do_eval and not (Path(args.output_dir) / EVAL_RESULTS).is_file():
        trainer.state.global_step, _ = finished_step(args.output_dir)
        trainer._load_from_checkpoint(args.output_dir)
        _evaluate(trainer)
