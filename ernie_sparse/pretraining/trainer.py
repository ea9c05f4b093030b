# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
SaorTrainer for pretraining: rows may stream, and then where each process is in the data stands in every checkpoint; evaluation says how
many masked tokens are right, and what the loss is under patterns that are not trained with.
"""

import dataclasses
import warnings
from collections import Counter
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import TrainerCallback

from ..trainer import SaorTrainer
from .rows import RowStream, skipped_in

# Beside the model's own pattern, and how an evaluation calls them.
OTHER_PATTERNS = {"wider": "a wider window", "no_global": "no global blocks"}


class PretrainTrainer(SaorTrainer):
    """
    Args:
        checkpoint (`str`, *optional*): Where rows that stream go on.
        args, kwargs: As for [`SaorTrainer`].

    `skipped` says after a training on rows that stream what of the text was left out ([`Corpus`]).
    """

    def __init__(self, *args, checkpoint: str | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.checkpoint = checkpoint
        own = self.accelerator.unwrap_model(self.model).config.pattern
        self.other_patterns = {
            "wider": dataclasses.replace(own, num_window_blocks=own.num_window_blocks + 4),
            "no_global": dataclasses.replace(own, num_global_blocks=0, num_window_blocks=own.num_window_blocks + 2),
        }
        self._evaluated = None
        self.skipped = Counter()
        if isinstance(self.train_dataset, RowStream):
            # What has been trained on is not read once more: the rows themselves go on behind it.
            self.args.ignore_data_skip = True
            self.add_callback(_KeepPlace(self))

    def get_train_dataloader(self):
        if not isinstance(self.train_dataset, RowStream):
            return super().get_train_dataloader()
        args = self.args
        # Its call of what torch has given up does no harm, and is no business of who trains.
        warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)
        loader = StatefulDataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            # What begins an iteration draws from it, and else from the state that dropout draws from: a run that goes on would
            # differ from then on.
            generator=torch.Generator().manual_seed(args.seed),
        )
        if self.checkpoint is not None:
            loader.load_state_dict(
                torch.load(Path(self.checkpoint) / place_file(args.process_index), weights_only=True)
            )
        return loader

    def _compute_evaluation_loss(self, model, inputs, return_outputs: bool):
        """As of [`SaorTrainer`], with logits of masked tokens alone; how many are right, and the losses under other patterns."""
        is_masked = inputs["labels"] != -100
        count = is_masked.sum()
        inputs = {**inputs, "logits_to_keep": is_masked}
        loss, outputs = super()._compute_evaluation_loss(model, inputs, return_outputs=True)
        found = [(outputs.logits.argmax(-1) == inputs["labels"][is_masked]).sum()]
        for pattern in self.other_patterns.values():
            found.append(torch.where(count > 0, model(**inputs, pattern=pattern).loss * count, 0))
        # A sum, and no list: what is kept of each batch would lie between what the next ones need, and memory would grow with them.
        self._evaluated += torch.stack([value.double() for value in (*found, count)])
        return (loss, outputs) if return_outputs else loss

    def _without_repeated(self, inputs: dict) -> dict:
        # Of flat batches, which hold all rows in one.
        inputs = dict(inputs)
        lengths = inputs.pop("row_lengths", None)
        if lengths is None:
            return super()._without_repeated(inputs)
        labels = inputs["labels"].clone()
        labels[:, lengths[: self.num_own_rows(len(lengths))].sum() :] = -100
        return {**inputs, "labels": labels}

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._evaluated = torch.zeros(2 + len(self.other_patterns), dtype=torch.double, device=self.args.device)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        *sums, count = self.accelerator.gather(self._evaluated[None]).sum(0).tolist()
        names = ["accuracy", *(f"loss_{name}" for name in self.other_patterns)]
        for name, value in zip(names, sums, strict=True):
            output.metrics[f"{metric_key_prefix}_{name}"] = value / max(count, 1)
        return output


def place_file(process: int) -> str:
    return f"place_in_data_{process}.pt"


class _KeepPlace(TrainerCallback):
    """Writes into every checkpoint where this process is in the data, and says at the end what was skipped of it."""

    def __init__(self, trainer: PretrainTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        # Trainer counts the batches of this iteration: the share of all updates is what a run that goes on agrees on.
        state.epoch = state.global_step / state.max_steps

    def on_save(self, args, state, control, train_dataloader=None, **kwargs):
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(train_dataloader.state_dict(), checkpoint / place_file(args.process_index))

    def on_train_end(self, args, state, control, train_dataloader=None, **kwargs):
        self.trainer.skipped = sum(gather_object([skipped_in(train_dataloader.state_dict())]), Counter())
