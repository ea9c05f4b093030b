# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Training steps as CUDA graphs. A small model's step is many short kernels, and starting them takes longer than running them: a
graph starts all of one step at once. It repeats what was captured, in the same memory, so a step has to have one of few shapes,
and its inputs are copied to where it reads them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from ernie_sparse.block_plan import BlockPlan, plan_batch
from ernie_sparse.errors import InputError
from ernie_sparse.sparse_pattern import SparsePattern
from ernie_sparse.trainer import SaorTrainer, second_pattern

from .device_rows import DeviceRows
from .models import LraModel

# Before a capture: libraries choose their kernels and take their memory in the first calls.
WARM_UPS = 3
# Flags under which no step can be captured: their values that can, and why no other.
CAPTURABLE = {
    "fp16": ((False,), "its loss scale changes from step to step: --bf16 has none"),
    "gradient_checkpointing": ((False,), "it saves and restores the random state in the middle of a step"),
    "torch_compile": ((False,), "a compiled step has graphs of its own"),
    "torch_empty_cache_steps": ((None,), "no memory can be given back while a step is captured"),
    "train_sampling_strategy": (
        ("group_by_length", "random", "sequential"),
        "every batch has to have the same number of rows",
    ),
    "include_num_input_tokens_seen": (("no",), "the symbols of a batch are not seen before they are on the device"),
    "deepspeed": ((None,), "it has an optimizer and gradients of its own"),
}


def check_graphs(name: str, model: LraModel, training: TrainingArguments):
    """Raise an [`InputError`] where a training cannot run as CUDA graphs."""
    if model.not_captured is not None:
        raise InputError(f"--cuda-graphs: {name} {model.not_captured}")
    for flag, (values, reason) in CAPTURABLE.items():
        if getattr(training, flag) not in values:
            raise InputError(f"--cuda-graphs with --{flag.replace('_', '-')} {getattr(training, flag)}: {reason}")
    if training.world_size * max(1, training.n_gpu) > 1:
        raise InputError("--cuda-graphs: it is for one process and one GPU, such as with CUDA_VISIBLE_DEVICES=0")
    if training.device.type != "cuda":
        raise InputError("--cuda-graphs: it needs a CUDA device, and this training has none")


class CudaGraphs:
    """How steps are captured on a CUDA device. All share their memory: nothing of one is read after another began."""

    def __init__(self):
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, step: Callable):
        """Run a step for nothing, as often as it takes until all its runs are alike."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(self.stream)

    def capture(self, step: Callable) -> Callable:
        """A function that does what `step` does, to the same tensors, and returns the same outputs each time."""
        graph = torch.cuda.CUDAGraph()
        # In the stream of the warm-up: gradients are added up where they were first.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            outputs = step()

        def replay():
            graph.replay()
            return outputs

        return replay


class Gradients:
    """
    The gradients of all weights in one tensor that stays where it is.

    Args:
        weights (`Iterable[torch.nn.Parameter]`)
    """

    def __init__(self, weights: Iterable[torch.nn.Parameter]):
        self.weights = [weight for weight in weights if weight.requires_grad]
        sizes = [weight.numel() for weight in self.weights]
        self.flat = torch.cat([torch.zeros_like(weight).flatten() for weight in self.weights])
        self.parts = [
            part.view(weight.shape) for part, weight in zip(self.flat.split(sizes), self.weights, strict=True)
        ]

    def begin(self):
        """Clear what is there, if the last update is over."""
        if all(weight.grad is None for weight in self.weights):
            self.flat.zero_()

    def attach(self, has_gradient: list[bool]):
        """Let the weights that a step has gradients of have theirs; an optimizer does nothing to the others."""
        for weight, part, has in zip(self.weights, self.parts, has_gradient, strict=True):
            if has and weight.grad is None:
                weight.grad = part

    def detach(self) -> list[torch.Tensor | None]:
        """Take all gradients away; [`Gradients.give_back`] takes what is returned."""
        taken = [weight.grad for weight in self.weights]
        for weight in self.weights:
            weight.grad = None
        return taken

    def give_back(self, taken: list[torch.Tensor | None]):
        for weight, gradient in zip(self.weights, taken, strict=True):
            weight.grad = gradient


class StepInputs(NamedTuple):
    """
    What changes from step to step.

    Args:
        rows, labels (`torch.LongTensor` of shape `(batch_size,)`)
        num_items (`torch.Tensor` of shape `()`): Labels in all batches of the update.
        second_plan ([`BlockPlan`], *optional*): Of SAOR's second pass.
    """

    rows: torch.Tensor
    labels: torch.Tensor
    num_items: torch.Tensor
    second_plan: BlockPlan | None

    def form(self) -> tuple:
        """Equal for inputs that can be copied over each other: all but the contents of tensors."""
        return tuple((leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_leaves(self))


class StaticStep:
    """
    A step whose inputs, outputs and gradients stay where they are.

    Args:
        step (`Callable[[StepInputs], Any]`): Adds its gradients to those of the weights.
        inputs ([`StepInputs`]): The first ones.
        gradients ([`Gradients`])
        graphs ([`CudaGraphs`] or what has its methods): How it is captured.
    """

    def __init__(self, step: Callable[[StepInputs], Any], inputs: StepInputs, gradients: Gradients, graphs: CudaGraphs):
        device = gradients.flat.device
        self.inputs = tree_map(
            lambda leaf: (
                leaf.to(device).clone(memory_format=torch.contiguous_format) if isinstance(leaf, torch.Tensor) else leaf
            ),
            inputs,
        )
        self.buffers = [leaf for leaf in tree_leaves(self.inputs) if isinstance(leaf, torch.Tensor)]
        taken = gradients.detach()
        # A run that goes on captures at other updates, and has to draw as it would have drawn.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            graphs.warm_up(lambda: step(self.inputs))
            self.has_gradient = [gradient is not None for gradient in gradients.detach()]
            gradients.attach(self.has_gradient)
            self.replay = graphs.capture(lambda: step(self.inputs))
        gradients.give_back(taken)

    def __call__(self, inputs: StepInputs) -> Any:
        """The outputs, which the next call of any step overwrites."""
        leaves = (leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor))
        for buffer, leaf in zip(self.buffers, leaves, strict=True):
            buffer.copy_(leaf, non_blocking=True)
        return self.replay()


class GraphedTrainer(SaorTrainer):
    """
    [`SaorTrainer`] that captures the forward and backward pass of each shape of a batch once and replays it from then on. What is
    trained on which rows, in which order and with which loss is the same. Optimizer, schedule, evaluation and checkpoints are
    those of every training.

    Args:
        rows ([`DeviceRows`]): Those of `train_dataset`.
        graphs ([`CudaGraphs`] or what has its methods): How steps are captured.
        args, kwargs: As for [`SaorTrainer`].
    """

    def __init__(self, *args, rows: DeviceRows, graphs: CudaGraphs, **kwargs):
        super().__init__(*args, **kwargs)
        self.rows, self.graphs = rows, graphs
        self._gradients: Gradients | None = None
        self._steps: dict[tuple, StaticStep] = {}

    def train(self, *args, **kwargs):
        # Those of an earlier training are of its weights, which may lie elsewhere now.
        self._gradients, self._steps = None, {}
        return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        # Trainer's own says which rows go together.
        batches = super().get_train_dataloader().batch_sampler
        return DataLoader(range(len(self.rows)), batch_sampler=batches, collate_fn=self.rows.batch)

    def forward_and_backward(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        width = inputs["width"]
        if self._gradients is None:
            self._gradients = Gradients(model.parameters())
        self._gradients.begin()
        if not model.training:
            model.train()
        now = StepInputs(inputs["rows"], inputs["labels"], num_items_in_batch, self._second_plan(inputs["rows"], width))
        key = (width, *now.form())
        if key not in self._steps:
            self._steps[key] = StaticStep(
                lambda inputs: self._step(model, width, inputs), now, self._gradients, self.graphs
            )
        step = self._steps[key]
        self._gradients.attach(step.has_gradient)
        outputs = step(now)
        if self.saor.saor_alpha > 0:
            self.add_loss_parts(outputs, num_items_in_batch)
        return outputs["loss"].clone()

    def gradient_norm(self, model) -> torch.Tensor:
        # The parts that belong to no weight of this update are zero.
        return torch.linalg.vector_norm(self._gradients.flat)

    def _is_labelled(self, batch):
        # To find out whether the model knows better takes longer than the answer.
        return batch["labels"] != -100 if "labels" in batch else None

    def _step(self, model, width: int, inputs: StepInputs) -> dict[str, torch.Tensor | None]:
        """What is captured: nothing in it may hang on what stands in a tensor, or wait for it."""
        batch = {**self.rows.gather(inputs.rows, width), "labels": inputs.labels}
        batch["pattern"] = self._plan(self._own_pattern, inputs.rows, width)
        if inputs.second_plan is not None:
            batch |= {"consistency_pattern": inputs.second_plan, "consistency_alpha": self.saor.saor_alpha}
        with self.compute_loss_context_manager():
            # What SaorTrainer adds to the batch is there; the parts of the loss are added up behind each replay.
            loss, outputs = super(SaorTrainer, self).compute_loss(
                model, batch, return_outputs=True, num_items_in_batch=inputs.num_items
            )
        self.accelerator.backward(loss)
        parts = {name: outputs.get(name) for name in ("task_loss", "consistency_loss")}
        return {name: None if value is None else value.detach() for name, value in {"loss": loss, **parts}.items()}

    @property
    def _own_pattern(self) -> SparsePattern:
        return self.model.config.pattern

    def _second_plan(self, rows: torch.Tensor, width: int) -> BlockPlan | None:
        if self.saor.saor_alpha == 0:
            return None
        pattern = second_pattern(self._own_pattern, self.saor, self.state.global_step)
        return self._plan(pattern, rows.to(self.rows.symbols.device), width)

    def _plan(self, pattern: SparsePattern, rows: torch.Tensor, width: int) -> BlockPlan:
        per_block = self.model.config.num_representatives_per_block
        is_real = None if self.rows.are_full else self.rows.is_real(rows, width).flatten(0, 1)
        shape = (rows.shape[0] * self.rows.lengths.shape[1], width)
        return plan_batch(pattern, per_block, shape, rows.device, is_real, is_static=True)
