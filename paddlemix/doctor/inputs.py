"""Checks of the inputs of a run: its settings, its model and its data."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.inspection import inspect
from ..checkpoints.processor import LlavaProcessor
from ..checkpoints.source import read_config
from ..data.bad_rows import BadRowPolicy
from ..data.entry_files import refuse_mistakes
from ..data.measure import RowFacts, measure_rows
from ..data.row import Row
from ..data.row_note import count_kinds, in_words
from ..data.trial_rows import check_images
from ..image.anyres import num_image_tokens, num_tiles
from ..models.config import LlavaConfig
from ..terminal.sizes import plural
from ..train.arguments import RunArguments
from ..train.eval_tasks import check_best_metric, load_tasks
from ..train.run import choose_quantization, find_model, processor_to_train
from ..train.run_facts import ENDINGS, samples_per_step
from ..train.run_folder import check_folder, last_checkpoint
from ..train.split import data_mistakes, measure_of, open_split
from .activations import Load
from .check import Check

MIN_MEASURED = 64  # rows to measure at least
# The usable ones among the first rows of a split with what was measured, in the order of `_longest_first`.
SampledRows = list[tuple[Row, RowFacts]]


@dataclass(frozen=True)
class RunModel:
    """The model that a run starts from. train_processor: encodes with the chat template that is trained."""

    folder: Path
    config: LlavaConfig
    train_processor: LlavaProcessor


def check_settings(check: Check, settings: RunArguments, num_cards: int, num_parts: int) -> None:
    """Report the kind of run that the parsed settings describe, and warn of what may surprise.

    num_cards: processes of the run. num_parts: cards that share a decoder and read the same rows.
    """
    model_args, _, args = settings
    kind = f"LoRA of rank {model_args.lora_rank}" if model_args.lora else "no adapters"
    batch = samples_per_step(args, num_cards // num_parts)
    processes = plural(num_cards, "process", "processes")
    check.say(f"{kind}; learning rate {args.learning_rate:g}; {plural(batch, 'sample')} a step on {processes}")
    check.values["global_batch_size"] = batch
    if not args.do_train:
        check.warn("do_train is false: nothing would be trained, only evaluated", 'set "do_train": true to train')
    previous = last_checkpoint(Path(args.output_dir))
    if previous is not None and not args.overwrite_output_dir:
        check.say(f"would resume from {previous}")


def check_model(
    check: Check, settings: RunArguments, template: str | None, config_folder: Path | None, *, is_plan: bool = False
) -> RunModel:
    """Inspect the model's folder without loading its weights. Raises ValueError if it cannot be used at all.

    is_plan: the run is for another machine, so that the weights need not be here.
    """
    model_args, data_args, args = settings
    folder = find_model(model_args, config_folder)
    check_folder(args.output_dir, [folder], is_overwriting=args.overwrite_output_dir)
    found = inspect(folder)
    if is_plan and folder.is_dir() and not any(path.suffix in ENDINGS for path in folder.iterdir()):
        check.say(f"{folder}: {found.format}; its weights are not here, which a plan does not need")
    else:
        check.say(f"{folder}: {found.format}, {plural(found.num_parameters, 'parameter')}")
        for problem in found.problems:
            check.fail(problem, f"paddlemix inspect {folder}")
    for note in found.notes:
        check.say(note)
    config = read_config(folder)
    choose_quantization(model_args, folder, config)
    positions = config.language.max_position_embeddings
    if data_args.max_length > positions:
        check.warn(
            f"max_length {data_args.max_length} is more than the {positions} positions of the model",
            f'set "max_length": {positions}',
        )
    return RunModel(folder, config, processor_to_train(LlavaProcessor.from_pretrained(folder), model_args, template))


def check_data(check: Check, settings: RunArguments, model: RunModel, config_folder: Path | None) -> SampledRows:
    """Read the files, measure the first rows and encode one, of each split; read the questions of eval_tasks.

    Return the rows of the first split, none for a run that only answers questions.
    """
    args, has_eval_rows = settings.training, settings.training.do_eval and settings.data.has_eval_rows
    splits = [name for name, is_read in (("train", args.do_train), ("eval", has_eval_rows)) if is_read]
    strategy = args.evaluation_strategy.value
    mistakes = data_mistakes(
        settings.data, splits, strategy, processor=model.train_processor, config_folder=config_folder
    )
    refuse_mistakes(mistakes)
    sampled = [_check_split(check, settings, model.train_processor, name, config_folder) for name in splits]
    if args.do_eval:
        _check_tasks(check, settings, config_folder, has_eval_rows)
    return sampled[0] if sampled else []


def _check_tasks(check: Check, settings: RunArguments, config_folder: Path | None, has_rows: bool) -> None:
    tasks = load_tasks(settings.data.eval_tasks, config_folder)
    check_best_metric(settings.training.metric_for_best_model, tasks, has_rows)
    for task in tasks:
        (check.warn if task.loaded.problems else check.say)(f"eval_tasks {task.name}: {task.summary()}")
        check.values[f"eval_tasks {task.name}"] = task.as_dict()


def _check_split(
    check: Check, settings: RunArguments, processor: LlavaProcessor, name: str, config_folder: Path | None
) -> SampledRows:
    _, data_args, args = settings
    split = open_split(
        data_args,
        name,
        processor=processor,
        config_folder=config_folder,
        seed=args.seed,
        policy=data_args.policy,
    )
    rows, left_out = split.rows, split.left_out
    if left_out:
        first = f"the first one: {left_out[0].where}: {left_out[0].reason}"
        check.warn(f"{name}: {plural(len(left_out), 'row')} left out ({in_words(count_kinds(left_out))}); {first}")
    measure_sizes = measure_of(processor, data_args.max_length, is_thorough=False)
    check_images(rows, measure_sizes, data_args.policy, name, len(left_out))
    first_rows = rows[: max(MIN_MEASURED, 4 * args.per_device_train_batch_size)]
    facts = measure_rows(first_rows, measure_of(processor, data_args.max_length))
    pairs = list(zip(first_rows, facts, strict=False))
    usable = [pair for pair in pairs if pair[1].kind is None]
    check.say(
        f"{name}: {plural(len(rows), 'row')}, template {processor.template.name}; {_in_numbers(usable, len(pairs))}"
    )
    check.values[name] = {"num_rows": len(rows), "num_measured": len(pairs), "num_used": len(usable)}
    if len(usable) < len(pairs):
        _report_skipped(check, [fact for _, fact in pairs if fact.kind], data_args.policy)
    if not usable:
        raise ValueError(f"{name}: none of the first {plural(len(pairs), 'row')} can be used")
    row = usable[0][0]
    sample = processor.encode_row(row, max_length=data_args.max_length)
    tiles = sum(len(image.pixels) for image in sample.images)
    check.say(
        f"{row.where}: {plural(len(sample.token_ids), 'token')}, {plural(len(sample.images), 'image')}, "
        f"{plural(tiles, 'tile')}"
    )
    return _longest_first(usable)


def _longest_first(pairs: SampledRows) -> SampledRows:
    """Return the longest row with an image, if any has one, and then all others by falling length."""
    ordered = sorted(pairs, key=lambda pair: -pair[1].num_kept)
    first = next((index for index, (_, fact) in enumerate(ordered) if fact.sizes), 0)
    return [ordered[first], *ordered[:first], *ordered[first + 1 :]]


def _in_numbers(usable: list, num_measured: int) -> str:
    if not usable:
        return f"none of the first {num_measured} can be used"
    lengths = [fact.num_kept for _, fact in usable]
    share = sum(fact.num_trained for _, fact in usable) / sum(lengths)
    return (
        f"the first {num_measured}: median {statistics.median(lengths):,.0f}, longest {max(lengths):,} tokens, "
        f"{share:.0%} trained"
    )


def _report_skipped(check: Check, skipped: list[RowFacts], policy: BadRowPolicy) -> None:
    kinds = ", ".join(f"{name} {count}" for name, count in count_kinds(skipped).items())
    text = f"{len(skipped)} of the first rows cannot be used ({kinds}): {skipped[0].reason}"
    add = check.warn if policy.is_content_skipped else check.fail
    add(text, "`paddlemix inspect-data` with the same configuration reads all rows")


def load_of(sampled: SampledRows, model: RunModel, settings: RunArguments, *, is_padded: bool) -> Load:
    """Return the largest batch of a card: the longest rows that were measured, or full packs."""
    _, data_args, args = settings
    facts = [fact for _, fact in sampled]
    count = args.per_device_train_batch_size
    if data_args.is_packed:
        usual = max(int(statistics.median(fact.num_kept for fact in facts)), 1)
        count *= max(data_args.max_length // usual, 1)
        scale = data_args.max_length * args.per_device_train_batch_size / (count * usual)
        facts = [min(facts, key=lambda fact: abs(fact.num_kept - usual))]
        lengths = (max(int(facts[0].num_kept * scale), 1),) * count
    else:
        lengths = tuple(facts[index % len(facts)].num_kept for index in range(count))
    chosen = [facts[index % len(facts)] for index in range(count)]
    sizes = [size for fact in chosen for size in fact.sizes]
    spec = model.train_processor.spec
    return Load(
        lengths,
        sum(fact.num_trained for fact in chosen),
        max(sum(num_tiles(size, spec) for size in sizes), 1),  # a batch without images has a blank one
        sum(num_image_tokens(size, spec) for size in sizes),
        is_padded,
    )
