"""All settings of a training run: this project's, PaddleMIX's and those of paddlenlp's TrainingArguments.

Numbers have their bounds in `bounds`. A setting that a resumed run must not change, or that changes what it learns, is
listed in `run_facts`. `settings` has those that commands read without paddle; `eval_tasks.py` checks the entries of
`eval_tasks`.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, NamedTuple

import paddle
from paddlenlp.trainer import TrainingArguments
from paddlenlp.trainer.trainer_utils import OptimizerNames, SchedulerType

from .. import device as devices
from ..terminal.hidden import library_at_work
from ..terminal.log import notice
from .bounds import check_bounds
from .config_file import LAST, convert, is_typed_in, plain
from .eval_tasks import LOSS, parse_tasks, with_prefix
from .foreign_settings import unknown_setting
from .setting_fields import ModelArguments, OwnArguments
from .settings import DataArguments, trains
from .sharding import check_parallel


@dataclass
class LlavaTrainingArguments(OwnArguments, TrainingArguments):
    """paddlenlp's TrainingArguments with this project's own."""


class RunArguments(NamedTuple):
    """All settings of a run."""

    model: ModelArguments
    data: DataArguments
    training: LlavaTrainingArguments


GLOO = "/gloo/"  # in the errors of the library that connects processes on CPUs
SETTINGS = (ModelArguments, DataArguments, LlavaTrainingArguments)
# Keys that PaddleMIX accepts but its LLaVA code never reads.
WITHOUT_EFFECT = frozenset(
    "prefix_tuning num_prefix_tokens from_aistudio save_to_aistudio aistudio_repo_id aistudio_repo_private "
    "aistudio_repo_license aistudio_token task_name src_length eval_with_do_generation "
    "save_generation_output lazy chat_template splits top_k top_p benchmark profiler_options warmup_start_lr eta_min "
    "lr_scheduler_name use_flash_attention text_model_name_or_path".split()
)
RESUME = "resume_from_checkpoint"
CHOICES = {"optim": OptimizerNames, "lr_scheduler_type": SchedulerType}  # paddlenlp declares them as texts
# Keys that divide the work over processes; paddlenlp silently resets them if there is only one process.
PARALLEL = ("sharding", "sharding_parallel_degree", "tensor_parallel_degree", "pipeline_parallel_degree")


def parse(values: dict[str, Any], *, num_processes: int = 1) -> RunArguments:
    """Convert raw values to settings.

    num_processes: that the run is planned with, if there are more of them than now.

    Raises ValueError for unknown keys, naming the nearest known one, for values of the wrong type, and for settings
    that do not go together. Prints one notice on keys that PaddleMIX accepts without using them.
    """
    classes = SETTINGS
    values = {**values, RESUME: _resume_choice(values.get(RESUME))} if RESUME in values else values
    hints = {cls: _field_types(cls) for cls in classes}
    _check_keys(values, set().union(*hints.values()))
    chosen = []
    for cls in classes:
        chosen.append({key: convert(key, value, hints[cls][key]) for key, value in values.items() if key in hints[cls]})
        check_bounds(chosen[-1])
    asked = chosen[2] = _training_values(chosen[2])
    check_parallel({**asked, "eval_tasks": chosen[1].get("eval_tasks")}, paddle.distributed.get_world_size())
    try:
        with library_at_work():  # paddlenlp starts the processes, and paddle prints its flags
            model, data, training = (cls(**own) for cls, own in zip(classes, chosen, strict=True))
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise ValueError(f"paddlenlp refuses these training settings: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        if GLOO not in str(error):
            raise
        reason = str(error).rpartition("] ")[2].strip()
        raise ValueError(
            f"the processes of this run could not connect to each other (gloo: {reason}), which happens now and "
            "then on CPUs: start the same command again"
        ) from error
    check_supported(asked)
    _check_together(model, training)
    _check_evaluation(data, training)
    _report_ignored(asked, max(num_processes, training.world_size))
    return RunArguments(model, data, training)


def _check_together(model: ModelArguments, training: LlavaTrainingArguments) -> None:
    """Raise ValueError for settings that do not go together."""
    if model.lora_path and not model.lora:
        raise ValueError(
            f"lora_path is {model.lora_path}, and lora is not true, so that its adapter would be left out: set lora: "
            "true to continue from it, merge it first (paddlemix merge), or leave lora_path out"
        )
    if training.minimum_eval_times and not training.eval_steps:
        raise ValueError(
            f"minimum_eval_times is {training.minimum_eval_times}: it changes eval_steps, so set eval_steps and "
            'evaluation_strategy: "steps", or leave it out'
        )


def _check_evaluation(data: DataArguments, training: LlavaTrainingArguments) -> None:
    """Raise ValueError for eval_tasks and a best metric that no evaluation could have, as far as no file tells."""
    settings = parse_tasks(data.eval_tasks)
    if settings and not training.do_eval:
        raise ValueError(
            "eval_tasks are answered at each evaluation, and this run has none: set evaluation_strategy to "
            '"steps" or "epoch" (do_eval: true without do_train only evaluates)'
        )
    if training.num_eval_answers and not data.has_eval_rows:
        raise ValueError("num_eval_answers needs rows to answer: name an eval split in dataset, or leave it out")
    wanted = training.metric_for_best_model
    names = [setting.name for setting in settings]
    if wanted is not None and wanted not in LOSS and not with_prefix(wanted).startswith(tuple(map(with_prefix, names))):
        known = " or ".join(map(repr, (*LOSS, *names)))
        raise ValueError(
            f"settings: metric_for_best_model is {wanted!r}, expected {known}"
            + ("; eval_tasks add metrics" if not names else " or another metric of these eval_tasks")
        )


def typed(values: dict[str, Any]) -> dict[str, Any]:
    """Return raw values of `parse` with those from the command line as their types; others are as a file has them."""
    hints = {key: hint for cls in SETTINGS for key, hint in _field_types(cls).items()}
    found = {key: value for key, value in values.items() if key in hints and is_typed_in(value)}
    return {**values, **{key: plain(convert(key, value, hints[key])) for key, value in found.items()}}


def _resume_choice(value: Any) -> Any:
    """Return a path unchanged, LAST for true, and None for false and an empty text."""
    word = str(value).lower() if isinstance(value, (bool, str)) else None
    return LAST if word == LAST else None if word in ("false", "") else value


def _field_types(cls) -> dict[str, Any]:
    """Return the types of a class's fields. paddlenlp declares some without None although it is their default."""
    hints = {**typing.get_type_hints(cls), **CHOICES}
    return {
        item.name: hints[item.name] | None if item.default is None else hints[item.name]
        for item in dataclasses.fields(cls)
        if item.init
    }


def _check_keys(values: dict[str, Any], known: set[str]) -> None:
    known = known | WITHOUT_EFFECT
    unknown = [key for key in values if key not in known]
    if unknown:
        answers = [unknown_setting(key, values[key], known) for key in unknown]
        title = [f"{len(answers)} settings are unknown here:"] if len(answers) > 1 else []
        raise ValueError("\n  ".join(title + answers))
    unused = sorted(set(values) & WITHOUT_EFFECT)
    if unused:
        notice(f"these settings have no effect, in PaddleMIX or here: {', '.join(unused)}")


def _report_ignored(asked: dict[str, Any], num_processes: int) -> None:
    """Print a notice on settings that a single process ignores."""
    ignored = [f"{key} {asked[key]}" for key in PARALLEL if asked.get(key) not in (None, "", -1, 1)]
    if ignored and num_processes <= 1:
        notice(f"{', '.join(ignored)}: without effect in one process, python -m paddle.distributed.launch starts more")


def _training_values(own: dict[str, Any]) -> dict[str, Any]:
    """Fill in the device and do_train, and replace half precision if the device lacks it."""
    if not own.get("output_dir"):
        raise ValueError("output_dir is missing: name the folder for checkpoints and the result")
    rank = own.get("local_rank", -1)
    if rank >= 0 and paddle.distributed.get_world_size() <= 1:
        raise ValueError(
            f"local_rank is {rank}, and this is the only process: leave it out; python -m paddle.distributed.launch "
            "starts more processes and numbers them"
        )
    # By paddlenlp's default a run would do nothing.
    is_trained = trains(own.get("do_train"), own.get("do_eval"))
    own = {**own, "device": devices.use_device(own.get("device")), "do_train": is_trained}
    for key, dtype in (("fp16", "float16"), ("bf16", "bfloat16")):
        if own.get(key) and not devices.can_compute(dtype, own["device"]):
            notice(f"{key}: {own['device']} has no {dtype} kernels for matrix products and convolutions; using float32")
            own.update({key: False, f"{key}_full_eval": False, "fp16_opt_level": "O1", "amp_master_grad": False})
    if own.get("fp16_opt_level") == "O2" and not (own.get("fp16") or own.get("bf16")):
        own["fp16_opt_level"] = "O1"
        notice("fp16_opt_level O2 needs fp16 or bf16: the weights stay in float32")
    return own


CHECKPOINTS = "checkpoints have one format here"
DIVIDED = "it would divide the optimizer's state in a way that checkpoints here do not support"
NO_SPLITS = "layers are not split over processes here"
# Settings that are refused unless they are false, 0 or empty, with the reason.
REFUSED = {
    "unified_checkpoint_config": CHECKPOINTS,
    "save_sharded_model": CHECKPOINTS,
    "load_sharded_model": CHECKPOINTS,
    "use_async_save": CHECKPOINTS,
    "pdc_download_ckpt": "checkpoints are not downloaded from a cluster's store",
    "enable_auto_parallel": NO_SPLITS,
    "auto_parallel_resume_form_hybrid_parallel": NO_SPLITS,
    "use_expert_parallel": "LLaVA's layers have no experts",
    "flatten_param_grads": DIVIDED,
}
# Words of sharding_parallel_config that split or join the parameters that the optimizer updates.
JOINED = ("split_param", "enable_stage1_tensor_fusion", "enable_stage1_overlap", "enable_fuse_optimizer_states")


def check_supported(asked: dict[str, Any]) -> None:
    """Raise ValueError for settings that do not work with this project's checkpoints. asked: the raw settings."""
    for key, reason in REFUSED.items():
        if asked.get(key) not in (None, False, 0, "", "0", []):
            raise ValueError(f"{key} is {asked[key]!r}: {reason}; leave it out")
    if asked.get("ckpt_quant_stage", "O0") != "O0":
        raise ValueError(f"ckpt_quant_stage is {asked['ckpt_quant_stage']!r}: {CHECKPOINTS}; leave it out")
    words = asked.get("sharding_parallel_config") or ""
    found = [word for word in (words.replace(",", " ").split() if isinstance(words, str) else words) if word in JOINED]
    if found:
        raise ValueError(f"sharding_parallel_config has {' '.join(found)}: {DIVIDED}; leave it out")
