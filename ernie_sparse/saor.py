# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
SAOR: the task loss of one or two passes and the symmetric KL that pulls their output distributions together.

With p and q the output distributions of the same batch under two sparse patterns,

    loss = ½ (task(p) + task(q)) + alpha · ½ (KL(p‖q) + KL(q‖p))

averaged per prediction exactly as the task loss is. Gradients flow through both sides. The paper fixes that the output
distributions agree; the symmetric form, the average per prediction, a temperature and a second pass over some rows alone are our
choice. Everything here is a function of logits and labels and knows no model.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
# Logits at a time: 2 MiB of fp32, so that what is made of them stays in the cache.
CHUNK_LOGITS = 2**19


class SaorLoss(NamedTuple):
    """
    What [`saor_loss`] returns.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*):
            The loss to minimize: `task_loss + alpha * consistency_loss`, or the task loss of a single pass.
        task_loss (`torch.Tensor` of shape `()`, *optional*): The mean of both task losses; `None` with one pass.
        consistency_loss (`torch.Tensor` of shape `()`, *optional*):
            The divergence ½ (KL(p‖q) + KL(q‖p)), not yet multiplied by alpha; `None` with one pass.
    """

    loss: torch.Tensor | None = None
    task_loss: torch.Tensor | None = None
    consistency_loss: torch.Tensor | None = None


def categorical_divergence(logits: torch.Tensor, other_logits: torch.Tensor) -> torch.Tensor:
    """
    The symmetric KL ½ (KL(p‖q) + KL(q‖p)) of two softmax distributions over classes.

    Args:
        logits, other_logits (`torch.Tensor` of shape `(…, num_classes)`): Scores before softmax.

    Returns:
        `torch.Tensor` of shape `(…)`: One value per prediction.
    """
    log_p, log_q = logits.log_softmax(-1), other_logits.log_softmax(-1)
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def bernoulli_divergence(logits: torch.Tensor, other_logits: torch.Tensor) -> torch.Tensor:
    """
    The symmetric KL of two Bernoulli distributions, one per logit, as in multi-label classification. It equals
    ½ (p - q) (logit p - logit q).

    Args:
        logits, other_logits (`torch.Tensor` of shape `(…)`): Scores before sigmoid.

    Returns:
        `torch.Tensor` of shape `(…)`: One value per logit.
    """
    return 0.5 * (logits.sigmoid() - other_logits.sigmoid()) * (logits - other_logits)


def gaussian_divergence(means: torch.Tensor, other_means: torch.Tensor) -> torch.Tensor:
    """
    The symmetric KL of two Gaussian distributions of variance 1, as in regression. It equals ½ (difference of the
    means)².

    Args:
        means, other_means (`torch.Tensor` of shape `(…)`): The predicted numbers.

    Returns:
        `torch.Tensor` of shape `(…)`: One value per number.
    """
    return 0.5 * (means - other_means) ** 2


class OutputDistribution(NamedTuple):
    """What a head's logits mean: the unreduced task loss and the unreduced divergence, one value per prediction."""

    task_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    has_class_dimension: bool
    # Labels are sets of classes, one bool per class, rather than classes.
    labels_are_sets: bool = False


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _any_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.logsumexp(-1) - logits.masked_fill(~labels, -torch.inf).logsumexp(-1)


OUTPUT_DISTRIBUTIONS = {
    "categorical": OutputDistribution(_cross_entropy, categorical_divergence, has_class_dimension=True),
    # One choice of which several are right, as an answer's mentions: minus the log of their joint probability.
    "any_of": OutputDistribution(_any_of, categorical_divergence, has_class_dimension=True, labels_are_sets=True),
    "bernoulli": OutputDistribution(
        lambda logits, labels: nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none"),
        bernoulli_divergence,
        has_class_dimension=False,
    ),
    # The task loss is transformers' mean squared error, without the Gaussian's ½.
    "gaussian": OutputDistribution(
        lambda logits, labels: (logits - labels) ** 2, gaussian_divergence, has_class_dimension=False
    ),
}


def is_labelled(distribution: str, labels: torch.Tensor) -> torch.Tensor:
    """
    Which predictions have a label, as bool, one value per prediction: for `any_of` where any class is right, and else where
    the label is neither NaN nor, but for `gaussian`, -100.
    """
    if OUTPUT_DISTRIBUTIONS[distribution].labels_are_sets:
        return labels.any(dim=-1)
    is_number = ~labels.isnan()
    return is_number if distribution == "gaussian" else is_number & (labels != IGNORE_INDEX)


def saor_loss(
    distribution: str,
    logits: torch.Tensor,
    labels: torch.Tensor,
    second_logits: torch.Tensor | None = None,
    alpha: float = 1.0,
    num_items: torch.Tensor | int | None = None,
    class_weights: torch.Tensor | None = None,
    temperature: float = 1.0,
    rows: torch.Tensor | None = None,
) -> SaorLoss:
    """
    The loss of one pass over a batch or, with `second_logits`, the SAOR loss of two passes over the same batch:

    ½ (task(p) + task(q)) + alpha · ½ (KL(p‖q) + KL(q‖p))

    where p and q are the output distributions of the two passes. Gradients flow through both. Predictions without a
    label count in neither part. A batch without any label has the loss 0.

    Args:
        distribution (`str`):
            What the logits mean.

            - `categorical`: one of several classes. Logits have the shape `(…, num_classes)`, labels are integers of
              shape `(…)`.
            - `any_of`: one choice, and several may be right. Labels are `bool` and have the shape of the logits.
            - `bernoulli`: one yes or no per logit. Labels are numbers from 0 to 1 and have the shape of the logits.
            - `gaussian`: one number per logit. Labels are numbers and have the shape of the logits.
        logits (`torch.Tensor`): Outputs of the first pass. The losses are computed in fp32 at least.
        labels (`torch.Tensor`):
            The labels. -100 and NaN mean "no label"; with `any_of` that is a row without `True`. With `gaussian`, -100
            is a number like any other.
        second_logits (`torch.Tensor`, *optional*): Outputs of the second pass, of the same shape as `logits`.
        alpha (`float`, defaults to 1.0): Weight of the consistency loss.
        num_items (`int` or `torch.Tensor`, *optional*):
            Divisor of the summed losses; the number of labels when `None`. `Trainer` gives the number of labels in all
            accumulated batches and processes.
        class_weights (`torch.Tensor` of shape `(num_classes,)`, *optional*):
            For `categorical`: a factor for each class, by which the task loss of a prediction with that label is
            multiplied. The divisor does not change, and the consistency loss is not weighted.
        temperature (`float`, defaults to 1.0):
            Logits are divided by it before they are compared, and the divergence is multiplied by its square, which
            keeps the size of the gradients. Not for `gaussian`.
        rows (`torch.LongTensor` of shape `(num_rows,)`, *optional*):
            The rows of the batch that are in `second_logits`, if these are not all. The consistency loss is then
            scaled up by `batch_size / num_rows`, so that for randomly drawn rows its expectation is that of the whole
            batch.

    Returns:
        [`SaorLoss`]: The loss and its parts.

    Raises:
        `ValueError`: The distribution is unknown, shapes do not fit, or class weights or a temperature are given for a
            distribution that has none.
    """
    if distribution not in OUTPUT_DISTRIBUTIONS:
        raise ValueError(f"distribution={distribution!r} is not one of {', '.join(OUTPUT_DISTRIBUTIONS)}")
    if distribution == "gaussian" and temperature != 1:
        raise ValueError(f"a temperature of {temperature} is for classes: the distribution of a number has none")
    task_loss, divergence, has_classes, are_sets = OUTPUT_DISTRIBUTIONS[distribution]
    expected = logits.shape[:-1] if has_classes and not are_sets else logits.shape
    if labels.shape != expected:
        raise ValueError(f"labels of shape {tuple(labels.shape)} do not fit: {tuple(expected)} is expected")
    if class_weights is not None and (distribution != "categorical" or class_weights.shape != logits.shape[-1:]):
        raise ValueError(
            f"class_weights of shape {tuple(class_weights.shape)} do not fit: categorical logits and "
            f"{tuple(logits.shape[-1:])} are expected"
        )
    num_rows = logits.shape[:1] if rows is None else rows.shape
    if second_logits is not None and second_logits.shape != num_rows + logits.shape[1:]:
        raise ValueError(
            f"second_logits of shape {tuple(second_logits.shape)} do not fit logits of shape {tuple(logits.shape)}"
            + ("" if rows is None else f" of which {rows.numel()} rows are in the second pass")
        )
    scale = temperature**2
    if second_logits is not None and rows is not None:
        # The same twice: the mean of both task losses is that of the one, and they agree.
        second_logits = logits.index_copy(0, rows, second_logits)
        scale = scale * logits.shape[0] / rows.shape[0]
    has_label = is_labelled(distribution, labels)
    # An empty set would have an infinite loss, whose gradient is NaN even when it is cleared afterwards.
    labels = labels | ~has_label.unsqueeze(-1) if are_sets else labels.masked_fill(~has_label, 0)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if distribution in ("bernoulli", "gaussian"):
        labels = labels.to(dtype)
    # At least 1: a batch without any label has the loss 0.
    divisor = torch.as_tensor(has_label.sum() if num_items is None else num_items).clamp(min=1)

    def sums(labels: torch.Tensor, has_label: torch.Tensor, *passes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Cleared before the loss, not after it: an infinite logit would turn a cleared gradient into NaN.
        is_used = has_label.unsqueeze(-1) if has_classes else has_label
        passes = [states.to(dtype).masked_fill(~is_used, 0.0) for states in passes]
        values = [task_loss(states, labels) for states in passes]
        if class_weights is not None:
            weights = class_weights.to(device=labels.device, dtype=dtype)[labels]
            values = [value * weights for value in values]
        if len(passes) == 2:
            values.append(divergence(*(passes if temperature == 1 else [states / temperature for states in passes])))
        return tuple(value.masked_fill(~has_label, 0.0).sum() for value in values)

    passes = (logits,) if second_logits is None else (logits, second_logits)
    means = [total / divisor for total in _by_rows(sums, (labels, has_label, *passes), logits)]
    if second_logits is None:
        return SaorLoss(means[0])
    first, second, consistency = means
    task, consistency = 0.5 * (first + second), scale * consistency
    return SaorLoss(task + alpha * consistency, task, consistency)


def _by_rows(sums: Callable, tensors: tuple[torch.Tensor, ...], logits: torch.Tensor) -> list[torch.Tensor]:
    """`sums(*tensors)`; where the logits are many, of some rows at a time, made again in the backward pass: what a
    vocabulary's worth of classes leaves behind takes longer to write to memory than to compute."""
    if torch.compiler.is_compiling() or logits.dim() < 2 or logits.numel() <= CHUNK_LOGITS:
        return list(sums(*tensors))
    rows = max(1, CHUNK_LOGITS // logits.shape[-1])
    num_rows = logits.numel() // logits.shape[-1]
    chunks = zip(
        *(tensor.reshape(num_rows, *tensor.shape[logits.dim() - 1 :]).split(rows) for tensor in tensors), strict=True
    )
    parts = [checkpoint(sums, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return [torch.stack(part).sum() for part in zip(*parts, strict=True)]
