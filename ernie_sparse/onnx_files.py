# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""ONNX files of a model: traced, quantized, run, and compared with what they were made of."""

import contextlib
import io
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from . import modeling_ernie_sparse as modeling
from .sparse_pattern import SparsePattern

# Protobuf's limit is 2 GiB; a graph needs room beside its weights.
MAX_FILE_BYTES = int(1.5 * 2**30)

OUTPUTS = {
    modeling.ErnieSparseModel: ("last_hidden_state",),
    modeling.ErnieSparseForQuestionAnswering: ("start_logits", "end_logits"),
}
PER_TOKEN = (
    modeling.ErnieSparseModel,
    modeling.ErnieSparseForMaskedLM,
    modeling.ErnieSparseForTokenClassification,
    modeling.ErnieSparseForQuestionAnswering,
)

COMPARED_LENGTHS = (1, 16, 512, 4096)
TIMED_LENGTHS = (512, 4096)
TIMED_RUNS = 5


def output_names(model: PreTrainedModel) -> tuple[str, ...]:
    return OUTPUTS.get(type(model), ("logits",))


class _Exportable(torch.nn.Module):
    """
    A model with the outputs of its head alone. Documents with fewer blocks than the pattern has global or random ones, which
    tables of fixed form cannot describe, are padded up to that inside (`least` tokens).
    """

    def __init__(self, model: PreTrainedModel, least: int):
        super().__init__()
        self.model, self.least = model, least

    def forward(self, candidate_positions: torch.Tensor | None = None, **inputs: torch.Tensor):
        length = inputs["input_ids"].shape[-1]
        if self.least > 1:
            missing = torch.sym_max(length, self.least) - length
            inputs = {name: torch.nn.functional.pad(value, (0, missing)) for name, value in inputs.items()}
        if candidate_positions is not None:
            inputs["candidate_positions"] = candidate_positions
        output = self.model(**inputs)
        is_cut = self.least > 1 and isinstance(self.model, PER_TOKEN)
        return {name: output[name][:, :length] if is_cut else output[name] for name in output_names(self.model)}


def _lengths(pattern: SparsePattern, limit: int) -> tuple[int, int]:
    """The least length that the tables of a program can describe, and the length of the example it is traced with."""
    most = pattern.num_blocks(limit)
    # What is at least as many as there are blocks is no number in the program.
    counts = [count for count in (pattern.num_global_blocks, pattern.num_random_blocks) if count < most]
    least = max(1, (max(counts, default=1) - 1) * pattern.block_size - pattern.block_shift + 1)
    # More blocks than are global or in a window, the last of them not full.
    blocks = max([*counts, 1]) + min(pattern.num_window_blocks // 2, most) + 3
    return least, max(1, min(limit, blocks * pattern.block_size - 3))


def make_inputs(model: PreTrainedModel, names: list[str], num_rows: int, length: int, seed: int = 0) -> dict:
    """Random ids: the first row is full, the second half padding behind its tokens, the third a third before them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_rows, length)
    if isinstance(model, modeling.ErnieSparseForMultipleChoice):
        shape = (num_rows, 4, length)
    mask = torch.ones(shape, dtype=torch.long)
    for row, padding in enumerate((slice(0, 0), slice((length + 1) // 2, None), slice(0, length // 3))[:num_rows]):
        mask[row, ..., padding] = 0
    highest = {
        "input_ids": model.config.vocab_size,
        "token_type_ids": model.config.type_vocab_size,
        "candidate_positions": length,
    }
    shapes = {"candidate_positions": (num_rows, 5)}
    return {
        name: mask
        if name == "attention_mask"
        else torch.randint(highest[name], shapes.get(name, shape), generator=generator)
        for name in names
    }


def trace(model: PreTrainedModel, names: list[str]):
    """The model as an ONNX graph by transformers' exporter; batch and length are free, and so is the number of choices."""
    from transformers.exporters import OnnxConfig, OnnxExporter

    least, length = _lengths(model.config.pattern, model.config.max_position_embeddings)
    inputs = make_inputs(model, names, 3, length)
    free = {name: dict.fromkeys(range(value.dim()), torch.export.Dim.DYNAMIC) for name, value in inputs.items()}
    with _quiet():
        graph = OnnxExporter().export(_Exportable(model, least), inputs, OnnxConfig(dynamic_shapes=free)).program
    for part in (graph, graph.graph, *graph.graph):
        # Where in whose sources it was traced.
        part.metadata_props.clear()
    axes = ("batch_size", "num_choices", "sequence_length")
    for value in graph.graph.inputs:
        last = "num_candidates" if value.name == "candidate_positions" else axes[-1]
        value.shape = type(value.shape)([axes[0], last] if len(value.shape) == 2 else axes)
    return graph, inputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporter and quantizer say of their own parts."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def quantize(graph, inputs: dict):
    """
    The graph with weights in int8 by ONNX Runtime's dynamic quantizer. One scale per output (our choice): with one per
    matrix the sentence vectors of a real encoder move ten times as far.
    """
    from transformers.exporters import ExportFormat, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    with _quiet():
        quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
        return quantizer.quantize(graph, inputs, ExportFormat.ONNX)


def save(graph, path: Path):
    """One file; weights beyond protobuf's limit go beside it, named as Optimum looks for them."""
    import onnx_ir

    weights = (value.const_value for value in graph.graph.initializers.values() if value.const_value is not None)
    is_large = sum(weight.nbytes for weight in weights) > MAX_FILE_BYTES
    onnx_ir.save(graph, path, external_data=f"{path.name}_data" if is_large else None)


class Session:
    """A written file in ONNX Runtime on the CPU, with PyTorch's number of threads, called as the model is."""

    device = torch.device("cpu")

    def __init__(self, path: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, return_dict: bool = True, **inputs: torch.Tensor) -> ModelOutput:
        # Some rows come without types.
        types = torch.zeros_like(inputs["input_ids"])
        feed = {name: inputs.get(name, types).long().numpy() for name in self.inputs}
        outputs = map(torch.from_numpy, self.session.run(self.outputs, feed))
        return ModelOutput(zip(self.outputs, outputs, strict=True))


@torch.no_grad()
def compare(reference, session: Session, names: list[str], model: PreTrainedModel | None = None) -> tuple[dict, float]:
    """The largest difference at every length, and the largest output."""
    model = model or reference
    limit, differences, largest = model.config.max_position_embeddings, {}, 0.0
    for length in sorted({min(length, limit) for length in COMPARED_LENGTHS}):
        say(f"Comparing at {length:,} tokens")
        inputs = make_inputs(model, names, 3 if length <= 512 else 2, length)
        # The logits of a vocabulary fill the memory: long rows one by one.
        step, found = len(inputs["input_ids"]) if length <= 512 else 1, []
        for row in range(0, len(inputs["input_ids"]), step):
            part = {name: value[row : row + step] for name, value in inputs.items()}
            expected, actual = reference(**part), session(**part)
            for name in session.outputs:
                found.append((actual[name] - expected[name]).abs().max().item())
                largest = max(largest, expected[name].abs().max().item())
        differences[str(length)] = max(found)
    return differences, largest


def cost(model: PreTrainedModel, fp32: Session, int8: Session, names: list[str]) -> dict:
    """What int8 changes on random rows, and the seconds of both, run in turn."""
    differences, _ = compare(fp32, int8, names, model)
    seconds = {}
    for length in sorted({min(length, model.config.max_position_embeddings) for length in TIMED_LENGTHS}):
        say(f"Timing at {length:,} tokens")
        inputs = make_inputs(model, names, 1, length)
        times = {"fp32": [], "int8": []}
        for _ in range(TIMED_RUNS + 1):
            for name, session in (("fp32", fp32), ("int8", int8)):
                start = time.perf_counter()
                session(**inputs)
                times[name].append(time.perf_counter() - start)
        # The first run of each makes room.
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        seconds[str(length)] = {**medians, "ratio": medians["fp32"] / medians["int8"]}
    return {"differences_from_fp32": differences, "seconds": seconds}


def say(text: str):
    print(text, file=sys.stderr, flush=True)
