# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The flags of training: those of transformers, with the defaults of a command, and without those that cannot work there."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import ClassVar

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.training_args import ParallelMode

from .command_line import MOST_PROCESSES, check_least, check_most
from .errors import InputError, without_secrets

_ON_ORDER = "predictions are matched with their rows, which have to come as one array and in order"
_ON_COMMAND = "the command decides what is done"
_ON_WEIGHTS = (
    "it takes the trained weights themselves to half precision: --bf16 trains and evaluates in mixed precision"
)
_ON_LIGER = "there are no such kernels for this model"
_ON_HUB = "only the finished model is pushed, not what lies in its folder while it is trained"
# Flags of transformers that are refused, with the reason.
REFUSED = {
    "bf16_full_eval": _ON_WEIGHTS,
    "fp16_full_eval": _ON_WEIGHTS,
    "use_liger_kernel": _ON_LIGER,
    "liger_kernel_config": _ON_LIGER,
    "use_cache": "only a decoder has a cache",
    "neftune_noise_alpha": "its noise depends on how far a row is padded, and so on what else is in its batch",
    "auto_find_batch_size": "after the first batch that does not fit another training would go on from this one's weights",
    "prediction_loss_only": "pretrain looks at the loss alone anyway, and finetune has metrics of predictions",
    "eval_do_concat_batches": _ON_ORDER,
    "eval_use_gather_object": _ON_ORDER,
    "dataloader_in_order": _ON_ORDER,
    "batch_eval_metrics": "metrics are computed of all predictions, and not of each batch",
    "include_for_metrics": "metrics are computed of predictions alone",
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C leave a checkpoint anyway",
    "hub_strategy": _ON_HUB,
    "hub_always_push": _ON_HUB,
    "ignore_data_skip": "a run that goes on would train on rows of its epoch once more",
    "restore_callback_states_from_checkpoint": "a run that goes on would forget what early stopping has counted",
    "accelerator_config": "it decides which process has which row, and a run that goes on has to have the same",
    "parallelism_config": "processes share the rows, and each has the whole model",
    "dataloader_drop_last": "it would leave out rows of the evaluation sets as well",
    "remove_unused_columns": "rows carry more than the model reads, such as where they belong",
    "length_column_name": "the lengths stand in the column length",
    "debug": "its hooks cannot read this model's masks; a training ends at the first loss or gradient that is not finite",
    "do_train": _ON_COMMAND,
    "do_predict": _ON_COMMAND,
}
AT_LEAST_ONE = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("eval_accumulation_steps", "save_total_limit", "dataloader_prefetch_factor", "torch_empty_cache_steps"),
    *("ddp_bucket_cap_mb", "ddp_timeout"),
)
NOT_NEGATIVE = (
    *("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "num_train_epochs", "label_smoothing_factor"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "seed", "data_seed", "dataloader_num_workers"),
    *("logging_steps", "eval_steps", "eval_delay"),
)
LESS_THAN = {"seed": 2**32, "data_seed": 2**32, "adam_beta1": 1, "adam_beta2": 1}
AT_MOST = {"dataloader_num_workers": MOST_PROCESSES}


@dataclass
class RunArguments(TrainingArguments):
    """
    transformers' `TrainingArguments`, with the defaults of a command-line run. `hub_token` is handed to huggingface_hub as
    the environment variable `HF_TOKEN` and is kept nowhere else.

    Raises:
        [`InputError`]: A flag that cannot work here, or a value that no training could begin or end with.
    """

    _argument_group_name: ClassVar[str] = "training: the flags of transformers.TrainingArguments"

    output_dir: str = field(metadata={"help": "Where checkpoints, the final model and results.json are written."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(
        default="epoch", metadata={"help": "When to write a checkpoint: no, steps, epoch or best."}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    logging_steps: float = field(
        default=50,
        metadata={
            "help": "Log every so many steps (below 1: a share of all). At 50, a run logs at least 20 times, or at every step."
        },
    )
    # Losses that are not finite would be logged as 0.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Has no effect: such a loss ends the run."})
    hub_strategy: str = field(default="end", metadata={"help": "When to push: end."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "False: rows keep what the model does not read."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "True: what early stopping has counted goes on as well."}
    )
    resume_from_checkpoint: str = field(
        default="last",
        metadata={
            "help": "Where to go on: 'last' is the newest checkpoint in --output-dir (a run that has none begins), and a folder is "
            "that checkpoint."
        },
    )
    resume_incomplete: bool = field(
        default=False,
        metadata={"help": "Go on from a checkpoint that lacks the optimizer's, schedule's or random state as well."},
    )

    def __post_init__(self):
        if self.hub_token is not None:
            # A checkpoint, results and trackers hold the arguments.
            os.environ["HF_TOKEN"], self.hub_token = self.hub_token, None
        # Trainer would stumble over them later, when something has been written.
        self._check()
        if not torch.accelerator.is_available():
            self.use_cpu = True
            self.dataloader_pin_memory = False
        if self.save_strategy == "best" and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        try:
            super().__post_init__()
        except ValueError as error:
            if self.ddp_backend is not None and "process group" in str(error):
                raise _wrong(self, "ddp_backend", "it is for several processes, as torchrun starts them") from error
            raise InputError(" ".join(str(error).split())) from error
        self._try_out()

    @property
    def is_sharded(self) -> bool:
        """Whether each process keeps a part of the training's state, by a flag or by the config of `accelerate launch`."""
        launched = (os.environ.get(f"ACCELERATE_USE_{name}", "") for name in ("FSDP", "DEEPSPEED"))
        return bool(self.fsdp or self.deepspeed) or any(value.lower() == "true" for value in launched)

    def __getstate__(self) -> dict:
        # What `training_args.bin` holds.
        return {name: _without_secrets(value) for name, value in vars(self).items()}

    def to_dict(self) -> dict:
        """As transformers has it, for trackers, without passwords and tokens in URLs."""
        return _without_secrets(super().to_dict())

    def _check(self):
        for flag in dataclasses.fields(self):
            value, default = getattr(self, flag.name), flag.default
            if default is dataclasses.MISSING and flag.default_factory is not dataclasses.MISSING:
                default = flag.default_factory()
            if flag.name in REFUSED and value != default:
                raise _wrong(self, flag.name, REFUSED[flag.name])
        check_least(self, {**dict.fromkeys(AT_LEAST_ONE, 1), **dict.fromkeys(NOT_NEGATIVE, 0)})
        check_most(self, AT_MOST)
        for name, bound in LESS_THAN.items():
            if (getattr(self, name) or 0) >= bound:
                raise _wrong(self, name, f"it must be less than {bound}")
        for name, is_wrong, reason in self._conflicts():
            if is_wrong:
                raise _wrong(self, name, reason)

    def _conflicts(self) -> Iterator[tuple[str, bool, str]]:
        """Flags, whether their value is wrong, and what would be right."""
        yield "label_smoothing_factor", self.label_smoothing_factor > 1, "it must be at most 1"
        yield "max_steps", self.max_steps == 0 or self.max_steps < -1, "it must be at least 1, or -1 for whole epochs"
        no_epochs = self.max_steps == -1 and self.num_train_epochs == 0
        yield "num_train_epochs", no_epochs, "it must be more than 0, or nothing would be trained"
        yield "save_steps", self.save_steps <= 0, "it must be more than 0"
        for name, known in (("eval_strategy", IntervalStrategy), ("save_strategy", SaveStrategy)):
            yield name, getattr(self, name) not in known.__members__.values(), f"it must be one of {', '.join(known)}"
        never = self.save_strategy == "best" and self.eval_strategy == "no"
        yield "save_strategy", never, "it needs an --eval-strategy"
        on_cpu = self.use_cpu or not torch.accelerator.is_available()
        yield "fp16", self.fp16 and on_cpu, "it needs a GPU; --bf16 does not"
        yield (
            "label_names",
            self.label_names not in (None, ["labels"]),
            "the type of task says which columns are labels",
        )
        yield "fsdp_config", bool(self.fsdp_config) and not self.fsdp, "it needs --fsdp"
        yield "deepspeed", bool(self.deepspeed) and find_spec("deepspeed") is None, "deepspeed is not installed"
        pairs = [pair.partition("=") for pair in (self.optim_args or "").split(",") if pair]
        yield "optim_args", not all(name and value for name, _, value in pairs), "it must be name=value,name=value"
        for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
            yield (
                name,
                bool(getattr(self, name)) and not self.dataloader_num_workers,
                "it needs --dataloader-num-workers",
            )
        methods = get_all_start_methods()
        unknown = self.dataloader_multiprocessing_context not in (None, *methods)
        yield "dataloader_multiprocessing_context", unknown, f"it must be one of {', '.join(methods)}"
        names, installed = self.report_to or [], get_available_reporting_integrations()
        names = {names} if isinstance(names, str) else {*names}
        yield "report_to", not names <= {"all", "none", *installed}, f"installed are {', '.join(installed) or 'none'}"
        for name in self._VALID_DICT_FIELDS:
            fault = _fault_of_mapping(name, getattr(self, name))
            yield name, fault is not None, fault

    def _try_out(self):
        """What is found out otherwise when the model has been loaded: schedules and compilers, made for nothing."""
        if self.fsdp and self.parallel_mode != ParallelMode.DISTRIBUTED:
            raise _wrong(self, "fsdp", "it is for several processes, as torchrun starts them")
        optimizer, own = torch.optim.SGD([torch.zeros(1)]), dict(self.lr_scheduler_kwargs or {})
        try:
            get_scheduler(self.lr_scheduler_type, optimizer, 1, 2, own)
        except (TypeError, ValueError) as error:
            raise InputError(f"--lr-scheduler-type {self.lr_scheduler_type.value}: {error}") from error
        if self.torch_compile:
            try:
                torch.compile(torch.abs, backend=self.torch_compile_backend, mode=self.torch_compile_mode)
            except RuntimeError as error:
                raise InputError(f"--torch-compile: {' '.join(str(error).split())}") from error


def _fault_of_mapping(name: str, value) -> str | None:
    """What is wrong with what should be an object of JSON or, for what is called a config, a file of one."""
    if not value or not isinstance(value, str):
        return None
    if value.startswith("{"):
        try:
            json.loads(value)
        except ValueError as error:
            return f"it is no JSON: {error}"
        return None
    if name.endswith("_kwargs"):
        return 'it must be an object of JSON, such as {"name": 1}'
    return None if Path(value).is_file() else "there is no such file"


def _without_secrets(value):
    if isinstance(value, dict):
        return {name: _without_secrets(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_secrets(part) for part in value]
    # An enum of strings stays one.
    return without_secrets(value) if type(value) is str else value


def _wrong(training: TrainingArguments, name: str, reason: str) -> InputError:
    return InputError(f"--{name.replace('_', '-')} {getattr(training, name)}: {reason}")


def check_best_metric(training: TrainingArguments, names: Iterable[str] = ()):
    """Raise an [`InputError`] where `metric_for_best_model` is neither the loss nor one of the metrics' `names`."""
    metric, names = training.metric_for_best_model, ("loss", *names)
    if metric is not None and metric.removeprefix("eval_") not in names:
        raise _wrong(training, "metric_for_best_model", f"it must be one of {', '.join(names)}")


# The flags of transformers that make an update what it is, beside the recipe of rows and rate.
OPTIMIZATION = (
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "label_smoothing_factor", "train_sampling_strategy"),
)
# What else decides the weights at the end: rows and rate, precision, which checkpoint is the best one, and how often an
# evaluation set is read, which draws from the random state that dropout draws from.
COURSE = (
    *("seed", "data_seed", "learning_rate", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "average_tokens_across_devices"),
    *("optim_target_modules", "bf16", "fp16", "tf32", "full_determinism", "fsdp", "fsdp_config", "deepspeed"),
    *("torch_compile", "torch_compile_backend", "torch_compile_mode", "dataloader_persistent_workers"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
)
# Where the best checkpoint is wanted, which ones there are.
SAVING = ("save_strategy", "save_steps")


def training_facts(training: TrainingArguments) -> dict[str, object]:
    """What a training was done with: with another of these it would have come to other weights."""
    names = COURSE + OPTIMIZATION + (SAVING if training.load_best_model_at_end else ())
    # DataParallel gives each GPU of a process a batch of its own.
    return {
        **{name: getattr(training, name) for name in names},
        "world_size": training.world_size * max(1, training.n_gpu),
        "is_sharded": training.is_sharded,
    }
