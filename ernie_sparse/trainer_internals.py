# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The private methods of transformers' Trainer that are overridden, all of them: each for a reason for which there is no public
method, argument or callback, and each with a test in tests/test_trainer_internals.py that fails when transformers changes it.
"""

from torch.utils.data import SequentialSampler
from transformers import Trainer


class PatchedTrainer(Trainer):
    """transformers' Trainer, but evaluation keeps the order of its rows, and a run at its end makes no further update."""

    def _get_eval_sampler(self, eval_dataset):
        # `train_sampling_strategy="group_by_length"` reorders evaluation sets as well, and nothing but this says otherwise;
        # predictions are matched with their rows, and with those of another evaluation, by their place.
        return SequentialSampler(eval_dataset)

    def _run_epoch(self, *args, **kwargs):
        # Where a run goes on from its last checkpoint, transformers makes one more update before it looks whether any is
        # left. A callback can stop it no earlier than after that update.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)
