# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""SaorTrainer on rows that stream: where each process is in the data stands in every checkpoint."""

from pathlib import Path

import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import TrainerCallback

from ..trainer import SaorTrainer
from .rows import RowStream


class PretrainTrainer(SaorTrainer):
    """
    Args:
        checkpoint (`str`, *optional*): Where rows that stream go on.
        args, kwargs: As for [`SaorTrainer`].
    """

    def __init__(self, *args, checkpoint: str | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.checkpoint = checkpoint
        if isinstance(self.train_dataset, RowStream):
            # What has been trained on is not read once more: the rows themselves go on behind it.
            self.args.ignore_data_skip = True
            self.add_callback(_KeepPlace())

    def get_train_dataloader(self):
        if not isinstance(self.train_dataset, RowStream):
            return super().get_train_dataloader()
        args = self.args
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
            loader.load_state_dict(torch.load(place_file(self.checkpoint, args.process_index), weights_only=False))
        return loader


def place_file(checkpoint: str | Path, process: int) -> Path:
    return Path(checkpoint) / f"place_in_data_{process}.pt"


class _KeepPlace(TrainerCallback):
    """Writes into every checkpoint where this process is in the data."""

    def on_step_end(self, args, state, control, **kwargs):
        # Trainer counts the batches of this iteration: the share of all updates is what a run that goes on agrees on.
        state.epoch = state.global_step / state.max_steps

    def on_save(self, args, state, control, train_dataloader=None, **kwargs):
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(train_dataloader.state_dict(), place_file(checkpoint, args.process_index))
