# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
What a model and its heads are given, checked at the top of `forward`: what is wrong is one `ValueError` that names the argument.

Types, dtypes, shapes and devices are always looked at. Values, those on padding too, are read where that costs no wait: on the CPU.
On a GPU ranges are asserted on the device, and a mask is read back where planning the batch waits for the device anyway. Under a
compiler, an exporter or a tracer there are no values to read.
"""

import numbers

import torch
from transformers.utils import logging

from .block_plan import BlockPlan
from .configuration_ernie_sparse import ErnieSparseConfig
from .saor import is_labelled
from .sparse_pattern import SparsePattern

logger = logging.get_logger(__name__)

# What an embedding and `gather` take.
INTEGERS = (torch.int64, torch.int32)
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MASKS = (torch.bool, *INTEGERS, torch.int16, torch.int8, torch.uint8, *FLOATS)
BATCH = ("batch_size", "sequence_length")
CHOICES = ("batch_size", "num_choices", "sequence_length")


def batch_shape(
    input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, axes: tuple[str, ...] = BATCH
) -> torch.Size:
    """The sizes of `axes`, by whichever of the two is given."""
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither is" if input_ids is None else "both are"
        raise ValueError(f"exactly one of input_ids or inputs_embeds is needed: {given} given")
    name, values = ("input_ids", input_ids) if inputs_embeds is None else ("inputs_embeds", inputs_embeds)
    expected = axes if inputs_embeds is None else (*axes, "hidden_size")
    check_tensor(name, values, INTEGERS if inputs_embeds is None else FLOATS)
    if values.dim() != len(expected):
        raise ValueError(f"{name} has the shape {tuple(values.shape)}: ({', '.join(expected)}) is expected")
    shape = values.shape[: len(axes)]
    for size in shape:
        if size == 0:
            raise ValueError(f"{name} has the shape {tuple(values.shape)}: it is empty, and a token is needed")
    return shape


def check_tensor(name: str, values, dtypes: tuple[torch.dtype, ...], device: torch.device | None = None):
    """A tensor of one of `dtypes`, of which the first is the usual one, where the others are."""
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"{name} is a {type(values).__name__}: a tensor is needed")
    if values.dtype not in dtypes:
        raise ValueError(f"{name} has the dtype {values.dtype}: {' or '.join(map(str, dtypes))} is needed")
    if device is not None and values.device != device:
        raise ValueError(f"{name} is on {values.device}: {device}, where the tokens are, is needed")


def check_inputs(
    config: ErnieSparseConfig,
    inputs: tuple[torch.Tensor | None, ...],
    width: int,
    cu_seq_lens_q: torch.Tensor | None,
    is_planned: bool,
) -> tuple[torch.Size, torch.device]:
    """
    What the base model is given: the shape of the batch, and its device.

    Args:
        inputs (`tuple[torch.Tensor, ...]`):
            `input_ids`, `attention_mask`, `token_type_ids`, `position_ids`, `inputs_embeds`, each of them optional.
        width (`int`): Of embeddings.
        is_planned (`bool`): Whether the batch comes with its plan, so that nothing waits for the device.
    """
    input_ids, mask, token_type_ids, position_ids, inputs_embeds = inputs
    shape = batch_shape(input_ids, inputs_embeds)
    device = (input_ids if inputs_embeds is None else inputs_embeds).device
    if inputs_embeds is not None and inputs_embeds.shape[2] != width:
        raise ValueError(f"inputs_embeds has the width {inputs_embeds.shape[2]}: the model's embeddings have {width}")
    limit = config.max_position_embeddings
    for name, ids, size in (
        ("input_ids", input_ids, config.vocab_size),
        ("token_type_ids", token_type_ids, config.type_vocab_size),
        ("position_ids", position_ids, limit),
    ):
        if ids is not None:
            check_tensor(name, ids, INTEGERS, device)
            _check_shape(name, ids, BATCH, shape, may_be_shared=True)
            _check_range(name, ids, 0, size - 1)
    if mask is not None:
        check_tensor("attention_mask", mask, MASKS, device)
        _check_shape("attention_mask", mask, BATCH, shape, "; which tokens see which is the pattern's business")
        if _has_values(mask) and (device.type == "cpu" or not is_planned):
            _check_mask_values(mask)
    if cu_seq_lens_q is not None:
        _check_bounds_tensor(cu_seq_lens_q)
    elif shape[1] > limit:
        name = "input_ids" if inputs_embeds is None else "inputs_embeds"
        raise ValueError(
            f"{name} has {shape[1]} tokens, more than this model's max_position_embeddings={limit}: truncate the input"
        )
    return shape, device


def check_choices(inputs: tuple[torch.Tensor | None, ...]) -> torch.Size:
    """Inputs as of [`check_inputs`], with a row per choice: their shape, before they are flattened."""
    input_ids, mask, token_type_ids, position_ids, inputs_embeds = inputs
    shape = batch_shape(input_ids, inputs_embeds, CHOICES)
    others = {"attention_mask": mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
    for name, values in others.items():
        if values is not None:
            check_tensor(name, values, MASKS)
            _check_shape(name, values, CHOICES, shape, may_be_shared=values is not mask)
    return shape


def check_documents(plan: BlockPlan, config: ErnieSparseConfig):
    """Several documents in a row, once they are planned: none is longer than the model reads."""
    if _is_readable(plan.num_tokens):
        longest, limit = int(plan.num_tokens.max()), config.max_position_embeddings
        if longest > limit:
            raise ValueError(
                f"cu_seq_lens_q has a document of {longest} tokens, more than this model's max_position_embeddings={limit}"
            )


def parsed_pattern(name: str, value, shape: torch.Size | tuple[int, int]) -> SparsePattern | BlockPlan:
    """The pattern or plan that the argument `name` says, for a batch of this shape."""
    if not isinstance(value, BlockPlan):
        try:
            return SparsePattern.parse(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for axis, what in ((1, "tokens"), (0, "rows")):
        if value.batch.shape[axis] != shape[axis]:
            raise ValueError(
                f"{name}: the plan is for {value.batch.shape[axis]} {what}, but the input has {shape[axis]}"
            )
    return value


def warn_of_missing_maps(config: ErnieSparseConfig, output_attentions: bool | None):
    """transformers' own models do not refuse this either, and its common tests ask for it."""
    if output_attentions and config._attn_implementation == "sdpa" and not torch.compiler.is_compiling():
        logger.warning_once(
            "output_attentions=True gives nothing under attn_implementation='sdpa', which makes no attention maps: "
            "model.set_attn_implementation('eager') does"
        )


def num_documents(pattern, shape: torch.Size, cu_seq_lens_q: torch.Tensor | None) -> int:
    """How many documents are pooled."""
    if isinstance(pattern, BlockPlan):
        return pattern.num_tokens.shape[0]
    if cu_seq_lens_q is None:
        return shape[0]
    _check_bounds_tensor(cu_seq_lens_q)
    return cu_seq_lens_q.shape[0] - 1


def check_labels(
    distribution: str,
    labels: torch.Tensor,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    num_classes: int,
    num_items: torch.Tensor | float | None,
    class_weights: torch.Tensor | None = None,
):
    """
    Labels of the shape that is expected, classes from 0 on or, for `bernoulli`, targets from 0 to 1; and what goes into their loss.

    Args:
        distribution (`str`): As in [`saor_loss`].
    """
    is_class = distribution == "categorical"
    check_tensor("labels", labels, INTEGERS if is_class else MASKS)
    _check_shape("labels", labels, axes, shape)
    if distribution != "gaussian" and labels.dtype != torch.bool and _has_values(labels):
        known = labels.masked_fill(~is_labelled(distribution, labels), 0)
        _check_range("labels", known, 0, num_classes - 1 if is_class else 1, ", and -100 for none")
    if num_items is not None:
        check_number("num_items_in_batch", num_items)
    if class_weights is not None:
        check_tensor("class_weights", class_weights, MASKS)
        if not is_class:
            raise ValueError("class_weights is for classes that exclude each other, which these labels are not")
        _check_shape("class_weights", class_weights, ("num_labels",), (num_classes,))


def check_spans(
    start_positions: torch.Tensor | None,
    end_positions: torch.Tensor | None,
    batch_size: int,
    num_items: torch.Tensor | float | None,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Both of an answer's ends, or none. Where they are does not matter: outside the input they are no label."""
    if start_positions is None and end_positions is None:
        return None
    sides = {"start_positions": start_positions, "end_positions": end_positions}
    for name, positions in sides.items():
        if positions is None:
            raise ValueError(f"{name} is missing: an answer has a start and an end")
        check_tensor(name, positions, INTEGERS)
        if positions.dim() == 2:
            _check_shape(name, positions, ("batch_size", "num_mentions"), (batch_size, positions.shape[1]))
        else:
            _check_shape(name, positions, ("batch_size",), (batch_size,))
    if start_positions.shape != end_positions.shape:
        raise ValueError(
            f"end_positions has the shape {tuple(end_positions.shape)}: that of start_positions, "
            f"{tuple(start_positions.shape)}, is expected"
        )
    if num_items is not None:
        check_number("num_items_in_batch", num_items)
    return start_positions, end_positions


def check_candidates(
    candidate_positions: torch.Tensor | None,
    labels: torch.Tensor | None,
    shape: torch.Size,
    num_items: torch.Tensor | float | None,
):
    """Places of the input, or negative; and which of them is right, which is no negative one."""
    if candidate_positions is None:
        raise ValueError("candidate_positions is missing: it says where the candidates' markers stand")
    check_tensor("candidate_positions", candidate_positions, INTEGERS)
    if candidate_positions.dim() != 2 or candidate_positions.shape[0] != shape[0]:
        raise ValueError(
            f"candidate_positions has the shape {tuple(candidate_positions.shape)}: (batch_size, num_candidates) with "
            f"batch_size={shape[0]} is expected"
        )
    if _has_values(candidate_positions):
        _check_range(
            "candidate_positions", candidate_positions.clamp(min=0), 0, shape[1] - 1, ", and negative for none"
        )
    if labels is None:
        return
    check_labels("categorical", labels, BATCH[:1], shape[:1], candidate_positions.shape[1], num_items)
    if _is_readable(labels) and _is_readable(candidate_positions):
        right = candidate_positions.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        if ((labels >= 0) & (right < 0)).any():
            raise ValueError("labels has a candidate whose place in candidate_positions is negative, which is none")


def check_kept(logits_to_keep: int | torch.Tensor, shape: torch.Size):
    """A number of tokens, places, or which tokens."""
    name = "logits_to_keep"
    if isinstance(logits_to_keep, int):
        if logits_to_keep < 0:
            raise ValueError(f"{name}={logits_to_keep}: a number of at least 0 is needed")
        return
    check_tensor(name, logits_to_keep, (*INTEGERS, torch.bool))
    if logits_to_keep.dtype != torch.bool:
        num_kept = logits_to_keep.shape[0] if logits_to_keep.dim() else 1
        _check_shape(name, logits_to_keep, ("num_kept",), (num_kept,), "; of each row its own are given as bool")
        _check_range(name, logits_to_keep, -shape[1], shape[1] - 1)
    elif logits_to_keep.dim() == 1:
        _check_shape(name, logits_to_keep, BATCH[1:], shape[1:])
    else:
        _check_shape(name, logits_to_keep, BATCH, shape)


def check_rows(rows: torch.Tensor, batch_size: int):
    """Some rows of the batch, in rising order."""
    check_tensor("consistency_rows", rows, INTEGERS)
    if rows.dim() != 1 or rows.shape[0] == 0:
        raise ValueError(f"consistency_rows has the shape {tuple(rows.shape)}: (num_rows,) of at least 1 is expected")
    _check_range("consistency_rows", rows, 0, batch_size - 1)
    if _is_readable(rows) and not (rows.diff() > 0).all():
        raise ValueError(f"consistency_rows is {rows.tolist()}: the rows are needed once each, in rising order")


def check_number(name: str, value: torch.Tensor | float, is_positive: bool = False, least: float | None = None):
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} has the shape {tuple(value.shape)}: one number is expected")
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name}={value!r}: a number is needed")
    elif is_positive and not value > 0:
        raise ValueError(f"{name}={value}: a number above 0 is needed")
    elif least is not None and not value >= least:
        raise ValueError(f"{name}={value}: a number of at least {least} is needed")


def _check_shape(name: str, values: torch.Tensor, axes: tuple[str, ...], shape, note="", may_be_shared=False):
    # The whole shape first: a compiler would make a program of its own for one row where it is asked whether there is one.
    if values.shape == shape or (may_be_shared and values.shape == (*[1] * (len(shape) - 1), shape[-1])):
        return
    named = ", ".join(axes) if len(axes) > 1 else f"{axes[0]},"
    raise ValueError(f"{name} has the shape {tuple(values.shape)}: ({named}) = {tuple(shape)} is expected{note}")


def _check_bounds_tensor(cu_seq_lens_q: torch.Tensor):
    # What they are is looked at where the batch is planned, which reads them.
    check_tensor("cu_seq_lens_q", cu_seq_lens_q, INTEGERS)
    if cu_seq_lens_q.dim() != 1:
        raise ValueError(f"cu_seq_lens_q has the shape {tuple(cu_seq_lens_q.shape)}: (num_documents + 1,) is expected")


def _has_values(values: torch.Tensor) -> bool:
    """Whether there are any that are known. A fake tensor, which has none, is of a class of its own."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return type(values) is torch.Tensor and values.device.type != "meta" and values.numel() > 0


def _is_readable(values: torch.Tensor) -> bool:
    return values.device.type == "cpu" and _has_values(values)


def _check_range(name: str, values: torch.Tensor, low: int, high: int, note: str = ""):
    if not _has_values(values):
        return
    if values.device.type == "cuda":
        # Reading them back would stall the GPU on every call.
        torch._assert_async(((values >= low) & (values <= high)).all(), f"{name} outside {low} to {high}")
    elif values.device.type == "cpu":
        least, most = (bound.item() for bound in values.aminmax())
        if least < low or most > high:
            raise ValueError(f"{name} holds {least if least < low else most}: {low} to {high} is allowed{note}")


def _check_mask_values(mask: torch.Tensor):
    if mask.dtype == torch.bool:
        return
    least, most = (bound.item() for bound in mask.aminmax())
    # NaN is in no range, and what is its own square is 0 or 1.
    if 0 <= least <= most <= 1 and (not mask.is_floating_point() or torch.equal(mask * mask, mask)):
        return
    wrong = mask[(mask != 0) & (mask != 1)][0].item()
    raise ValueError(
        f"attention_mask holds {wrong:g}: it must be 1 where there is a token and 0 where there is padding (an additive mask is "
        "not taken)"
    )
