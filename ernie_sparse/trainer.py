# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
SaorTrainer: transformers' Trainer with a second, perturbed pattern per step and the two parts of the loss in the log. Its
losses are means over predictions, however they are batched, and it stops where a training diverges.
"""

import contextlib
import dataclasses
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from accelerate.utils import gather_object
from huggingface_hub import HfApi
from torch.nn.utils import get_total_norm
from transformers import ProgressCallback, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from .block_plan import plan_batch
from .configuration_ernie_sparse import ErnieSparseConfig, code_files
from .errors import InputError
from .model_card import CardFacts, Score, write_card
from .sparse_pattern import SparsePattern
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
PERTURBATIONS = ("shift", "block_size", "window", "random", "hierarchy", "none")


@dataclass
class SaorArguments:
    """
    How SAOR regularises the training. All three are our choice; the paper names neither the second pattern nor the weight.

    Raises:
        `ValueError`: A negative or infinite alpha, no pattern to sample, or an entry that is neither a perturbation nor a pattern.
    """

    _argument_group_name: ClassVar[str] = "SAOR, the consistency between two sparse patterns"

    saor_alpha: float = field(
        default=1.0,
        metadata={"help": "Weight of the consistency loss. 0 turns SAOR off: one pass per step, no overhead."},
    )
    saor_patterns: list[str] = field(
        default_factory=lambda: ["shift", "block_size", "window", "random"],
        metadata={
            "help": (
                "What the second pattern of each step is drawn from. Names perturb the model's own pattern: shift (other "
                "block boundaries), block_size (half or double), window (two blocks less or more), random (one to three "
                "random blocks more), hierarchy (representatives on or off), none (the same pattern twice: dropout alone, "
                "as R-Drop). Anything else is read as a pattern, such as block_size=32,num_window_blocks=5."
            )
        },
    )
    saor_seed: int = field(default=0, metadata={"help": "Seed of the draw, which depends on it and the step alone."})

    def __post_init__(self):
        if not 0 <= self.saor_alpha < math.inf:
            raise ValueError(f"saor_alpha={self.saor_alpha} is not allowed: it must be at least 0, and finite")
        if not self.saor_patterns:
            raise ValueError("saor_patterns is empty: name at least one perturbation or pattern")
        for entry in self.saor_patterns:
            if entry not in PERTURBATIONS:
                try:
                    SparsePattern.parse(entry)
                except ValueError as error:
                    names = ", ".join(PERTURBATIONS)
                    raise ValueError(
                        f"saor_patterns: {entry!r} is not one of {names}, nor a pattern: {error}"
                    ) from None


def second_pattern(own: SparsePattern, saor: SaorArguments, step: int) -> SparsePattern:
    """
    The second pattern of a step: a pure function of the model's own pattern, the arguments and the step, so that all
    processes agree and a resumed run repeats it.
    """
    draw = random.Random(f"{saor.saor_seed}/{step}")
    entry = draw.choice(saor.saor_patterns)
    return perturb(own, entry, draw) if entry in PERTURBATIONS else SparsePattern.parse(entry)


def perturb(own: SparsePattern, name: str, draw: random.Random) -> SparsePattern:
    """
    `own` with the one thing changed that `name` (of `PERTURBATIONS`) says. Always another pattern, except for `none` and
    for the shift of blocks of one token.
    """
    if name == "none":
        return own
    if name == "hierarchy":
        return dataclasses.replace(own, hierarchical=not own.hierarchical)
    if name == "window":
        narrower, wider = own.num_window_blocks - 2, own.num_window_blocks + 2
        return dataclasses.replace(own, num_window_blocks=draw.choice([w for w in (narrower, wider) if w > 0]))
    if name == "random":
        return dataclasses.replace(
            own, num_random_blocks=own.num_random_blocks + draw.randint(1, 3), seed=draw.randrange(2**32)
        )
    if name == "block_size":
        block_size = draw.choice([size for size in (own.block_size // 2, own.block_size * 2) if size > 0])
        return dataclasses.replace(own, block_size=block_size, block_shift=own.block_shift % block_size)
    if own.block_size == 1:
        return own
    shift = (own.block_shift + draw.randint(1, own.block_size - 1)) % own.block_size
    return dataclasses.replace(own, block_shift=shift)


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
        reason = "SAOR compares the passes inside the model, and labels are smoothed outside: it needs --saor-alpha 0"
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
    """A loss, a gradient or a weight is not finite: the training has to be done otherwise, such as with a lower rate."""


class SaorTrainer(PatchedTrainer):
    """
    Trains any ErnieSparse head with SAOR: each training step runs two passes in one forward, the first under the model's
    own pattern and the second under one drawn from `saor.saor_patterns`. Evaluation and prediction run one pass under
    the model's own pattern. `task_loss` and `consistency_loss` (before alpha) are logged beside `loss`.

    Losses are means over all predictions that have a label: those of an evaluation, where labels are never smoothed, whatever
    the batches and processes, and `train_loss` over the whole run, where it went on from a checkpoint as well. Training stops,
    with a [`DivergedError`], before the first update whose loss or gradient is not finite, and no such weights are saved.

    Args:
        saor ([`SaorArguments`], *optional*): The defaults when `None`.
        args, kwargs: As for `transformers.Trainer`.

    Raises:
        `ValueError`: With SAOR on, a model without sparse patterns, or a `label_smoothing_factor` or a
            `compute_loss_func`: both take the labels away from the model, which then could not compare its two passes. A
            `label_smoothing_factor` where a prediction is no choice among classes.
    """

    def __init__(self, *args, saor: SaorArguments | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.saor = SaorArguments() if saor is None else saor
        if self.saor.saor_alpha > 0 and self.compute_loss_func is not None:
            raise ValueError(
                "SAOR compares the passes inside the model: compute_loss_func, which computes the loss outside of it, needs "
                "saor_alpha=0"
            )
        model = self.accelerator.unwrap_model(self.model)
        config, is_number = model.config, getattr(model, "num_labels", None) == 1
        problem_type = config.problem_type or ("regression" if is_number else None)
        check_label_smoothing(self.args.label_smoothing_factor, self.saor, model, problem_type)
        if self.saor.saor_alpha > 0 and not isinstance(config, ErnieSparseConfig):
            raise ValueError(
                f"a {config.model_type} model has no sparse pattern to perturb: SAOR needs saor_alpha=0 there"
            )
        if self.args.ddp_find_unused_parameters is None and self.accelerator.ddp_handler is not None:
            # Every head uses every weight, but for those of the representatives where there is no hierarchy.
            self.accelerator.ddp_handler.find_unused_parameters = not getattr(config, "hierarchical", True)
        self.add_callback(_OrderOfEpoch())
        self.add_callback(LossOfRun())
        self._loss_parts = {}
        self._loss_parts_since = 0
        self._update_loss = 0.0
        self._evaluation_losses = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not model.training:
            return self._compute_evaluation_loss(model, inputs, return_outputs)
        if self.saor.saor_alpha > 0:
            own = self.accelerator.unwrap_model(model).config.pattern
            patterns = {"pattern": own, "consistency_pattern": second_pattern(own, self.saor, self.state.global_step)}
            if self.args.torch_compile:
                # As tables they are inputs of the program; as values they would be constants, compiled anew each step.
                shape = (inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]).shape[:2]
                per_block = self.accelerator.unwrap_model(model).config.num_representatives_per_block
                settings = (per_block, shape, self.accelerator.device, inputs.get("attention_mask"), None, True)
                patterns = {name: plan_batch(pattern, *settings) for name, pattern in patterns.items()}
            inputs = {**inputs, **patterns, "consistency_alpha": self.saor.saor_alpha}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.saor.saor_alpha > 0:
            self.add_loss_parts(outputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

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

    def add_loss_parts(self, outputs, num_items_in_batch: torch.Tensor | int | None):
        """Add `task_loss` and `consistency_loss` of a batch's outputs to what is logged next."""
        if not self._loss_parts:
            self._loss_parts_since = self.state.global_step
        # As Trainer scales the loss: by processes where it counted the items of all of them, else by accumulated batches.
        scale = 1 / self.current_gradient_accumulation_steps
        if num_items_in_batch is not None:
            scale = (
                max(self.accelerator.num_processes, self.args.n_gpu) if self.args.average_tokens_across_devices else 1
            )
        for name in ("task_loss", "consistency_loss"):
            self._loss_parts[name] = self._loss_parts.get(name, 0.0) + outputs[name].detach().mean() * scale

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        # Trainer counts the labels that are not -100: what a label is, and whether it is missing, the model knows.
        batches = []

        def with_labels(batch: dict) -> dict:
            batches.append(batch)
            is_labelled = self._is_labelled(batch)
            return {} if is_labelled is None else {"labels": torch.where(is_labelled, 0, -100)}

        _, num_items = super().get_batch_samples(map(with_labels, epoch_iterator), num_batches, device)
        return batches, num_items

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = self.forward_and_backward(model, inputs, num_items_in_batch)
        self._update_loss = self._update_loss + loss
        if self.accelerator.sync_gradients:
            self._finish_gradient(model, self._update_loss)
            self._update_loss = 0.0
        return loss

    def forward_and_backward(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """The loss of a batch, whose gradient is added to that of the weights: a training step without what looks at both."""
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
        """The model card of this project in place of transformers' own, with the metrics of the last evaluation."""
        if not self.is_world_process_zero():
            return
        model = self.accelerator.unwrap_model(self.model)
        evaluated = next((entry for entry in reversed(self.state.log_history) if "eval_loss" in entry), {})
        is_score = re.compile("eval_(?!runtime|.*_per_second|model_preparation)")
        scores = [Score(is_score.sub("", name), value) for name, value in evaluated.items() if is_score.match(name)]
        count = f"{len(self.train_dataset):,} rows, " if hasattr(self.train_dataset, "__len__") else ""
        facts = CardFacts(
            about=f"An ERNIE-Sparse encoder ({type(model).__name__}).",
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
        As transformers has it, but of the output folder nothing is pushed beside [`PUSHED`].

        Args:
            has_card (`bool`, defaults to `False`): Whether the README.md in the output folder stays as it is.
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

    def _check_weights(self):
        # An update may end the weights although its loss and its gradient were finite.
        if not all(weight.isfinite().all() for weight in self.model.parameters()):
            raise self._diverged(f"weights are not finite after update {self.state.global_step}")

    def train(self, *args, **kwargs) -> TrainOutput:
        self._update_loss = 0.0
        with self._bars_closed():
            return super().train(*args, **kwargs)._replace(training_loss=self._loss_of_run.mean())

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
        """The batch without the labels of rows that fill it up where the last rows do not go into the processes evenly."""
        progress = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not progress.end_of_dataloader or progress.remainder <= 0:
            return inputs
        labels = {name: inputs[name].clone() for name in self.label_names if inputs.get(name) is not None}
        for values in labels.values():
            first = max(0, progress.remainder - self.accelerator.process_index * len(values))
            values[first:] = math.nan if values.is_floating_point() else -100
        return {**inputs, **labels}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:
            logs["train_loss"] = self._loss_of_run.mean()
        if "loss" in logs and self._loss_parts:
            steps = self.state.global_step - self._loss_parts_since
            for name, total in self._loss_parts.items():
                logs[name] = self.accelerator.gather(total.reshape(1)).mean().item() / steps
            self._loss_parts = {}
        super().log(logs, start_time)


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
