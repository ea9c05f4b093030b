# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""SaorTrainer: transformers' Trainer with a second, perturbed pattern per step and the two parts of the loss in the log."""

import dataclasses
import random
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from .configuration_ernie_sparse import ErnieSparseConfig
from .sparse_pattern import SparsePattern, block_plan
from .trainer_internals import PatchedTrainer

PERTURBATIONS = ("shift", "block_size", "window", "random", "hierarchy", "none")


@dataclass
class SaorArguments:
    """
    How SAOR regularises the training. All three are our choice; the paper names neither the second pattern nor the weight.

    Raises:
        `ValueError`: A negative alpha, no pattern to sample, or an entry that is neither a perturbation nor a pattern.
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
        if not self.saor_alpha >= 0:
            raise ValueError(f"saor_alpha={self.saor_alpha} is not allowed: it must be at least 0")
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


class SaorTrainer(PatchedTrainer):
    """
    Trains any ErnieSparse head with SAOR: each training step runs two passes in one forward, the first under the model's
    own pattern and the second under one drawn from `saor.saor_patterns`. Evaluation and prediction run one pass under
    the model's own pattern. `task_loss` and `consistency_loss` (before alpha) are logged beside `loss`.

    Args:
        saor ([`SaorArguments`], *optional*): The defaults when `None`.
        args, kwargs: As for `transformers.Trainer`.

    Raises:
        `ValueError`: With SAOR on, a model without sparse patterns, or a `label_smoothing_factor` or a
            `compute_loss_func`: both take the labels away from the model, which then could not compare its two passes.
    """

    def __init__(self, *args, saor: SaorArguments | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.saor = SaorArguments() if saor is None else saor
        if self.saor.saor_alpha > 0 and (self.label_smoother is not None or self.compute_loss_func is not None):
            raise ValueError(
                "SAOR compares the passes inside the model: label_smoothing_factor and compute_loss_func, which compute "
                "the loss outside of it, need saor_alpha=0"
            )
        config = self.accelerator.unwrap_model(self.model).config
        if self.saor.saor_alpha > 0 and not isinstance(config, ErnieSparseConfig):
            raise ValueError(
                f"a {config.model_type} model has no sparse pattern to perturb: SAOR needs saor_alpha=0 there"
            )
        if self.args.ddp_find_unused_parameters is None and self.accelerator.ddp_handler is not None:
            # Every head uses every weight, but for those of the representatives where there is no hierarchy.
            self.accelerator.ddp_handler.find_unused_parameters = not getattr(config, "hierarchical", True)
        self.add_callback(_OrderOfEpoch())
        self._loss_parts = {}
        self._loss_parts_since = 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.saor.saor_alpha > 0 and model.training:
            own = self.accelerator.unwrap_model(model).config.pattern
            patterns = {"pattern": own, "consistency_pattern": second_pattern(own, self.saor, self.state.global_step)}
            if self.args.torch_compile:
                # As tables they are inputs of the program; as values they would be constants, compiled anew each step.
                length, device = _length(inputs), self.accelerator.device
                patterns = {name: block_plan(pattern, length, device) for name, pattern in patterns.items()}
            inputs = {**inputs, **patterns, "consistency_alpha": self.saor.saor_alpha}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if self.saor.saor_alpha > 0 and model.training:
            self._add_loss_parts(outputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _add_loss_parts(self, outputs, num_items_in_batch: torch.Tensor | int | None):
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
        # Question answering has no `labels` to count: there an item is a row of which an answer starts in it.
        batches = []

        def with_labels(batch: dict) -> dict:
            batches.append(batch)
            is_extractive = "labels" not in batch and "start_positions" in batch
            return {"labels": _positions_as_labels(batch)} if is_extractive else batch

        _, num_items = super().get_batch_samples(map(with_labels, epoch_iterator), num_batches, device)
        return batches, num_items

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
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
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        batches = getattr(train_dataloader, "batch_sampler", None)
        # With several processes each has a part of the batches.
        sampler = getattr(getattr(batches, "batch_sampler", batches), "sampler", None)
        if isinstance(sampler, LengthGroupedSampler):
            seed = args.seed if args.data_seed is None else args.data_seed
            draw = random.Random(f"{seed}/{int(state.epoch or 0)}")
            sampler.generator = torch.Generator().manual_seed(draw.getrandbits(63))


def _positions_as_labels(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """One label per row: 0 where at least one of its positions is a real token's, otherwise -100."""
    positions, length = batch["start_positions"], _length(batch)
    positions = positions.unsqueeze(1) if positions.dim() == 1 else positions
    is_real = (positions >= 0) & (positions < length)
    if "attention_mask" in batch:
        is_real &= batch["attention_mask"].gather(1, positions.clamp(0, length - 1)) != 0
    return torch.where(is_real.any(dim=1), 0, -100)


def _length(batch: dict[str, torch.Tensor]) -> int:
    return batch["input_ids"].shape[-1] if "input_ids" in batch else batch["inputs_embeds"].shape[-2]
