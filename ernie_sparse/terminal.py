# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a training says in the terminal: what it is before it begins, losses while it goes on, and how long it will take."""

import time
from collections.abc import Iterable

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from .results import print_table
from .training_arguments import RunArguments

# Where --logging-steps is its default, losses are logged so often at least.
LEAST_LOGS = 20
# Of a log, what is no figure of the training, or stands in the table at the end.
UNSAID = ("epoch", "total_flos", "num_input_tokens_seen")
UNSAID_ENDINGS = ("_runtime", "_samples_per_second", "_steps_per_second")
# The time of all updates is estimated from so many after the first; a time of fewer seconds is not said.
TIMED_UPDATES, WORTH_SAYING = 5, 30


def report_in_terminal(trainer: Trainer, facts: Iterable[tuple[str, object]]):
    """Let a trainer speak by [`TrainingReport`] instead of by its own bar and its dictionaries."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(TrainingReport(facts))


class TrainingReport(ProgressCallback):
    """
    Before a training: a table of what it is. While it goes on: a bar, a line for each log, and after some updates how long the others
    will take.

    Args:
        facts (`Iterable[tuple[str, object]]`): The first rows of the table.
    """

    def __init__(self, facts: Iterable[tuple[str, object]]):
        super().__init__()
        self.facts = list(facts)
        self._first_update: tuple[int, float] | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if args.logging_steps == RunArguments.logging_steps:
            state.logging_steps = min(state.logging_steps, max(1, state.max_steps // LEAST_LOGS))
        if not state.is_world_process_zero or state.global_step >= state.max_steps:
            return
        begun = [("resumes after update", f"{state.global_step:,}")] if state.global_step else []
        print_table([*self.facts, *_facts_of(args, state, model), *begun])
        self._first_update = None
        if not args.disable_tqdm:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)
        if self._first_update is None:
            self._first_update = (state.global_step, time.monotonic())
            return
        first, begin = self._first_update
        if state.is_world_process_zero and state.global_step == first + TIMED_UPDATES:
            seconds = (time.monotonic() - begin) / TIMED_UPDATES * (state.max_steps - state.global_step)
            if seconds >= WORTH_SAYING:
                self._say(f"about {in_words(seconds)} to go, without evaluations")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "train_loss" in logs:
            return
        figures = [
            f"{name.removeprefix('train_').replace('_', ' ')} {f'{value:.4g}' if isinstance(value, float) else value}"
            for name, value in logs.items()
            if name not in UNSAID and not name.endswith(UNSAID_ENDINGS)
        ]
        width = len(f"{state.max_steps:,}")
        self._say(f"update {state.global_step:>{width},} of {state.max_steps:,}: {', '.join(figures)}")

    def on_prediction_step(self, args, state, control, **kwargs):
        if not args.disable_tqdm:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_train_end(self, args, state, control, **kwargs):
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def _say(self, text: str):
        if self.training_bar is not None:
            self.training_bar.write(text)
        else:
            print(text, flush=True)


def _facts_of(args, state, model: torch.nn.Module) -> list[tuple[str, object]]:
    count = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    device = args.device.type
    if device == "cpu":
        device = f"CPU, {torch.get_num_threads()} threads"
    elif device == "cuda":
        device = torch.cuda.get_device_name()
    if args.world_size > 1:
        device = f"{args.world_size} processes, each on {device}"
    return [
        ("parameters", f"{count:,}" + (f", of which {trained:,} are trained" if trained < count else "")),
        ("updates", f"{state.max_steps:,} of {rows:,} rows, {_in_epochs(state.num_train_epochs)}"),
        ("runs on", f"{device}, {precision}"),
    ]


def _in_epochs(count: int) -> str:
    # Of rows that stream, transformers takes as many epochs as there could be.
    return "streamed" if count >= 2**31 else "1 epoch" if count == 1 else f"{count:,} epochs"


def in_words(seconds: float) -> str:
    """A time, as one says it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
