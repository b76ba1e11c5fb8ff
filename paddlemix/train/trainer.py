"""paddlenlp's Trainer, told what a LLaVA batch is and how its checkpoints look."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.peft import LoRAModel
from paddlenlp.trainer import ProgressCallback, Trainer
from paddlenlp.trainer.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..checkpoints.layouts import detect
from ..checkpoints.load import fill, our_tensors
from ..checkpoints.lora import remove_adapter
from ..checkpoints.processor import LlavaProcessor
from ..checkpoints.save import save_config
from ..data.loss_weights import loss_weights
from ..data.packed_rows import PackedRows
from ..data.sample import Batch
from ..device import wants_equal_shapes
from ..log import notice
from .batches import Collator, GuardedRows, opened
from .data_sets import DataSets
from .freeze import mark_trained
from .loader import WEIGHTS, RowLoader, StepLoader, summed
from .lora import load_adapter, save_adapter
from .meter import Meter
from .optimizer import build_optimizer
from .parallel import check_parts, check_slicable, gather_frozen, is_sliced, note_parts
from .progress import History, Progress
from .results import draw_losses, write_results
from .resume import COMPLETE, check_state, last_checkpoint, num_done_steps
from .sample_answers import append_answers, sample_answers
from .sampler import EpochBatchSampler
from .stop import StopRequest
from .tally import RowTally, gather_notes
from .watch import LossWatch


class LlavaTrainer(Trainer):
    """Trains a LlavaForConditionalGeneration, or a LoRAModel around one.

    Every checkpoint, and the output folder at the end, is a folder that `from_pretrained` reads as it is.
    """

    def __init__(self, *, processor: LlavaProcessor, model, args, tally: RowTally, data: DataSets):
        self.processor = processor
        self.grouping, self.teacher = data.grouping, data.teacher
        self.tally = tally
        self.is_tally_begun = False
        self._num_done_steps = 0
        self.meter = Meter(args.dataset_world_size)
        self.watch = LossWatch(Path(args.output_dir), args.max_loss_ratio)
        self.history = History()
        self.stop_request = StopRequest()
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(processor, is_flat=not wants_equal_shapes()),
            train_dataset=None if data.train is None else GuardedRows(data.train),
            eval_dataset=None if data.eval is None else GuardedRows(data.eval),
            callbacks=[self.history, self.stop_request],
        )
        self.llava.is_sliced = is_sliced(args)
        if self.llava.is_sliced:
            check_slicable(self.llava.config)
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(Progress())

    @property
    def llava(self):
        """The model without the LoRA wrapper."""
        return self.model.model if isinstance(self.model, LoRAModel) else self.model

    def training_step(self, model, inputs, step_control=0):
        """Go forward and back; a loss that is no number, or leaps, ends the run before the optimizer moves."""
        loss = super().training_step(model, inputs)
        batch, num_accumulated = inputs["batch"], self.args.gradient_accumulation_steps
        self.meter.add(batch)
        is_last = (step_control + 1) % num_accumulated == 0
        self.watch.add(float(loss), batch.where, step=self.state.global_step + 1, is_last=is_last)
        return loss

    def log(self, logs, **options):
        """Log how fast it goes, too."""
        super().log({**logs, **self.meter.recent()} if "loss" in logs else logs, **options)

    def compute_loss(self, model, inputs, return_outputs=False):
        self.tally.add(inputs["batch"].notes)
        batch = opened(inputs["batch"])
        loss = model(batch, with_loss=True, loss_weights=inputs.get(WEIGHTS))
        return (loss, (loss,)) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        total = 0.0
        if isinstance(inputs["batch"], Batch):  # a failure is raised where it is used
            weights = loss_weights(inputs["batch"], self.args.loss_reduction)
            total = float(weights.sum())
            inputs = {**inputs, WEIGHTS: weights / np.float32(max(total, 1e-6))}
        with paddle.no_grad(), self.autocast_smart_context_manager():
            loss = self.compute_loss(model, inputs)
        self._eval_sums += [float(loss) * total, total]
        return loss.detach(), None, None

    def evaluation_loop(self, dataloader, description, prediction_loss_only=None, ignore_keys=None, **options):
        """Evaluate; the loss is the mean that `loss_reduction` names, where paddlenlp has the mean of batches."""
        self._eval_sums = np.zeros(2)
        prefix = options.get("metric_key_prefix", "eval")
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, **options)
        loss, total = summed(self._eval_sums, self.args.world_size)
        output.metrics[f"{prefix}_loss"] = float(loss / max(total, 1e-6))
        return output

    def train(self, resume_from_checkpoint=None, ignore_keys_for_eval=None):
        """Train; with load_best_model_at_end go back to the best checkpoint, which paddlenlp finds for LoRA only."""
        check_parts(resume_from_checkpoint, self.args)
        if resume_from_checkpoint:
            check_state(resume_from_checkpoint)
        self._begin_tally(resume_from_checkpoint, is_fresh=not resume_from_checkpoint)
        self._num_done_steps = num_done_steps(resume_from_checkpoint, self.args)
        self.meter.begin()
        try:
            with self.stop_request:
                result = super().train(resume_from_checkpoint, ignore_keys_for_eval)
            self._settle_tally(is_told=True)
        finally:
            if self.is_world_process_zero():
                self.tally.write()
        result.metrics.update(self.tally.metrics("train"))
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None:
            self._load_from_checkpoint(best)
            notice(f"{best} was the best checkpoint ({self.state.best_metric}): the result is its model")
        return result

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Evaluate, and count the rows that were skipped or cut on the way."""
        self._begin_tally(None, is_fresh=False)
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self._settle_tally(is_told=True)
        if self.args.num_eval_answers and self.is_world_process_zero():
            rows = self.eval_dataset.rows.rows
            answers = sample_answers(self.llava, self.teacher, rows, self.args.num_eval_answers)
            append_answers(Path(self.args.output_dir), self.state.global_step, answers)
        return {**metrics, **self.tally.metrics("eval")}

    def report_results(self, settings) -> None:
        """Add to train_results.json what the result came from, and draw the losses, in the first process."""
        if not self.is_world_process_zero():
            return
        rows = self.train_dataset.rows
        rows = rows.rows if isinstance(rows, PackedRows) else rows
        files = dict.fromkeys(row.file for row in rows.rows)
        write_results(Path(self.args.output_dir), settings or {}, files, self.meter.overall())
        draw_losses(Path(self.args.output_dir), self.history.values)

    def _begin_tally(self, checkpoint, *, is_fresh: bool) -> None:
        if not self.is_tally_begun:
            self.tally.begin(checkpoint, is_fresh=is_fresh, is_writer=self.is_world_process_zero())
            self.is_tally_begun = True
            self._settle_tally(is_told=True)

    def _settle_tally(self, *, is_told: bool) -> None:
        """Count, over all processes, what was skipped and cut since the last time. All processes must call it."""
        is_first = self.is_world_process_zero()
        self.tally.settle(lambda notes: gather_notes(notes, self.args.world_size), is_writer=is_first)
        news = self.tally.news() if is_told else None
        if news and is_first:
            notice(news)

    def _maybe_log_save_evaluate(self, tr_loss, model, epoch, ignore_keys_for_eval, **kwargs):
        """Count bad rows too: with several processes where they meet anyway, alone after every step."""
        if self.control.should_log or self.control.should_save or self.args.world_size <= 1:
            self._settle_tally(is_told=self.control.should_log)
        super()._maybe_log_save_evaluate(tr_loss, model, epoch, ignore_keys_for_eval, **kwargs)

    def create_optimizer(self, lr_scheduler=None):
        """Make the optimizer once. See `optimizer.build_optimizer`."""
        if self.optimizer is None:
            scale = self.model.lora_config.lora_plus_scale if isinstance(self.model, LoRAModel) else 1.0
            schedule = self.lr_scheduler if lr_scheduler is None else lr_scheduler
            self.optimizer = build_optimizer(self.llava, self.args, schedule, lora_plus_scale=scale)
        return self.optimizer

    def get_train_dataloader(self):
        """Return the loader of an epoch's batches, which know how much they count in their optimizer step."""
        sampler = self._get_train_sampler()
        num_steps = max(len(sampler) // self.args.gradient_accumulation_steps, 1)
        sampler.num_skipped = self._num_done_steps % num_steps * self.args.gradient_accumulation_steps
        loader = StepLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            num_accumulated=self.args.gradient_accumulation_steps,
            reduction=self.args.loss_reduction,
            num_processes=self.args.world_size,
            wants_stop=lambda: self.stop_request.is_set,
        )
        if self.args.world_size > 1:
            self.stop_request.is_agreed = lambda: loader.is_stop_wanted
        return loader

    def get_eval_dataloader(self, eval_dataset=None):
        """Return the loader of the batches to evaluate on."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        sampler, num_workers = self._get_eval_sampler(rows), self.args.dataloader_num_workers
        return RowLoader(rows, batch_sampler=sampler, collate_fn=self.data_collator, num_workers=num_workers)

    def _get_train_sampler(self):
        sampler = EpochBatchSampler(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            num_replicas=self.args.dataset_world_size,
            rank=self.args.dataset_rank,
            drop_last=self.args.dataloader_drop_last,
            seed=self.args.seed,
            num_accumulated=self.args.gradient_accumulation_steps,
            grouping=self.grouping,
        )
        if sampler.num_left_out:
            notice(
                f"{sampler.num_left_out} batches of an epoch fill no step of {sampler.num_accumulated} batches "
                "(gradient_accumulation_steps) and are left out, other rows each epoch"
            )
        return sampler

    def save_model(self, output_dir=None, merge_tensor_parallel=False):
        """Save, in all processes together: where each holds parts of the weights, they are gathered first."""
        if self.llava.is_sliced and not isinstance(self.model, LoRAModel):
            gather_frozen(self.model_wrapped)
        super().save_model(output_dir, merge_tensor_parallel)

    def _save(self, output_dir=None, state_dict=None, merge_tensor_parallel=False):
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.state.global_step > 0:
            mark_trained(self.llava)
        if isinstance(self.model, LoRAModel):
            save_config(self.llava, folder)
            save_adapter(self.model, folder)
        else:
            self.llava.save_pretrained(folder)
            remove_adapter(folder)
        self.processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        if not resume_from_checkpoint:
            return
        folder = Path(resume_from_checkpoint)
        if isinstance(self.model, LoRAModel):
            load_adapter(self.model, folder)
            return
        layout, raw = detect(folder)
        fill(self.llava, our_tensors(folder, layout, layout.read_config(folder, raw)), folder)

    def _load_best_model_from_peft_checkpoint(self):
        """Do nothing: `train` goes back to the best checkpoint, for adapters and whole models alike."""

    def _load_optimizer_and_scheduler(self, checkpoint):
        """Restore the random state too: paddlenlp does not where a checkpoint was written at the end of an epoch."""
        super()._load_optimizer_and_scheduler(checkpoint)
        self._load_rng_state(checkpoint)

    def _save_checkpoint(self, model, metrics=None):
        """Write a checkpoint, mark it as whole when every process has written its part, then delete old ones."""
        output_dir = Path(self.args.output_dir)
        checkpoint = output_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, metrics=metrics)
        except OSError as error:
            last = last_checkpoint(output_dir)
            left = (
                "there is no whole checkpoint yet" if last is None else f"{last} is whole, and the run goes on from it"
            )
            raise OSError(f"{checkpoint} cannot be written: {error}; {left}") from error
        if self.args.world_size > 1:
            paddle.distributed.barrier()
        if not self.is_world_process_zero():
            return
        self.tally.save(checkpoint)
        note_parts(checkpoint, self.args)
        (checkpoint / COMPLETE).touch()
        for other in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if not (other / COMPLETE).is_file():
                shutil.rmtree(other)  # what a killed run left half written
        super()._rotate_checkpoints(use_mtime=True, output_dir=self.args.output_dir)

    def _rotate_checkpoints(self, use_mtime=False, output_dir=None):
        """Delete nothing yet: `_save_checkpoint` does, once the new checkpoint is marked.

        paddlenlp calls this at the end of a save, but in a run of several processes only.
        """
