"""Checks of what a run is given: its settings, its model, its data."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoints.inspection import inspect
from ..checkpoints.processor import LlavaProcessor
from ..checkpoints.source import read_config
from ..data.bad_rows import refuse
from ..data.measure import Measure, RowFacts, measure_rows
from ..data.mixture import scan_mixture
from ..data.row import Row
from ..data.row_note import count_kinds, in_words
from ..data.trial_rows import check_images
from ..hub.hub import resolve
from ..image.anyres import num_image_tokens, num_tiles
from ..models.config import LlavaConfig
from ..train.run import chosen_quantization
from ..train.run_folder import check_place, last_checkpoint
from ..train.settings import DataSettings
from .activations import Load
from .check import Check

MIN_MEASURED = 64  # rows that are measured at least


@dataclass(frozen=True)
class Home:
    """The model of a run: its folder, configuration and what encodes with the template that is trained."""

    folder: Path
    config: LlavaConfig
    teacher: LlavaProcessor


@dataclass(frozen=True)
class Sampled:
    """The first rows of the training data that can be used, with what they make, in the order of `_longest_first`."""

    pairs: tuple[tuple[Row, RowFacts], ...]


def check_settings(check: Check, settings) -> None:
    """Say what kind of run the parsed settings are of, and name what would surprise."""
    model_args, _, args = settings
    kind = f"LoRA of rank {model_args.lora_rank}" if model_args.lora else "no adapters"
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.dataset_world_size
    check.say(f"{kind}; learning rate {args.learning_rate:g}; {batch} samples a step on {args.world_size} process(es)")
    check.values["global_batch_size"] = batch
    if not args.do_train:
        check.warn("do_train is false: nothing would be trained, only evaluated", 'set "do_train": true to train')
    previous = last_checkpoint(Path(args.output_dir))
    if previous is not None and not args.overwrite_output_dir:
        check.say(f"would go on from {previous}")


def check_model(check: Check, settings, template: str | None) -> Home:
    """Inspect the folder without loading its weights. Raises ValueError where nothing of it can be used."""
    model_args, data_args, args = settings
    if not model_args.model_name_or_path:
        raise ValueError("model_name_or_path is missing: name the folder of the model to start from")
    folder = Path(resolve(model_args.model_name_or_path))
    check_place(args.output_dir, [folder], is_overwriting=args.overwrite_output_dir)
    found = inspect(folder)
    check.say(f"{folder}: {found.format}, {found.num_parameters:,} parameters")
    for problem in found.problems:
        check.fail(problem, f"paddlemix inspect {folder}")
    for note in found.notes:
        check.say(note)
    chosen_quantization(model_args, str(folder))
    config = read_config(folder)
    processor = LlavaProcessor.from_pretrained(folder)
    name = model_args.conv_mode or model_args.version or template
    positions = config.language.max_position_embeddings
    if data_args.max_length > positions:
        check.warn(
            f"max_length {data_args.max_length} is more than the {positions} positions that the model was made for",
            f'set "max_length": {positions}',
        )
    return Home(folder, config, processor.with_template(name) if name else processor)


def check_data(check: Check, values: dict, home: Home, splits: list[str], config_folder: Path | None) -> Sampled:
    """Scan the files, measure the first rows and encode one. Returns those of the first split."""
    settings = DataSettings.read(values)
    if settings.dataset is None:
        raise ValueError('dataset is missing: expected {"train": [{"name": "chatml_dataset", "data_files": "..."}]}')
    sampled = [_check_split(check, settings, home, split, config_folder) for split in splits]
    return sampled[0]


def _check_split(check: Check, settings: DataSettings, home: Home, split: str, config_folder) -> Sampled:
    rows, left_out = scan_mixture(
        settings.dataset,
        split,
        template=home.teacher.template,
        config_folder=config_folder,
        image_folder=settings.image_folder,
        seed=settings.seed,
    )
    if not settings.policy.is_structure_skipped:
        refuse(left_out)
    if not rows:
        raise ValueError(f"the dataset has no rows for {split!r}: name data_files under that key")
    if left_out:
        settings.policy.check(left_out, len(rows) + len(left_out))
        first = f"the first one: {left_out[0].where}: {left_out[0].reason}"
        check.warn(f"{split}: {len(left_out):,} rows are left out ({in_words(count_kinds(left_out))}); {first}")
    count = max(MIN_MEASURED, 4 * settings.per_device_train_batch_size)
    measure = Measure(home.teacher.tokenizer, home.teacher.template, home.teacher.spec, settings.max_length)
    check_images(rows, replace(measure, is_thorough=False), settings.policy, split, len(left_out))
    pairs = list(zip(rows[:count], measure_rows(rows[:count], measure), strict=False))
    used = [pair for pair in pairs if pair[1].kind is None]
    check.say(f"{split}: {len(rows):,} rows, template {home.teacher.template.name}; {_in_numbers(used, len(pairs))}")
    check.values[split] = {"num_rows": len(rows), "num_measured": len(pairs), "num_used": len(used)}
    if len(used) < len(pairs):
        _tell_skipped(check, [fact for _, fact in pairs if fact.kind], settings)
    if not used:
        raise ValueError(f"{split}: none of the first {len(pairs)} rows can be used")
    _encode_one(check, used[0][0], home, settings)
    return Sampled(_longest_first(used))


def _longest_first(pairs: list[tuple[Row, RowFacts]]) -> tuple[tuple[Row, RowFacts], ...]:
    """Return the longest row with a picture, if any has one, and then all others by length."""
    ordered = sorted(pairs, key=lambda pair: -pair[1].num_kept)
    first = next((place for place, (_, fact) in enumerate(ordered) if fact.sizes), 0)
    return (ordered[first], *ordered[:first], *ordered[first + 1 :])


def _in_numbers(used: list, num_measured: int) -> str:
    if not used:
        return f"none of the first {num_measured} can be used"
    lengths = [fact.num_kept for _, fact in used]
    share = sum(fact.num_trained for _, fact in used) / sum(lengths)
    return (
        f"the first {num_measured}: median {statistics.median(lengths):,.0f}, longest {max(lengths):,} tokens, "
        f"{share:.0%} trained"
    )


def _tell_skipped(check: Check, skipped: list[RowFacts], settings: DataSettings) -> None:
    kinds = ", ".join(f"{name} {count}" for name, count in count_kinds(skipped).items())
    text = f"{len(skipped)} of the first rows cannot be used ({kinds}): {skipped[0].reason}"
    tell = check.warn if settings.policy.is_content_skipped else check.fail
    tell(text, "`paddlemix inspect-data` with the same configuration reads all rows")


def _encode_one(check: Check, row: Row, home: Home, settings: DataSettings) -> None:
    sample, _ = home.teacher.encode_to_train(row.conversation, folders=row.folders, max_length=settings.max_length)
    tiles = sum(len(image.pixels) for image in sample.images)
    check.say(f"{row.where}: {len(sample.token_ids):,} tokens, {len(sample.images)} pictures in {tiles} tiles")


def load_of(sampled: Sampled, home: Home, settings, *, is_padded: bool) -> Load:
    """Return the batch of a card at its worst: the longest rows that were measured, or full packs."""
    _, data_args, args = settings
    facts = [fact for _, fact in sampled.pairs]
    count = args.per_device_train_batch_size
    if data_args.packing or data_args.mixtoken:
        usual = max(int(statistics.median(fact.num_kept for fact in facts)), 1)
        count *= max(data_args.max_length // usual, 1)
        scale = data_args.max_length * args.per_device_train_batch_size / (count * usual)
        facts = [min(facts, key=lambda fact: abs(fact.num_kept - usual))]
        lengths = (max(int(facts[0].num_kept * scale), 1),) * count
    else:
        lengths = tuple(facts[place % len(facts)].num_kept for place in range(count))
    chosen = [facts[place % len(facts)] for place in range(count)]
    sizes = [size for fact in chosen for size in fact.sizes]
    spec = home.teacher.spec
    return Load(
        lengths,
        sum(fact.num_trained for fact in chosen),
        max(sum(num_tiles(size, spec) for size in sizes), 1),  # a batch without pictures has a blank one
        sum(num_image_tokens(size, spec) for size in sizes),
        is_padded,
    )
