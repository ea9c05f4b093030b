# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The flags of training: those of transformers, with the defaults of a command."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import TrainingArguments

from .command_line import check_least
from .errors import InputError


@dataclass
class RunArguments(TrainingArguments):
    """transformers' `TrainingArguments`, all of them, with the defaults of a command-line run."""

    _argument_group_name: ClassVar[str] = "training: every flag of transformers.TrainingArguments"

    output_dir: str = field(metadata={"help": "Where checkpoints, the final model and results.json are written."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps (below 1: a share of all)."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "Go on from a checkpoint: 'last' for the newest one in --output-dir, or its folder."},
    )

    def __post_init__(self):
        if not torch.accelerator.is_available():
            self.use_cpu = True
            self.dataloader_pin_memory = False
        super().__post_init__()
        # Trainer would stumble over them later, when something has been written.
        at_least_one = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        not_negative = ("learning_rate", "weight_decay", "max_grad_norm", "dataloader_num_workers", "num_train_epochs")
        not_negative += ("seed", "data_seed")
        check_least(self, {**dict.fromkeys(at_least_one, 1), **dict.fromkeys(not_negative, 0)})
        for name in ("seed", "data_seed"):
            if (getattr(self, name) or 0) >= 2**32:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: it must be less than {2**32}")


# The flags of transformers that make an update what it is, beside the recipe of rows and rate.
OPTIMIZATION = (
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "label_smoothing_factor", "neftune_noise_alpha"),
    "train_sampling_strategy",
)


def training_facts(training: TrainingArguments) -> dict[str, object]:
    """What a training was done with."""
    names = ("seed", "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size")
    names += ("gradient_accumulation_steps", "warmup_steps")
    return {name: getattr(training, name) for name in names + OPTIMIZATION}
