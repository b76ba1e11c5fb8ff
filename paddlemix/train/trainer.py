"""paddlenlp's Trainer for LLaVA: its batches, its loss, its optimizer and its checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddlenlp.peft import LoRAModel
from paddlenlp.trainer import PrinterCallback, ProgressCallback, Trainer

from ..checkpoints.processor import LlavaProcessor
from ..data.collate import loss_weights
from ..data.sample import Batch
from ..device import wants_equal_shapes
from ..tensor_files.stored import StoredTensor
from ..terminal.log import notice
from .callbacks import History, Meter, StopRequest
from .data_sets import DataSets
from .loader import WEIGHTS, Collator, EpochBatchSampler, GuardedRows, RowLoader, StepLoader, batch_or_raise
from .optimizer import build_optimizer
from .processes import fail_together, sum_over_processes
from .random_state import set_random_state
from .results import ANSWERS, append_answers, sample_answers
from .resume import best_checkpoint, check_checkpoint, hidden_from_paddlenlp, load_weights, num_done_steps
from .run_state import load_state
from .saving import save_checkpoint, write_model
from .sharding import check_can_be_sliced, gather_frozen, is_sliced
from .tally import RowTally
from .task_runs import defined, remove_answers, run_tasks
from .watch import GradientCheck, LossWatch, check_loss, check_weights


class LlavaTrainer(Trainer):
    """Trains a Llava, or a LoRAModel around one.

    Every checkpoint, and the output folder at the end, is a folder that `from_pretrained` reads.
    describe: returns the run's facts, see `run_facts`. frozen: the weights of a quantized model that is saved whole.
    """

    def __init__(
        self,
        *,
        processor: LlavaProcessor,
        model,
        args,
        tally: RowTally,
        data: DataSets,
        describe: Callable[[], dict],
        frozen: Mapping[str, StoredTensor] | None = None,
    ):
        self.processor = processor
        self.data = data
        self.frozen = frozen
        self.describe = describe
        self.tally = tally
        self.num_done_steps = 0  # before the checkpoint that this run resumes from
        self.task_metrics: dict[str, float | None] = {}  # of the last evaluation
        self._random_state: dict | None = None
        self.meter = Meter(args.dataset_world_size)
        config = (model.model if isinstance(model, LoRAModel) else model).config
        self.watch = LossWatch(
            Path(args.output_dir),
            args.max_loss_ratio,
            vocab_size=config.language.vocab_size,
            num_processes=args.world_size,
        )
        self.history = History(metric for task in data.tasks for metric in task.figures.values())
        self.stop_request = StopRequest()
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(processor, is_flat=not wants_equal_shapes()),
            train_dataset=None if data.train is None else GuardedRows(data.train),
            eval_dataset=None if data.eval is None else GuardedRows(data.eval),
            callbacks=[self.meter, self.history, self.stop_request, GradientCheck(self.watch)],
        )
        self.llava.is_sliced = is_sliced(args)
        if self.llava.is_sliced:
            check_can_be_sliced(self.llava.config)
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(PrinterCallback)

    @property
    def llava(self):
        """The model without the LoRA wrapper."""
        return self.model.model if isinstance(self.model, LoRAModel) else self.model

    @functools.cached_property
    def facts(self) -> dict:
        """The run's facts, computed from its files when they are first needed."""
        return self.describe()

    def train(self, resume_from_checkpoint=None, ignore_keys_for_eval=None):
        """Train; with load_best_model_at_end load the best checkpoint, which paddlenlp does for LoRA only."""
        fail_together(lambda: check_checkpoint(resume_from_checkpoint, self.args), self.args.world_size)
        self.tally.begin(resume_from_checkpoint, is_fresh=not resume_from_checkpoint)
        if not resume_from_checkpoint and self.is_world_process_zero():
            (Path(self.args.output_dir) / ANSWERS).unlink(missing_ok=True)
            remove_answers(Path(self.args.output_dir))
        self.num_done_steps = num_done_steps(resume_from_checkpoint, self.args)
        if self.num_done_steps:
            self.history.read(Path(resume_from_checkpoint))
        try:
            with self.stop_request, hidden_from_paddlenlp(self.args) as is_best_wanted:
                result = super().train(resume_from_checkpoint, ignore_keys_for_eval)
            self.tally.count(is_reported=True)
        finally:
            if self.is_world_process_zero():
                self.tally.write()
        num_steps = max(self.state.global_step - self.num_done_steps, 0)
        self.history.correct(result.metrics, share=num_steps / max(self.state.max_steps, 1))
        result.metrics.update(self.tally.metrics("train"))
        best = self.state.best_model_checkpoint
        if is_best_wanted and best is not None:
            self._load_from_checkpoint(best_checkpoint(best, self.args.output_dir))
            notice(f"{best} was the best checkpoint ({self.state.best_metric}): the result is its model")
        return result

    def training_step(self, model, inputs, step_control=0):
        """Run a forward and a backward pass. Raises LossError for a loss that is not finite, or leaps."""
        loss = super().training_step(model, inputs)
        batch, num_accumulated = inputs["batch"], self.args.gradient_accumulation_steps
        self.meter.add(batch)
        is_last = (step_control + 1) % num_accumulated == 0
        self.watch.add(float(loss), batch.where, step=self.state.global_step + 1, is_last=is_last)
        if is_last:
            self.history.add(self.watch.losses[-1], self.state.global_step + 1)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False):
        """Return the weighted loss of a batch."""
        if self.llava.cards is None or self.llava.cards.rank == 0:  # the cards that share a decoder read the same rows
            self.tally.add(inputs["batch"].notes)
        batch = batch_or_raise(inputs["batch"])
        loss = model(batch, with_loss=True, loss_weights=inputs.get(WEIGHTS))
        return (loss, (loss,)) if return_outputs else loss

    def log(self, logs, **options):
        """Log with the tokens a second."""
        super().log({**logs, **self.meter.recent()} if "loss" in logs else logs, **options)

    def _maybe_log_save_evaluate(self, tr_loss, model, epoch, ignore_keys_for_eval, **kwargs):
        """Also count bad rows: several processes where they synchronize anyway, a single one after every step."""
        if self.state.max_steps <= self.num_done_steps:
            return  # the checkpoint is of the last step
        if self.control.should_log or self.control.should_save or self.args.world_size <= 1:
            self.tally.count(is_reported=self.control.should_log)
        super()._maybe_log_save_evaluate(tr_loss, model, epoch, ignore_keys_for_eval, **kwargs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Evaluate, count the rows that were skipped or cut, and write answers if the settings ask for them."""
        self.tally.begin(None, is_fresh=False)
        step = self.state.global_step
        self.task_metrics = run_tasks(self.llava, self.data.train_processor, self.data.tasks, self.args, step)
        if self.eval_dataset is None:
            return self._report_tasks()
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        self.tally.count(is_reported=True)
        if self.args.num_eval_answers and self.is_world_process_zero():
            rows = self.eval_dataset.rows.rows
            answers = sample_answers(self.llava, self.data.train_processor, rows, self.args.num_eval_answers)
            append_answers(Path(self.args.output_dir), step, answers)
        return {**metrics, **self.task_metrics, **self.tally.metrics("eval")}

    def _report_tasks(self) -> dict[str, Any]:
        """Report an evaluation without rows, as paddlenlp reports one with rows."""
        logs = defined(self.task_metrics)
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        return {**logs, **self.task_metrics}

    def evaluation_loop(self, dataloader, description, prediction_loss_only=None, ignore_keys=None, **options):
        """Evaluate; the loss is the mean that `loss_reduction` names, not paddlenlp's mean over batches."""
        self._eval_sums = np.zeros(2)
        prefix = options.get("metric_key_prefix", "eval")
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, **options)
        loss, total = sum_over_processes(self._eval_sums, self.args.world_size)
        output.metrics[f"{prefix}_loss"] = check_loss(float(loss / max(total, 1e-6)), f"{prefix}_loss")
        output.metrics.update(defined(self.task_metrics))
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Compute the loss of a batch, and add it to the sums of `evaluation_loop`."""
        total = 0.0
        if isinstance(inputs["batch"], Batch):  # a failure is raised by compute_loss
            weights = loss_weights(inputs["batch"], self.args.loss_reduction)
            total = float(weights.sum())
            inputs = {**inputs, WEIGHTS: weights / np.float32(max(total, 1e-6))}
        with paddle.no_grad(), self.autocast_smart_context_manager():
            loss = self.compute_loss(model, inputs)
        self._eval_sums += [float(loss) * total, total]
        return loss.detach(), None, None

    def create_optimizer(self, lr_scheduler=None):
        """Build the optimizer once. See `optimizer.build_optimizer`."""
        if self.optimizer is None:
            scale = self.model.lora_config.lora_plus_scale if isinstance(self.model, LoRAModel) else 1.0
            schedule = self.lr_scheduler if lr_scheduler is None else lr_scheduler
            self.optimizer = build_optimizer(self.llava, self.args, schedule, lora_plus_scale=scale)
        return self.optimizer

    def num_steps(self) -> int:
        """Return the step at which training ends."""
        args = self.args
        per_epoch = max(len(self._sampler()) // args.gradient_accumulation_steps, 1)
        return args.max_steps if args.max_steps > 0 else int(per_epoch * args.num_train_epochs)

    def get_train_dataloader(self):
        """Return the loader of training batches, which have their weights in the optimizer step."""
        sampler = self._get_train_sampler()
        num_done, num_steps = self.num_done_steps, self.num_steps()
        self.args.ignore_data_skip &= num_done < num_steps  # else nothing is left to read
        sampler.resume_after(0 if self.args.ignore_data_skip else num_done, num_steps)
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
        sampler = self._sampler()
        if sampler.num_left_out:
            notice(
                f"{sampler.num_left_out} batches of an epoch fill no step of {sampler.num_accumulated} batches "
                "(gradient_accumulation_steps) and are left out, other rows each epoch"
            )
        return sampler

    def _sampler(self) -> EpochBatchSampler:
        return EpochBatchSampler(
            self.train_dataset,
            batch_size=self.args.per_device_train_batch_size,
            num_replicas=self.args.dataset_world_size,
            rank=self.args.dataset_rank,
            drop_last=self.args.dataloader_drop_last,
            seed=self.args.seed,
            num_accumulated=self.args.gradient_accumulation_steps,
            grouping=self.data.grouping,
        )

    def save_model(self, output_dir=None, merge_tensor_parallel=False):
        """Save the model, all processes together: divided weights are gathered first."""
        self._check_trained("the trained weights are not saved")
        if self.llava.is_sliced and not isinstance(self.model, LoRAModel):
            gather_frozen(self.model_wrapped)
        super().save_model(output_dir, merge_tensor_parallel)

    def _save(self, output_dir=None, state_dict=None, merge_tensor_parallel=False):
        write_model(self, Path(output_dir or self.args.output_dir))

    def _save_checkpoint(self, model, metrics=None):
        """Write a whole checkpoint or none. See `saving.save_checkpoint`."""
        save_checkpoint(self, metrics)

    def _load_from_checkpoint(self, resume_from_checkpoint=None):
        if resume_from_checkpoint:
            fail_together(lambda: load_weights(self.model, Path(resume_from_checkpoint)), self.args.world_size)
            self._check_trained(str(resume_from_checkpoint))

    def _check_trained(self, what: str) -> None:
        check_weights(self.llava, what, num_processes=self.args.world_size, is_trained_only=True)

    def _load_optimizer_and_scheduler(self, checkpoint):
        """Restore all of the run's state, which paddlenlp would unpickle. See `run_state`."""
        if checkpoint is not None:
            self._random_state = load_state(self, Path(checkpoint))
            self._load_rng_state(checkpoint)

    def _load_rng_state(self, checkpoint):
        """Restore a checkpoint's random state; paddlenlp calls it again after skipping the data of earlier steps."""
        if self._random_state is not None:
            set_random_state(self._random_state)
