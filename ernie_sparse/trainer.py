# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
SaorTrainer: transformers' Trainer with a second, perturbed pattern per step and the parts of the loss in the log. Its
losses are means over predictions, however they are batched, and it stops where a training diverges.
"""

import contextlib
import inspect
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.utils import gather_object
from huggingface_hub import HfApi
from torch.nn.utils import get_total_norm
from transformers import ProgressCallback, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import logging

from .allocator import give_back_freed_memory
from .block_plan import plan_batch
from .configuration_ernie_sparse import ErnieSparseConfig, code_files
from .errors import InputError
from .files import open_to_readers
from .model_card import CardFacts, Score, class_name_of, write_card
from .modeling_ernie_sparse import ErnieSparseModel
from .regularization import SaorArguments, patterns_of_step
from .trainer_internals import PatchedTrainer
from .training_checkpoints import last_checkpoint

# What of an output folder goes to the Hub: the model, its tokenizer, and what the commands say of it. Predictions hold what
# stands in the user's rows.
PUSHED = (
    *(
        "*.safetensors",
        "*.safetensors.index.json",
        "config.json",
        *(file.name for file in code_files()),
        "finetune.json",
        "README.md",
        "*.png",
    ),
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
    ),
    "*.model",
)
_NOT_CLASSES = ("regression", "multi_label_classification")


def check_label_smoothing(
    factor: float,
    saor: SaorArguments,
    model_class: type,
    problem_type: str | None = None,
    has_class_weights: bool = False,
):
    """
    Raise an [`InputError`] where labels are to be smoothed and this training cannot do it: with SAOR, with class weights, or
    where a prediction is no choice among all classes. `model_class` may be a model as well.
    """
    if factor == 0:
        return
    if saor.saor_alpha > 0:
        reason = (
            "SAOR and its like are computed inside the model, and labels are smoothed outside: it needs --saor-alpha 0"
        )
    elif has_class_weights:
        reason = "smoothed labels know no class weights"
    elif not getattr(model_class, "accepts_label_smoothing", True) or problem_type in _NOT_CLASSES:
        reason = (
            "it is for classes that exclude each other (single_label, token_classification, masked language models)"
        )
    else:
        return
    raise InputError(f"--label-smoothing-factor {factor:g}: {reason}")


def check_optimizer(training: TrainingArguments):
    """Raise an [`InputError`] where the optimizer is not installed or its arguments are none: Trainer sees it with a model."""
    try:
        PatchedTrainer.get_optimizer_cls_and_kwargs(training, torch.nn.Linear(1, 1))
    except (ImportError, ValueError) as error:
        # Which layers are named is the model's business.
        if isinstance(error, ImportError) or not training.optim_target_modules:
            raise InputError(f"--optim {training.optim.value}: {error}") from error


class DivergedError(InputError):
    """
    A loss, a gradient or a weight is not finite. The message names the update and the last good checkpoint. Train with
    a lower learning rate.
    """


class SaorTrainer(PatchedTrainer):
    """
    A `transformers.Trainer` that trains any ERNIE-Sparse model with a head, with SAOR. Each training step runs two
    passes in one forward: the first under the model's own pattern, the second under a pattern drawn from
    `saor.saor_patterns`. `saor.regularization` names other regularizations, or none. Evaluation and prediction run one
    pass under the model's own pattern.

    - The log has `task_loss` and `consistency_loss` (or `alignment_loss`) beside `loss`. They are means over the steps
      that have them, not yet multiplied by alpha.
    - `eval_loss` is the mean over all predictions with a label, whatever the batch size and the number of processes.
      Labels are never smoothed in evaluation. `train_loss` is the mean over the whole run, even if it went on from a
      checkpoint.
    - Training stops with a [`DivergedError`] before the first update whose loss or gradient is not finite. Weights
      that are not finite are not saved.

    Args:
        saor ([`SaorArguments`], *optional*): How the training is regularized; `SaorArguments()` when `None`.
        args, kwargs: As for `transformers.Trainer`.

    Raises:
        `TypeError`: `saor` is something else.
        `ValueError`: The model is not one of transformers or has no head. `label_smoothing_factor` is given for
            regression, several labels, question answering or candidate choice. Or, with a regularization:

            - The model has no sparse pattern, or its `forward` does not take the arguments that are needed.
            - `label_smoothing_factor` or `compute_loss_func` is given. They compute the loss outside of the model.
            - There is a temperature, and the task is regression.
            - `saor_share` leaves out no row of a batch.
            - With `alignment`: a second pattern has representatives, and the first has none.
            - One process trains on several GPUs, with `saor_share` or `torch_compile`.

    Example:

    ```python
    >>> from ernie_sparse import SaorArguments, SaorTrainer

    >>> trainer = SaorTrainer(model=model, args=args, train_dataset=rows, saor=SaorArguments(saor_alpha=0.5))
    >>> trainer.train()
    ```
    """

    def __init__(self, *args, saor: SaorArguments | None = None, **kwargs):
        if not isinstance(saor, SaorArguments | None):
            raise TypeError(f"saor={saor!r}: SaorArguments are needed")
        super().__init__(*args, **kwargs)
        self.saor = SaorArguments() if saor is None else saor
        if self.saor.saor_alpha > 0 and self.compute_loss_func is not None:
            raise ValueError(
                "SAOR compares the passes inside the model: compute_loss_func, which computes the loss outside of it, needs "
                "saor_alpha=0"
            )
        model = self.accelerator.unwrap_model(self.model)
        if not hasattr(model, "config"):
            raise ValueError(
                f"model is a {type(model).__name__}, which has no config: a model of transformers is needed"
            )
        if isinstance(model, ErnieSparseModel):
            raise ValueError("model is an ErnieSparseModel, which takes no labels: a model with a head is needed")
        config, is_number = model.config, getattr(model, "num_labels", None) == 1
        problem_type = config.problem_type or ("regression" if is_number else None)
        check_label_smoothing(self.args.label_smoothing_factor, self.saor, model, problem_type)
        if self.saor.saor_alpha > 0 and not isinstance(config, ErnieSparseConfig):
            raise ValueError(
                f"a {config.model_type} model has no sparse pattern to perturb: SAOR needs saor_alpha=0 there"
            )
        may_be_flat = not getattr(config, "hierarchical", True)
        if self.saor.saor_alpha > 0:
            self._check_regularization(model, problem_type)
            may_be_flat = False in self.saor.may_be_hierarchical(config.pattern)[0]
        if self.args.ddp_find_unused_parameters is None and self.accelerator.ddp_handler is not None:
            # Every head uses every weight, but for those of the representatives where there is no hierarchy.
            self.accelerator.ddp_handler.find_unused_parameters = may_be_flat
        self.add_callback(_OrderOfEpoch())
        self.add_callback(LossOfRun())
        if self.args.device.type == "cpu":
            self.add_callback(_GiveBackMemory())
        # By part and step.
        self._loss_parts = {}
        self._num_tokens = None
        self._update_loss = 0.0
        self._evaluation_losses = []

    def _check_regularization(self, model: torch.nn.Module, problem_type: str | None):
        saor, size = self.saor, self.args.per_device_train_batch_size
        if saor.saor_temperature != 1 and problem_type == "regression":
            raise ValueError(f"saor_temperature={saor.saor_temperature}: the distribution of a number has none")
        if saor.saor_share < 1 and saor.rows(0, size) is None:
            raise ValueError(f"saor_share={saor.saor_share} of a batch of {size} is all of it: it needs larger batches")
        if saor.saor_share < 1 and self.args.n_gpu > 1:
            raise ValueError(f"saor_share={saor.saor_share} needs one process per GPU, as torchrun starts them")
        if self.args.torch_compile and self.args.n_gpu > 1:
            # What a program takes of a pattern are tensors, which DataParallel would share out.
            raise ValueError("torch_compile=True needs one process per GPU, as torchrun starts them")
        firsts, seconds = saor.may_be_hierarchical(model.config.pattern)
        if saor.regularization == "alignment" and False in firsts and True in seconds:
            raise ValueError(
                "regularization=alignment cannot align a pattern without representatives with one that has them: leave such "
                "entries out of saor_patterns"
            )
        needed = ["alignment_pattern"] if saor.regularization == "alignment" else ["consistency_pattern"]
        needed += ["consistency_temperature"] * (saor.saor_temperature != 1) + ["consistency_rows"] * (
            saor.saor_share < 1
        )
        taken = inspect.signature(model.forward).parameters
        missing = [name for name in needed if name not in taken]
        if missing and not any(argument.kind == argument.VAR_KEYWORD for argument in taken.values()):
            raise ValueError(f"a {type(model).__name__} takes no {missing[0]}: it cannot be trained so")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not model.training:
            return self._compute_evaluation_loss(model, inputs, return_outputs)
        if self.saor.saor_alpha > 0:
            own = self.accelerator.unwrap_model(model)
            inputs = {**inputs, **self._model_arguments(own, inputs)}
            if "alignment_pattern" in inputs and num_items_in_batch is not None:
                inputs["num_tokens_in_batch"] = self._num_tokens
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.saor.saor_alpha > 0:
            self.add_loss_parts(outputs, num_items_in_batch, loss)
        return (loss, outputs) if return_outputs else loss

    def _model_arguments(self, model: torch.nn.Module, inputs: dict) -> dict:
        """What the model is given for the regularisation of this step, beside the batch."""
        saor, step, device = self.saor, self.state.global_step, self.accelerator.device
        first, second = patterns_of_step(model.config.pattern, saor, step)
        batch = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
        rows = None
        if second is not None and saor.regularization != "alignment":
            rows = saor.rows(step, batch.shape[0])
            rows = None if rows is None else torch.tensor(rows, device=device)
        alpha = saor.alpha(step, self.state.max_steps)
        if self.args.torch_compile:
            # As tables they are inputs of the program; as values they would be constants, compiled anew each step.
            mask, settings = inputs.get("attention_mask"), (None, True)
            per_block, (num_rows, num_places) = model.config.num_representatives_per_block, batch.shape[:2]
            first = plan_batch(first, per_block, (num_rows, num_places), device, mask, *settings)
            if second is not None:
                if rows is not None:
                    num_rows, mask = len(rows), None if mask is None else mask[rows]
                second = plan_batch(second, per_block, (num_rows, num_places), device, mask, *settings)
            alpha = torch.tensor(alpha, device=device)
        if second is None:
            return {"pattern": first}
        name = "alignment_pattern" if saor.regularization == "alignment" else "consistency_pattern"
        arguments = {"pattern": first, name: second, "consistency_alpha": alpha}
        if saor.saor_temperature != 1:
            arguments["consistency_temperature"] = saor.saor_temperature
        return arguments if rows is None else {**arguments, "consistency_rows": rows}

    def _compute_evaluation_loss(self, model, inputs, return_outputs: bool):
        """The mean over this process's batch, which is noted down with the number of its predictions."""
        is_labelled = self._is_labelled(inputs)
        num_items = None if is_labelled is None else is_labelled.sum()
        if num_items is not None and self.model_accepts_loss_kwargs:
            # To the model itself: Trainer would scale the loss for the sum of the processes' gradients. DataParallel passes
            # numbers to all devices.
            inputs = {**inputs, "num_items_in_batch": num_items.item() if self.args.n_gpu > 1 else num_items}
        if self.label_smoother is None:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        else:
            # Smoothed are the labels that are trained on: what an evaluation tells of is the likelihood of the right ones.
            outputs = model(**inputs)
            loss = outputs["loss"]
        if num_items is not None:
            loss = loss.sum()
            self._evaluation_losses.append((loss.detach(), num_items))
        return (loss, outputs) if return_outputs else loss

    def _is_labelled(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Which predictions of a batch have a label; `None` where it has no labels."""
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "is_labelled"):
            return model.is_labelled(batch)
        return batch["labels"] != -100 if "labels" in batch else None

    def add_loss_parts(self, outputs, num_items_in_batch: torch.Tensor | int | None, loss: torch.Tensor | None = None):
        """Add the parts of a batch's loss to what is logged next: those of its outputs or, of a plain step, `loss` itself."""
        # As Trainer scales the loss: by processes where it counted the items of all of them, else by accumulated batches.
        scale = per_batch = 1 / self.current_gradient_accumulation_steps
        if num_items_in_batch is not None:
            per_batch = 1
            scale = (
                max(self.accelerator.num_processes, self.args.n_gpu) if self.args.average_tokens_across_devices else 1
            )
        parts = {name: outputs.get(name) for name in ("task_loss", "consistency_loss", "alignment_loss")}
        parts = {name: part.detach().mean() * scale for name, part in parts.items() if part is not None}
        if loss is not None:
            # A plain step's loss is the task's, and is scaled already.
            parts.setdefault("task_loss", loss.detach().mean() * per_batch)
        for name, part in parts.items():
            by_step = self._loss_parts.setdefault(name, {})
            by_step[self.state.global_step] = by_step.get(self.state.global_step, 0.0) + part

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        # Trainer counts the labels that are not -100: what a label is, and whether it is missing, the model knows.
        batches = []

        def with_labels(batch: dict) -> dict:
            batches.append(batch)
            is_labelled = self._is_labelled(batch)
            return {} if is_labelled is None else {"labels": torch.where(is_labelled, 0, -100)}

        _, num_items = super().get_batch_samples(map(with_labels, epoch_iterator), num_batches, device)
        if self.saor.regularization == "alignment":
            # So too the tokens, over which the alignment is meant.
            tokens = ({"labels": torch.where(_is_real(batch), 0, -100)} for batch in batches)
            _, self._num_tokens = super().get_batch_samples(tokens, num_batches, device)
        return batches, num_items

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.forward_and_backward(model, inputs, num_items_in_batch)
        self._update_loss = self._update_loss + loss
        if self.accelerator.sync_gradients:
            self._finish_gradient(model, self._update_loss)
            self._update_loss = 0.0
        return loss

    def forward_and_backward(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """The loss of a batch, whose gradient is added to that of the weights: a training step without its checks."""
        return super().training_step(model, inputs, num_items_in_batch)

    def _finish_gradient(self, model, loss: torch.Tensor):
        """Before an update: whether its loss and gradient are finite, in all processes, and the loss of the run so far."""
        # fp16: some updates are left out by design, those that overflow under the present scale.
        norm = torch.zeros_like(loss) if self.accelerator.scaler is not None else self.gradient_norm(model)
        # Of all parts, where it is sharded.
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        found = self.accelerator.gather(torch.stack([loss, norm.to(loss)])[None]).tolist()
        for name, values in zip(("loss", "gradient"), zip(*found, strict=True), strict=True):
            if not all(map(math.isfinite, values)):
                raise self._diverged(f"the {name} of update {self.state.global_step + 1} is not finite")
        self._loss_of_run.add(sum(process_loss for process_loss, _ in found) / len(found))

    def gradient_norm(self, model) -> torch.Tensor:
        """Of all gradients together."""
        return get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])

    def _diverged(self, what: str) -> DivergedError:
        last = last_checkpoint(self.args.output_dir)
        kept = "nothing had been saved before" if last is None else f"the last good checkpoint is {last}"
        return DivergedError(
            f"the training diverged: {what}; {kept}; train with a lower --learning-rate than {self.args.learning_rate:g}"
        )

    def create_model_card(
        self, license: str | None = None, finetuned_from: str | None = None, dataset: str | None = None, **kwargs
    ):
        """
        Write the model card `README.md` to the output folder: what the model is, how to load it, and the metrics of
        the last evaluation.

        Args:
            license (`str`, *optional*):
                The license of the model, such as `apache-2.0`. When `None`, that of the card beside the checkpoint that the
                training began with, or `unknown`.
            finetuned_from (`str`, *optional*): The base model; the one that was loaded when `None`.
            dataset (`str`, *optional*): The name of the training data on the Hub.
            kwargs: Other arguments of `Trainer.create_model_card`; they are ignored.
        """
        if not self.is_world_process_zero():
            return
        model = self.accelerator.unwrap_model(self.model)
        evaluated = next((entry for entry in reversed(self.state.log_history) if "eval_loss" in entry), {})
        is_score = re.compile("eval_(?!runtime|.*_per_second|model_preparation)")
        scores = [Score(is_score.sub("", name), value) for name, value in evaluated.items() if is_score.match(name)]
        count = f"{len(self.train_dataset):,} rows, " if hasattr(self.train_dataset, "__len__") else ""
        facts = CardFacts(
            about=f"An ERNIE-Sparse encoder ({class_name_of(model)}).",
            facts={"trained on": f"{count}{self.state.global_step:,} steps, seed {self.args.seed}"},
            source=finetuned_from or model.name_or_path or None,
            license=license,
            data=dataset if isinstance(dataset, str) else None,
            evaluated_on="the evaluation rows of the training",
            scores=[score for score in scores if isinstance(score.value, int | float)],
        )
        folder = Path(self.args.output_dir)
        write_card(folder, self.hub_model_id or folder.name, model, facts)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        has_card: bool = False,
        **kwargs,
    ):
        """
        Save the model and push it to the Hub: weights, config, code, tokenizer, model card and pictures of the output
        folder, and the settings that `ernie-sparse predict` needs. Checkpoints, results and predictions are not
        pushed.

        Args:
            commit_message (`str`, defaults to `"End of training"`): The message of the commit.
            blocking (`bool`, defaults to `True`): Whether to wait until everything is uploaded.
            token (`str`, *optional*): A token of the Hub; the one you are logged in with when `None`.
            revision (`str`, *optional*): The branch to push to; `args.hub_revision` when `None`.
            private (`bool`, *optional*): Whether a repository that is made is private.
            has_card (`bool`, defaults to `False`): Whether to keep the `README.md` that is in the output folder.
            kwargs: As for [`SaorTrainer.create_model_card`].

        Returns:
            `CommitInfo` or `Future`: The commit, or its future with `blocking=False`. `None` in all processes but the
                first.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if not has_card:
            self.create_model_card(**kwargs)
        return HfApi().upload_folder(
            repo_id=self.hub_model_id,
            folder_path=self.args.output_dir,
            commit_message=commit_message,
            token=token,
            run_as_future=not blocking,
            revision=revision or self.args.hub_revision,
            allow_patterns=list(PUSHED),
            # Nothing of its subfolders.
            ignore_patterns=["*/*"],
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False):
        self._check_weights()
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            open_to_readers(Path(output_dir or self.args.output_dir))

    def _check_weights(self):
        # An update may end the weights although its loss and its gradient were finite.
        if not all(weight.isfinite().all() for weight in self.model.parameters()):
            raise self._diverged(f"weights are not finite after update {self.state.global_step}")

    def train(self, *args, **kwargs) -> TrainOutput:
        self._update_loss = 0.0
        with self._bars_closed(), self._ties_unreported():
            return super().train(*args, **kwargs)._replace(training_loss=self._loss_of_run.mean())

    @contextlib.contextmanager
    def _ties_unreported(self) -> Iterator[None]:
        """Trainer says that weights are missing in a checkpoint which holds them once, under the name they are tied to."""

        def is_news(record) -> bool:
            text = record.getMessage()
            if not text.startswith("There were missing keys in the checkpoint"):
                return True
            missing, weights = set(re.findall("'([^']+)'", text)), self.model.state_dict(keep_vars=True)
            there = {id(weight) for name, weight in weights.items() if name not in missing}
            return not all(id(weights.get(name)) in there for name in missing)

        trainer_log = logging.get_logger("transformers.trainer")
        trainer_log.addFilter(is_news)
        try:
            yield
        finally:
            trainer_log.removeFilter(is_news)

    @contextlib.contextmanager
    def _bars_closed(self) -> Iterator[None]:
        """Whatever ends what is done inside: an error would otherwise be said behind a progress bar, on its line."""
        try:
            yield
        except BaseException:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressCallback):
                    for bar in (callback.prediction_bar, callback.training_bar):
                        if bar is not None:
                            bar.close()
            raise

    @property
    def _loss_of_run(self) -> "LossOfRun":
        # Trainer makes callbacks anew where it restores their state.
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, LossOfRun))

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        if self.is_in_train:
            self._check_weights()
        self._evaluation_losses = []
        with self._bars_closed():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        if self._evaluation_losses:
            # Trainer has the mean of the batches' means; and fp32 would be too little for sums.
            losses, counts = (
                torch.stack(values).cpu().double() for values in zip(*self._evaluation_losses, strict=True)
            )
            total = torch.where(counts > 0, losses * counts, 0).sum().item()
            totals, sizes = zip(*gather_object([(total, counts.sum().item())]), strict=True)
            output.metrics[f"{metric_key_prefix}_loss"] = sum(totals) / max(sum(sizes), 1)
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        return super().prediction_step(model, self._without_repeated(inputs), prediction_loss_only, ignore_keys)

    def _without_repeated(self, inputs: dict) -> dict:
        """The batch without the labels of rows that fill it up."""
        labels = {name: inputs[name].clone() for name in self.label_names if inputs.get(name) is not None}
        for values in labels.values():
            values[self.num_own_rows(len(values)) :] = math.nan if values.is_floating_point() else -100
        return {**inputs, **labels}

    def num_own_rows(self, count: int) -> int:
        """How many of the `count` rows of a batch are no others' once more: the last ones may not go into the processes evenly."""
        progress = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not progress.end_of_dataloader or progress.remainder <= 0:
            return count
        return min(count, max(0, progress.remainder - self.accelerator.process_index * count))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:
            logs["train_loss"] = self._loss_of_run.mean()
        if "loss" in logs and self._loss_parts:
            for name, by_step in self._loss_parts.items():
                mean = torch.stack(list(by_step.values())).mean()
                logs[name] = self.accelerator.gather(mean.reshape(1)).mean().item()
            self._loss_parts = {}
        super().log(logs, start_time)


def _is_real(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which tokens of a batch are no padding."""
    if batch.get("attention_mask") is not None:
        return batch["attention_mask"] != 0
    tokens = batch["input_ids"] if "input_ids" in batch else batch["inputs_embeds"][..., 0]
    return torch.ones_like(tokens, dtype=torch.bool)


class _OrderOfEpoch(TrainerCallback):
    """
    Batches of rows of a length in an order that is a function of seed and epoch. Their sampler draws from the global random
    state, which dropout on a CPU leaves different in each process, and which a run that goes on within an epoch no longer has.
    That of `batch_rebalance` has a seed of its own, whatever the arguments say.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        batches = getattr(train_dataloader, "batch_sampler", None)
        # With several processes each has a part of the batches.
        batches = getattr(batches, "batch_sampler", batches)
        sampler = getattr(batches, "sampler", None)
        seed = args.seed if args.data_seed is None else args.data_seed
        if isinstance(sampler, LengthGroupedSampler):
            draw = random.Random(f"{seed}/{int(state.epoch or 0)}")
            sampler.generator = torch.Generator().manual_seed(draw.getrandbits(63))
            # It sorts by them, and a column of a data set looks each one up in a file.
            sampler.lengths = sampler.lengths[:]
        elif args.train_sampling_strategy == "batch_rebalance":
            # To which it adds the epoch.
            batches.seed = random.Random(seed).getrandbits(62)


class _GiveBackMemory(TrainerCallback):
    """
    Gives the system back what evaluations have freed: what Trainer keeps of each batch lies between what the next ones need, so that
    the memory of a long evaluation would grow with its length.
    """

    EVERY = 50

    def __init__(self):
        self.batches = 0

    def on_prediction_step(self, args, state, control, **kwargs):
        self.batches += 1
        if self.batches % self.EVERY == 0:
            give_back_freed_memory()


class LossOfRun(TrainerCallback, ExportableState):
    """The sum of the losses of all updates and their number, which a checkpoint carries along."""

    def __init__(self, total: float = 0.0, updates: int = 0):
        self.total, self.updates = total, updates

    def state(self) -> dict:
        return {"args": {"total": self.total, "updates": self.updates}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        # Whether or not the states of other callbacks are restored.
        earlier = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        self.total, self.updates = (earlier["args"][name] if earlier else 0 for name in ("total", "updates"))

    def add(self, loss: float):
        self.total, self.updates = self.total + loss, self.updates + 1

    def mean(self) -> float:
        return self.total / max(self.updates, 1)
