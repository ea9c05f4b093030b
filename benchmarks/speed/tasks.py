# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What the models are timed on: one step over random ids, as a value to run again and again."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from ernie_sparse import ErnieSparseConfig
from ernie_sparse.block_plan import plan_batch

from .measure import Case
from .models import Sizes, build_encoder, build_masked_lm, is_ours

LABEL_SHARE = 0.15


@dataclasses.dataclass(frozen=True)
class Task:
    """
    Args:
        text (`str`): What one step is.
        backward (`bool`): Whether it is a training step.
        attention_dropout (`float`): Of every model that has it.
        variants (`tuple[str, ...]`):
            Empty when all models run, each once, over the same model without attention. Otherwise only our own models run, once per variant,
            and the first variant is what the others are over.
        has_memory (`bool`): Whether peak memory is measured as well.
    """

    name: str
    text: str
    backward: bool = True
    attention_dropout: float = 0.0
    variants: tuple[str, ...] = ()
    has_memory: bool = False


PLAIN, SAOR, ALIGNMENT = "plain", "SAOR", "alignment"
KEPT, CHECKPOINTED = "activations kept", "checkpointing"
FULL, PADDED = "full", "half padding"

TASKS = {
    task.name: task
    for task in (
        Task("forward", "forward, in evaluation", backward=False, has_memory=True),
        Task("training", "forward and backward, hidden dropout 0.1", has_memory=True),
        Task("training-attention-dropout", "training with attention dropout 0.1 as well", attention_dropout=0.1),
        Task(
            "training-checkpointing",
            "training of ernie-sparse without and with gradient checkpointing",
            variants=(KEPT, CHECKPOINTED),
            has_memory=True,
        ),
        Task(
            "saor",
            "a masked-LM step of ernie-sparse, 15 % of the tokens labelled: plain, SAOR, layer alignment",
            variants=(PLAIN, SAOR, ALIGNMENT),
        ),
        Task(
            "padding-forward",
            "forward of ernie-sparse over a full batch and over one that is half padding",
            backward=False,
            variants=(FULL, PADDED),
        ),
        Task(
            "padding-training",
            "forward and backward of ernie-sparse over a full batch and over one that is half padding",
            variants=(FULL, PADDED),
        ),
    )
}


class Row(NamedTuple):
    """A model and, in the tasks that have them, a variant."""

    model: str
    variant: str = ""

    @property
    def label(self) -> str:
        return f"{self.model}, {self.variant}" if self.variant else self.model


def rows_of(task: Task, models: list[str]) -> list[Row]:
    """The rows of a task's table, of those models that it is for."""
    if not task.variants:
        return [Row(model) for model in models]
    return [Row(model, variant) for model in models if is_ours(model) for variant in task.variants]


@dataclasses.dataclass(frozen=True)
class Setup:
    """
    What all cases share besides the sizes of their models.

    Args:
        compiler (`str`, *optional*): The backend of `torch.compile`; models run as they are when `None`.
    """

    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 1
    compiler: str | None = None


def build_case(task: Task, row: Row, setup: Setup, length: int) -> Case:
    """The model of a row, freshly built from seed 0, and a step of `task` over `length` tokens."""
    build = build_masked_lm if task.name == "saor" else build_encoder
    model = build(row.model, setup.sizes, task.attention_dropout)
    model = model.to(setup.device, getattr(torch, setup.dtype)).train(task.backward)
    if row.variant == CHECKPOINTED:
        # Renamed in the course of transformers 5.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    inputs = build_inputs(task, row, setup, length)
    mask = inputs.get("attention_mask")
    num_tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
    call = model if setup.compiler is None else _compiled(model, setup.compiler)

    def step():
        with torch.set_grad_enabled(task.backward):
            output = call(**inputs)
            if task.backward:
                loss = output.loss if task.name == "saor" else output.last_hidden_state.sum()
                loss.backward()

    return Case(model, step, num_tokens)


def _compiled(model: PreTrainedModel, compiler: str) -> Callable[..., object]:
    """
    The model under `torch.compile`. Ours is given its patterns as plans, which are made anew for every batch, so that one program
    serves every length; the others are compiled as they are.
    """
    if not isinstance(model.config, ErnieSparseConfig):
        return torch.compile(model, backend=compiler)
    program = torch.compile(model, backend=compiler, fullgraph=True, dynamic=True)
    per_block = model.config.num_representatives_per_block

    def call(input_ids, attention_mask=None, consistency_pattern=None, **inputs):
        patterns = {"pattern": model.config.pattern}
        if consistency_pattern is not None:
            patterns["consistency_pattern"] = consistency_pattern
        shape, device = tuple(input_ids.shape), input_ids.device
        for name, pattern in patterns.items():
            inputs[name] = plan_batch(pattern, per_block, shape, device, attention_mask, is_static=True)
        return program(input_ids, attention_mask, **inputs)

    return call


def build_inputs(task: Task, row: Row, setup: Setup, length: int) -> dict:
    """The arguments of the model's forward, the same for every model."""
    generator = torch.Generator().manual_seed(0)
    lengths = None
    batch_size = setup.batch_size
    if FULL in task.variants:
        lengths = document_lengths(length, batch_size)
        batch_size = len(lengths)
    # The first few ids are padding and the like in some of the models.
    input_ids = torch.randint(10, setup.sizes.vocab_size, (batch_size, length), generator=generator)
    inputs = {"input_ids": input_ids}
    if row.variant == PADDED:
        inputs["attention_mask"] = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
        inputs["input_ids"] = input_ids * inputs["attention_mask"]
    if task.name == "saor":
        num_labels = max(1, round(LABEL_SHARE * input_ids.numel()))
        places = torch.randperm(input_ids.numel(), generator=generator)[:num_labels]
        labels = torch.full_like(input_ids, -100).flatten()
        labels[places] = input_ids.flatten()[places]
        inputs["labels"] = labels.view_as(input_ids)
    if row.model == "longformer":
        inputs["global_attention_mask"] = torch.zeros_like(input_ids)
        inputs["global_attention_mask"][:, 0] = 1
    inputs = {name: tensor.to(setup.device) for name, tensor in inputs.items()}
    if row.variant in (SAOR, ALIGNMENT):
        pattern = setup.sizes.pattern
        shift = (pattern.block_shift + pattern.block_size // 2) % pattern.block_size
        name = "consistency_pattern" if row.variant == SAOR else "alignment_pattern"
        inputs[name] = dataclasses.replace(pattern, block_shift=shift)
    return inputs


def document_lengths(length: int, batch_size: int) -> list[int]:
    """
    Lengths of at least `batch_size` documents, a multiple of four, that fill exactly half of the places of their batch:
    of every four one is as long as the batch, one half as long, and two a quarter or what is left.
    """
    parts = [length, length // 2, length // 4]
    return [*parts, 2 * length - sum(parts)] * max(1, -(-batch_size // 4))
