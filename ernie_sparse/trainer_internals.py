# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The private methods of transformers' Trainer that are overridden, all of them: each for a reason for which there is no public
method, argument or callback, and each with a test in tests/test_trainer_internals.py that fails when transformers changes it.
"""

from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, Trainer


class PatchedTrainer(Trainer):
    """transformers' Trainer, but evaluation keeps the order of its rows, and a run at its end makes no further update."""

    def _get_eval_sampler(self, eval_dataset):
        # `train_sampling_strategy="group_by_length"` reorders evaluation sets as well, and nothing but this says otherwise;
        # predictions are matched with their rows, and with those of another evaluation, by their place.
        return SequentialSampler(eval_dataset)

    def _run_epoch(self, *args, resume_from_checkpoint=None, **kwargs):
        # Where a run goes on from its last checkpoint, transformers makes one more update before it looks whether any is
        # left, and a whole evaluation's more where it had stopped early. A callback can stop it no earlier than after that.
        is_over = self.state.global_step >= self.state.max_steps
        if is_over or (resume_from_checkpoint is not None and self._has_stopped_early()):
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _has_stopped_early(self) -> bool:
        return any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )
