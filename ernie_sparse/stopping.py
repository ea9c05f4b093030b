# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
A training that SIGTERM or Ctrl-C stops behind a checkpoint of its last update, from which it goes on as if nothing had been.

transformers has `enable_jit_checkpoint` for SIGTERM alone: it waits for three seconds, saves between a gradient and its update,
each process at a step of its own, and ends as a finished training does, with the best model loaded.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from .errors import InputError
from .signals import Stopped, StopSignals, noted
from .training_checkpoints import last_checkpoint

ANSWER = "stopping after a checkpoint of this update; a second signal stops at once"


@contextmanager
def stops_at_updates(trainer: Trainer) -> Iterator[None]:
    """
    Around `trainer.train()`: a signal stops it at the end of an update, of the same one in all processes.

    Raises:
        [`Stopped`]: With how to go on. It leaves no way to what follows a training.
    """
    with noted(ANSWER) as signals:
        stop = _StopAtUpdate(signals)
        trainer.add_callback(stop)
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            if signals.number is None:
                raise
            # Such as a process that loads rows, or another of several, that the signal has ended.
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise Stopped(signals.number, _message("stopped", signals.number, trainer.args, reason)) from error
        except Stopped as stopped:
            if stop.is_saved:
                # Bars and trackers are closed, as at every end of a training.
                trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
                raise
            raise Stopped(stopped.number, _message("ended at once", stopped.number, trainer.args)) from None
        if number := _agree(signals, trainer.args):
            raise Stopped(number, _message("stopped behind the last update", number, trainer.args))


class _StopAtUpdate(TrainerCallback):
    """Has a checkpoint written where a signal was noted, and raises [`Stopped`] when it is there."""

    def __init__(self, signals: StopSignals):
        self.signals = signals
        self.is_saved = False
        self._number = 0

    def on_step_end(self, args, state, control, **kwargs):
        # The evaluation of an epoch belongs before its checkpoint: who goes on from there begins with the next epoch.
        is_last = control.should_training_stop or control.should_epoch_stop or state.epoch.is_integer()
        if not (is_last and args.eval_strategy == IntervalStrategy.EPOCH):
            self._save_if_noted(args, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._save_if_noted(args, control)

    def _save_if_noted(self, args: TrainingArguments, control):
        self._number = _agree(self.signals, args)
        if self._number:
            self.signals.note(self._number)
            # What has been trained since the last log would be in no log.
            control.should_log = control.should_save = True
            if args.save_strategy == SaveStrategy.BEST:
                # It would save after an evaluation where that was the best.
                args.save_strategy = SaveStrategy.STEPS

    def on_save(self, args, state, control, **kwargs):
        if self._number:
            # The process that writes comes last.
            PartialState().wait_for_everyone()
            self.is_saved = True
            raise Stopped(self._number, _message(f"stopped at update {state.global_step}", self._number, args))


def _agree(signals: StopSignals, args: TrainingArguments) -> int:
    """The signal that one of the processes has noted; 0 if there is none."""
    number = signals.number or 0
    if args.world_size == 1:
        return number
    return int(gather(torch.tensor([number], device=args.device)).max())


def _message(what: str, number: int, args: TrainingArguments, reason: str = "") -> str:
    then = "resumes it" if last_checkpoint(args.output_dir) else "starts again, for there is no checkpoint"
    because = f" ({reason})" if reason else ""
    return f"{what} by {signal.Signals(number).name}{because}; the same command {then}"
