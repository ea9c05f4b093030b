# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The flags of a run, beside SAOR's."""

from dataclasses import dataclass, field
from typing import ClassVar

from ernie_sparse.command_line import check_least
from ernie_sparse.errors import InputError, input_errors
from ernie_sparse.training_arguments import RunArguments

from . import PROG
from .models import MODELS, UNSEEN_PATTERNS
from .tasks import TASKS

USAGE = f"""--task NAME --model NAME [--seed S] [--self-pretrain] [--data-dir D] [--output-dir OUT] [options]
       {PROG} --list
       {PROG} --make TASK --out DIR [--train-size N --validation-size N --test-size N --seed S]
       {PROG} --report [--results-dir DIR] [--page FILE]

examples:
  {PROG} --list
  {PROG} --make listops --out data/lra/listops
  {PROG} --task listops --model hst --seed 0
  {PROG} --task text --model hst-saor --self-pretrain --data-dir imdb --bf16
  {PROG} --task listops --model flat --pattern num_global_blocks=4 --max-steps 1000

--list shows tasks, models and where data comes from. --make writes the data of listops or pathfinder into --out. --report puts the
results below --results-dir (benchmarks/results/lra) into the tables of --page (docs/notebook/lra.md). A run takes updates, batch size,
learning rate and warm-up from its task and SAOR from its model where no flag says otherwise, whatever is printed as a default
below; it writes to runs/lra/TASK/MODEL-seed-S."""


@dataclass
class LraArguments:
    _argument_group_name: ClassVar[str] = "task and model"

    task: str = field(metadata={"help": f"One of {', '.join(TASKS)}."})
    model: str = field(metadata={"help": f"One of {', '.join(MODELS)}."})
    pattern: str | None = field(
        default=None,
        metadata={"help": "Fields of the model's pattern to change, such as num_global_blocks=2 (ERNIE-Sparse only)."},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the task's files; data/lra/TASK, then the source, if None."}
    )
    train_size: int | None = field(default=None, metadata={"help": "Rows to train on, drawn at random; all if None."})
    validation_size: int | None = field(default=None, metadata={"help": "Rows to choose the checkpoint by."})
    test_size: int | None = field(default=None, metadata={"help": "Rows to test on."})
    self_pretrain: bool = field(
        default=False,
        metadata={
            "help": "First masked modelling of the task's own training inputs, with SAOR where the model has HST."
        },
    )
    self_pretrain_steps: int | None = field(
        default=None, metadata={"help": "Its updates; as many as the training's if None."}
    )
    self_pretrain_learning_rate: float = field(default=5e-4, metadata={"help": "Its learning rate, at most."})
    cuda_graphs: bool = field(
        default=False,
        metadata={
            "help": "Keep the training rows on the GPU and replay the forward and backward pass of each shape of a batch as one "
            "CUDA graph. Same rows and same losses but for rounding. ERNIE-Sparse only, one GPU, and not for self-pretraining, "
            "which runs as without it."
        },
    )
    eval_patterns: list[str] = field(
        default_factory=lambda: list(UNSEEN_PATTERNS),
        metadata={
            "help": "Changes of the pattern under which a model with HST is tested as well; the word none for no such test."
        },
    )

    def __post_init__(self):
        own = MODELS[self.model].pattern
        if self.pattern is not None and own is None:
            raise InputError(
                f"--pattern {self.pattern}: {self.model} is transformers' own and has no pattern to change"
            )
        if self.eval_patterns == ["none"]:
            self.eval_patterns = []
        for flag, texts in (("--pattern", [self.pattern]), ("--eval-patterns", self.eval_patterns)):
            for text in texts:
                if own is not None and text is not None:
                    with input_errors(about=flag):
                        own.changed_by(text)
        check_least(self, {"self_pretrain_learning_rate": 0})
        if self.self_pretrain_steps is not None and (self.self_pretrain_steps < 1 or not self.self_pretrain):
            raise InputError(
                f"--self-pretrain-steps {self.self_pretrain_steps}: at least 1, and beside --self-pretrain"
            )
        for name, size in self.limits().items():
            if size < 1:
                raise InputError(f"--{name}-size {size}: at least 1 row is needed")

    def limits(self) -> dict[str, int]:
        """The most rows of each split that has a limit."""
        sizes = {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}
        return {name: size for name, size in sizes.items() if size is not None}


@dataclass
class LraRunArguments(RunArguments):
    output_dir: str | None = field(
        default=None, metadata={"help": "Where everything of the run is written; runs/lra/TASK/MODEL-seed-S if None."}
    )
