"""One training run from its raw settings to its result: load, train, save and evaluate."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle

from ..checkpoints.layouts.components import EMBEDDING
from ..checkpoints.load import load_model
from ..checkpoints.processor import LlavaProcessor
from ..checkpoints.source import Source, open_source, partial_layout, read_config
from ..conversation.templates import IMAGE_MARKS
from ..data.row import Row
from ..hub.resolve import resolve
from ..models.config import LlavaConfig
from ..models.parallel.cuts import mark_cut
from ..models.quantized import describe
from ..ops.quantize import choose_kind
from ..terminal.interrupts import Preempted
from ..terminal.log import notice
from ..terminal.visible import visible
from .arguments import RunArguments, parse, typed
from .callbacks import SWANLAB, SwanLab
from .data_sets import read_data
from .freeze import freeze_parameters, report, trained_names, trains_marks
from .lora import add_lora
from .node_folders import check_folders
from .processes import fail_together
from .progress import Progress
from .results import EVAL_RESULTS, draw_losses, write_evaluation
from .resume import FINISHED, find_start, finished_step, num_done_steps, recorded_epoch
from .run_facts import describe_run
from .run_folder import claim_folder, last_checkpoint, log_name
from .saving import save_result
from .screen import show_end, show_settings, show_steps
from .settings import check_work
from .stages import check_start
from .tally import RowTally
from .task_runs import defined
from .tensor_parallel import cards_of
from .trainer import LlavaTrainer
from .watch import check_weights


def train(
    values: dict[str, Any],
    *,
    template: str | None,
    config_folder: Path | None,
    begin: Callable[[Path], None] | None = None,
) -> None:
    """Run with raw settings. Raises ValueError for a user's mistake.

    template: None for the model's own. begin: called with the path for what libraries print, before the run writes.
    """
    settings = parse(values)
    model_args, _, args = settings
    check_work(args.do_train, args.do_eval)
    sources = [find_model(model_args, config_folder)]
    sources += [Path(model_args.lora_path)] if model_args.lora_path else []
    claim = claim_folder(args.output_dir, sources, is_overwriting=args.overwrite_output_dir)
    with contextlib.ExitStack() as stack:
        # Only the first process looks at the folder: the others would find what it is writing.
        fail_together(lambda: stack.enter_context(claim) if args.process_index == 0 else None, args.world_size)
        check_folders(args)
        if args.process_index == 0:
            show_settings(settings, values)
        trainer = build(settings, template=template, config_folder=config_folder)
        text = read_config(sources[0]).untrained_text
        # Stage 1, whose template is plain, is there to train them.
        if text and args.process_index == 0 and trainer.data.train_processor.template.name != "plain":
            notice(text)
        execute(trainer, args, typed(values), begin)


def find_model(model_args, config_folder: Path | None) -> Path:
    """Return the folder of the model to start from, downloaded if needed.

    Raises ValueError if none is named, or for the result of an earlier stage that has not run.
    """
    if not model_args.model_name_or_path:
        raise ValueError("model_name_or_path is missing: name the folder of the model to start from")
    check_start(model_args.model_name_or_path, config_folder)
    return Path(resolve(model_args.model_name_or_path))


def build(
    settings: RunArguments, *, template: str | None, config_folder: Path | None, rows: list[Row] | None = None
) -> LlavaTrainer:
    """Return the trainer of parsed settings, with its model loaded and its rows read. rows: as in `read_data`."""
    model_args, data_args, args = settings
    folder = find_model(model_args, config_folder)
    source = open_source(folder)
    _check_marks(model_args, folder, source.config)
    quantization = choose_quantization(model_args, folder, source.config)
    processor = LlavaProcessor.from_source(source)
    is_writer = args.process_index == 0
    tally = RowTally(args.output_dir, data_args.policy, num_processes=args.world_size, is_writer=is_writer)
    train_processor = processor_to_train(processor, model_args, template)
    data = read_data(train_processor, data_args, args, config_folder, tally, rows=rows)
    model = _load_to_train(source, model_args, args, quantization, processor)
    describe_this = functools.partial(describe_run, settings, folder, model, data, quantization)
    reporters = [SwanLab()] if SWANLAB in args.report_to else []
    args.report_to = [name for name in args.report_to if name != SWANLAB]
    try:
        trainer = LlavaTrainer(
            processor=processor,
            model=model,
            args=args,
            tally=tally,
            data=data,
            describe=describe_this,
            frozen=source.tensors if quantization else None,
        )
    except RuntimeError as error:  # raised by paddlenlp for a service whose package is not installed
        if "installed" not in str(error):
            raise
        raise ValueError(f"report_to is {', '.join(args.report_to)}: {error}") from error
    for reporter in reporters:
        trainer.add_callback(reporter)
    return trainer


def _check_marks(model_args, folder: Path, config: LlavaConfig) -> None:
    """Raise ValueError if a setting contradicts the model about marks around an image."""
    asked = model_args.mm_use_im_start_end
    if asked and not config.has_image_marks:
        raise ValueError(
            f"mm_use_im_start_end is true, but {folder} has no marks around an image: make a start that has them, "
            "`paddlemix compose --image-marks ...`, or leave the setting out"
        )
    if asked is False and config.has_image_marks:
        raise ValueError(
            f"mm_use_im_start_end is false, but {folder} has {' and '.join(IMAGE_MARKS)} around each image: leave the "
            "setting out, or compose a start without --image-marks"
        )


def processor_to_train(processor: LlavaProcessor, model_args, template: str | None) -> LlavaProcessor:
    """Return a processor with the chat template that a run trains. template: if the settings name none."""
    template = model_args.conv_mode or model_args.version or template
    return processor.with_template(template) if template else processor


def _load_to_train(source: Source, model_args, args, quantization: str | None, processor: LlavaProcessor):
    """Load a model, choose its trainable parameters, and add adapters to it if the settings ask for them."""
    dtype = weight_dtype(args)
    folder = source.path
    model = load_model(source, dtype=dtype, device=args.device, quantization=quantization, cards=cards_of(args))
    freeze_parameters(model, model_args)
    if trains_marks(model.config, model_args):
        model.only_trained_ids = tuple(map(processor.tokenizer.special_id, IMAGE_MARKS))
    if model_args.neftune:
        model.neftune_alpha = model_args.neftune_noise_alpha
    model.train()
    wrapped = model
    if model_args.lora:
        paddle.seed(args.seed)
        wrapped = add_lora(model, model_args, dtype, base=str(folder))
    if model.cards is not None:
        mark_cut(model)
    check_weights(wrapped, f"{folder} with {model_args.lora_path}" if model_args.lora_path else str(folder))
    print(report(model.named_parameters()), flush=True)
    if quantization:
        notice(describe(model))
    if all(parameter.stop_gradient for parameter in model.parameters()):
        raise ValueError("no parameter is trainable: freeze_include and freeze_exclude freeze every parameter")
    return wrapped


def choose_quantization(model_args, folder: Path, config: LlavaConfig) -> str | None:
    """Return the kind of quantization for the base, None for none. Raises ValueError where it cannot be trained."""
    kind = choose_kind(model_args.load_in_8bit, model_args.load_in_4bit)
    if kind is None:
        return None
    partial = partial_layout(folder)
    if partial is not None:
        raise ValueError(
            f"{folder} is {partial.title}: to train on {kind} weights, start from its base, with lora_path to continue "
            "from an adapter, or from the output of `paddlemix merge`"
        )
    if not model_args.lora:
        _check_decoder_is_frozen(config, model_args)
    return kind


def _check_decoder_is_frozen(config: LlavaConfig, model_args) -> None:
    """Raise ValueError if settings train a weight of a decoder that is to be quantized. Needs no weights."""
    trained = [name for name in trained_names(config, model_args) if name.startswith("language_model.")]
    if trains_marks(config, model_args):
        trained = [name for name in trained if name != EMBEDDING]  # which is not quantized
    if trained:
        key, kind = ("load_in_8bit", "int8") if model_args.load_in_8bit else ("load_in_4bit", "nf4")
        raise ValueError(
            f"{key} quantizes the decoder's weights to {kind}, which cannot be trained, and these settings train "
            f"{len(trained)} of its tensors: set lora: true to train an adapter over them, tune_mm_mlp_adapter: true "
            f"to train the projector only, or leave {key} out"
        )


def weight_dtype(args) -> str:
    """Return the dtype of the weights: half precision only with fp16_opt_level O2, as in PaddleMIX."""
    if args.fp16_opt_level != "O2":
        return "float32"
    return "float16" if args.fp16 else "bfloat16"


def execute(
    trainer: LlavaTrainer, args, values: dict[str, Any] | None = None, begin: Callable[[Path], None] | None = None
) -> None:
    """Train, resuming from a checkpoint if there is one, save the result, and evaluate.

    values: the settings that were given, for train_results.json. begin: see `train`. Raises Preempted.
    """
    checkpoint = find_start(trainer, args) if args.do_train else None
    if checkpoint == FINISHED:
        _evaluate_result(trainer, args)
        return
    log = Path(args.output_dir) / log_name(args.process_index)
    if begin is not None and log.parent.is_dir():  # of several machines, not all may have the folder
        begin(log)
        if trainer.is_world_process_zero():
            print(visible(f"log: {log} (what libraries print)"), flush=True)
    progress = _show_progress(trainer, is_alone=begin is not None)
    metrics = {}
    try:
        if args.do_train:
            _train(trainer, checkpoint, values)
        if args.do_eval:
            metrics = _evaluate(trainer)
    finally:
        progress.close()
    if trainer.is_world_process_zero():
        show_end(trainer, metrics)


def _show_progress(trainer: LlavaTrainer, is_alone: bool) -> Progress:
    """Let the first process show the steps. is_alone: nothing else is printed, so that a bar can stay in its place."""
    args = trainer.args
    progress = Progress(trainer, has_bar=is_alone and sys.stdout.isatty() and not args.disable_tqdm)
    if trainer.is_world_process_zero():
        trainer.add_callback(progress)
        if args.do_train:
            show_steps(trainer, weight_dtype(args))
    return progress


def _train(trainer: LlavaTrainer, checkpoint: Path | None, values: dict[str, Any] | None) -> None:
    """Train from a checkpoint, None for the model, and save the result."""
    if checkpoint is not None:
        notice(f"resuming from {checkpoint}")
    result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.stop_request.was_followed:
        raise Preempted(f"stopped by SIGTERM after step {trainer.state.global_step}, with a checkpoint")
    trainer.log_metrics("train", result.metrics)
    save_result(trainer, result.metrics, values)


def _evaluate(trainer: LlavaTrainer) -> dict[str, Any]:
    """Evaluate the result, write the metrics, and return them."""
    metrics, args = trainer.evaluate(), trainer.args
    trainer.log_metrics("eval", defined(metrics))
    if not trainer.is_world_process_zero():
        return metrics
    output_dir = Path(args.output_dir)
    if not args.load_best_model_at_end:  # the result is of an earlier step than the last point of the plot
        draw_losses(output_dir, trainer.history.values, trainer.data.main_metrics)
    write_evaluation(output_dir, metrics, trainer.task_metrics if args.do_train else {})
    return metrics


def _evaluate_result(trainer: LlavaTrainer, args) -> None:
    """Evaluate the result of a finished run that was stopped before its evaluation."""
    if args.do_eval and not (Path(args.output_dir) / EVAL_RESULTS).is_file():
        trainer.state.global_step, _ = finished_step(args.output_dir)
        trainer.state.epoch = recorded_epoch(args.output_dir)
        checkpoint = last_checkpoint(args.output_dir)
        if checkpoint is not None and num_done_steps(checkpoint, args) == trainer.state.global_step:
            trainer.history.read(checkpoint)  # for the plot
        trainer._load_from_checkpoint(args.output_dir)
        _evaluate(trainer)
