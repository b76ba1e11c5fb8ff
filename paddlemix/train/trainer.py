"""paddlenlp's Trainer, told what a LLaVA batch is and how its checkpoints look."""

from __future__ import annotations

import shutil
from pathlib import Path

import paddle
from paddle import nn
from paddlenlp.peft import LoRAModel
from paddlenlp.trainer import Trainer
from paddlenlp.trainer.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..checkpoints.layouts import detect
from ..checkpoints.load import fill, our_tensors
from ..checkpoints.processor import LlavaProcessor
from ..checkpoints.save import save_config
from ..log import notice
from .freeze import PROJECTOR_PARTS
from .lora import load_adapter, save_adapter
from .sampler import EpochBatchSampler

COMPLETE = "complete"  # a checkpoint folder holds this file once everything else in it is written


class LlavaTrainer(Trainer):
    """Trains a LlavaForConditionalGeneration, or a LoRAModel around one.

    Every checkpoint, and the output folder at the end, is a folder that `from_pretrained` reads as it is.
    """

    def __init__(self, *, processor: LlavaProcessor, **settings):
        self.processor = processor
        settings["data_collator"] = Collator(processor)
        super().__init__(**settings)

    @property
    def llava(self):
        """The model without the LoRA wrapper."""
        return self.model.model if isinstance(self.model, LoRAModel) else self.model

    def compute_loss(self, model, inputs, return_outputs=False):
        loss = model(inputs["batch"], with_loss=True)
        return (loss, (loss,)) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with paddle.no_grad(), self.autocast_smart_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def create_optimizer(self, lr_scheduler=None):
        """Make AdamW with groups: the projector may have a rate of its own; biases and norms do not decay."""
        if self.optimizer is not None:
            return self.optimizer
        kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args)
        if hasattr(kind, "_create_master_weight") and self.args.fp16_opt_level == "O2":
            options["multi_precision"] = True
        named = [(name, tensor) for name, tensor in self.llava.named_parameters() if not tensor.stop_gradient]
        decayed = {tensor.name for name, tensor in named if not ("bias" in name or "norm" in name)}
        self.optimizer = kind(
            learning_rate=self.lr_scheduler if lr_scheduler is None else lr_scheduler,
            parameters=_groups(named, self.args.learning_rate, self.args.mm_projector_lr),
            weight_decay=self.args.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=nn.ClipGradByGlobalNorm(self.args.max_grad_norm) if self.args.max_grad_norm > 0 else None,
            **options,
        )
        return self.optimizer

    def _get_train_sampler(self):
        sampler = EpochBatchSampler(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            num_replicas=self.args.dataset_world_size,
            rank=self.args.dataset_rank,
            drop_last=self.args.dataloader_drop_last,
            seed=self.args.seed,
            num_accumulated=self.args.gradient_accumulation_steps,
        )
        if sampler.num_left_out:
            notice(
                f"{sampler.num_left_out} batches of an epoch fill no step of {sampler.num_accumulated} batches "
                "(gradient_accumulation_steps) and are left out, other rows each epoch"
            )
        return sampler

    def _save(self, output_dir=None, state_dict=None, merge_tensor_parallel=False):
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.model, LoRAModel):
            save_config(self.llava, folder)
            save_adapter(self.model, folder)
        else:
            self.llava.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        if not resume_from_checkpoint:
            return
        folder = Path(resume_from_checkpoint)
        if isinstance(self.model, LoRAModel):
            load_adapter(self.model, folder)
            return
        layout, raw = detect(folder)
        fill(self.llava, our_tensors(folder, layout, layout.read_config(folder, raw)))

    def _load_best_model_from_peft_checkpoint(self):
        load_adapter(self.model, Path(self.state.best_model_checkpoint))

    def _rotate_checkpoints(self, use_mtime=False, output_dir=None):
        """Mark the checkpoint that was just written as whole, then delete old ones: this is called last in a save."""
        if output_dir == self.args.output_dir:
            current = Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            (current / COMPLETE).touch()
            for other in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
                if not (other / COMPLETE).is_file():
                    shutil.rmtree(other)  # what a killed run left half written
        super()._rotate_checkpoints(use_mtime=use_mtime, output_dir=output_dir)


def _groups(named, learning_rate: float, projector_rate: float | None) -> list[dict]:
    """Return optimizer groups; Paddle takes a group's learning rate as a factor of the optimizer's."""
    projector = [tensor for name, tensor in named if name.startswith(PROJECTOR_PARTS)]
    others = [tensor for name, tensor in named if not name.startswith(PROJECTOR_PARTS)]
    factor = 1.0 if projector_rate is None else projector_rate / learning_rate
    groups = [{"params": others}, {"params": projector, "learning_rate": factor}]
    return [group for group in groups if group["params"]]


class Collator:
    """Puts samples into the dictionary that paddlenlp hands to `compute_loss`."""

    def __init__(self, processor: LlavaProcessor):
        self.processor = processor

    def __call__(self, samples) -> dict:
        batch = self.processor.collate(samples)
        # The loader turns arrays into tensors and leaves other objects alone, so the batch stays on the host; the
        # tensor beside it is what paddlenlp counts the rows of.
        return {"batch": batch, "segment_ids": batch.segment_ids}


def last_checkpoint(output_dir: Path) -> Path | None:
    """Return the newest whole checkpoint of a run, or None."""
    whole = [path for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / COMPLETE).is_file()]
    return max(whole, key=lambda path: int(path.name.split("-")[-1]), default=None)
