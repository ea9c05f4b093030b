# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The consistency losses against closed forms, and what labels, counts and precision may do to them."""

import itertools

import pytest
import torch
from largest_tensor import LargestTensor
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from ernie_sparse import saor
from ernie_sparse.saor import (
    IGNORE_INDEX,
    bernoulli_divergence,
    categorical_divergence,
    gaussian_divergence,
    is_labelled,
    saor_loss,
)

DIVERGENCES = {
    "categorical": (categorical_divergence, lambda logits: Categorical(logits=logits)),
    "bernoulli": (bernoulli_divergence, lambda logits: Bernoulli(logits=logits)),
    "gaussian": (gaussian_divergence, lambda means: Normal(means, 1.0)),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

every_divergence = pytest.mark.parametrize("divergence, law", DIVERGENCES.values(), ids=DIVERGENCES)
every_distribution = pytest.mark.parametrize("distribution", DIVERGENCES)


def make_batch(distribution, num_documents=6, dtype=torch.float32):
    """Logits of two passes and labels: classes, targets per label, numbers that bf16 cannot hold."""
    logits, second = (2 * torch.randn(num_documents, 5, 3).to(dtype) for _ in range(2))
    if distribution == "categorical":
        return logits, second, torch.randint(0, 3, (num_documents, 5))
    if distribution == "bernoulli":
        return logits, second, torch.randint(0, 2, (num_documents, 5, 3)).float()
    return logits, second, 3 * torch.randn(num_documents, 5, 3)


def no_label(distribution) -> float:
    """What stands for "no label"."""
    return float("nan") if distribution == "gaussian" else IGNORE_INDEX


def torch_loss(distribution, logits, labels, reduction="mean"):
    if distribution == "categorical":
        return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction=reduction)
    if distribution == "bernoulli":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction=reduction)
    return nn.functional.mse_loss(logits, labels, reduction=reduction)


def loss_and_gradients(distribution, logits, labels, second, **kwargs):
    logits, second = (states.detach().clone().requires_grad_() for states in (logits, second))
    losses = saor_loss(distribution, logits, labels, second, **kwargs)
    losses.loss.backward()
    return losses.loss.detach(), logits.grad, second.grad


@every_divergence
def test_divergence_is_half_the_sum_of_both_kls(divergence, law):
    p, q = (3 * torch.randn(4, 7, 5, dtype=torch.float64) for _ in range(2))
    expected = 0.5 * (kl_divergence(law(p), law(q)) + kl_divergence(law(q), law(p)))
    torch.testing.assert_close(divergence(p, q), expected)


@every_divergence
def test_divergence_is_symmetric_and_zero_only_at_equality(divergence, law):
    p, q = torch.randn(100, 5), torch.randn(100, 5)
    assert torch.equal(divergence(p, q), divergence(q, p))
    assert (divergence(p, p) == 0).all()
    assert (divergence(p, q) > 0).all()


def test_categorical_divergence_ignores_a_shift_of_all_logits():
    p, q = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(categorical_divergence(p + 3, q - 4), categorical_divergence(p, q))


@pytest.mark.parametrize("divergence", [categorical_divergence, bernoulli_divergence])
def test_divergence_of_extreme_logits_is_finite_with_finite_gradients(divergence):
    p = torch.tensor([[200.0, -200.0], [0.0, 0.0], [3e4, -3e4]], requires_grad=True)
    q = torch.tensor([[-200.0, 200.0], [200.0, -200.0], [3e4, -3e4]], requires_grad=True)
    values = divergence(p, q)
    values.sum().backward()
    for states in (values, p.grad, q.grad):
        assert states.isfinite().all()


@every_divergence
def test_gradient_flows_through_both_sides_alike(divergence, law):
    p, q = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5, requires_grad=True)
    first, second = torch.autograd.grad(divergence(p, q).sum(), (p, q))
    swapped_first, swapped_second = torch.autograd.grad(divergence(q, p).sum(), (q, p))
    assert (first != 0).any(dim=-1).all() and (second != 0).any(dim=-1).all()
    torch.testing.assert_close(first, swapped_second)
    torch.testing.assert_close(second, swapped_first)


@every_divergence
def test_gradient_is_that_of_the_closed_form(divergence, law):
    p, q = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected = 0.5 * (kl_divergence(law(p), law(q)) + kl_divergence(law(q), law(p))).sum()
    torch.testing.assert_close(
        torch.autograd.grad(divergence(p, q).sum(), (p, q)), torch.autograd.grad(expected, (p, q))
    )


@every_distribution
def test_one_pass_is_the_task_loss_of_torch(distribution):
    logits, _, labels = make_batch(distribution)
    losses = saor_loss(distribution, logits, labels)
    torch.testing.assert_close(losses.loss, torch_loss(distribution, logits, labels))
    assert losses.task_loss is None and losses.consistency_loss is None


def test_one_pass_leaves_out_what_torch_leaves_out():
    logits, _, labels = make_batch("categorical")
    labels[:, 1::2] = IGNORE_INDEX
    torch.testing.assert_close(saor_loss("categorical", logits, labels).loss, torch_loss("categorical", logits, labels))


@every_distribution
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 5.0])
def test_two_passes_follow_the_formula(distribution, alpha):
    logits, second, labels = make_batch(distribution)
    _, law = DIVERGENCES[distribution]
    task = 0.5 * (torch_loss(distribution, logits, labels) + torch_loss(distribution, second, labels))
    p, q = law(logits), law(second)
    consistency = 0.5 * (kl_divergence(p, q) + kl_divergence(q, p)).mean()
    losses = saor_loss(distribution, logits, labels, second, alpha=alpha)
    torch.testing.assert_close(losses.task_loss, task)
    torch.testing.assert_close(losses.consistency_loss, consistency)
    torch.testing.assert_close(losses.loss, task + alpha * consistency)


@pytest.mark.parametrize("distribution", ["categorical", "bernoulli"])
def test_a_temperature_softens_what_is_compared_and_keeps_its_size(distribution):
    logits, second, labels = make_batch(distribution)
    _, law = DIVERGENCES[distribution]
    p, q = law(logits / 3), law(second / 3)
    expected = 9 * 0.5 * (kl_divergence(p, q) + kl_divergence(q, p)).mean()
    plain, soft = (saor_loss(distribution, logits, labels, second, alpha=2.0, temperature=t) for t in (1.0, 3.0))
    torch.testing.assert_close(soft.consistency_loss, expected)
    assert torch.equal(soft.task_loss, plain.task_loss)
    torch.testing.assert_close(soft.loss, soft.task_loss + 2 * expected)
    with pytest.raises(ValueError, match=r"temperature of 3\.0 is for classes"):
        saor_loss("gaussian", *make_batch("gaussian")[::2], temperature=3.0)


@every_distribution
@pytest.mark.parametrize("num_items", [None, 7])
def test_a_second_pass_over_some_rows_counts_for_all(distribution, num_items):
    logits, second, labels = make_batch(distribution)
    labels[1] = labels[3, 2:] = no_label(distribution)
    rows, others = torch.tensor([1, 3, 4]), torch.tensor([0, 2, 5])
    count = int(is_labelled(distribution, labels).sum()) if num_items is None else num_items
    both = saor_loss(distribution, logits[rows], labels[rows], second[rows], num_items=count)
    alone = saor_loss(distribution, logits[others], labels[others], num_items=count).loss
    leaves = [states.requires_grad_() for states in (logits, second[rows])]
    losses = saor_loss(distribution, leaves[0], labels, leaves[1], alpha=3.0, num_items=num_items, rows=rows)
    torch.testing.assert_close(losses.task_loss, both.task_loss + alone)
    torch.testing.assert_close(losses.consistency_loss, 2 * both.consistency_loss)
    torch.testing.assert_close(losses.loss, losses.task_loss + 3 * losses.consistency_loss)
    with pytest.raises(ValueError, match="3 rows are in the second pass"):
        saor_loss(distribution, logits, labels, second[:2], rows=rows)
    gradients = torch.autograd.grad(losses.loss, leaves)
    by_hand = torch.autograd.grad(both_by_hand(distribution, *leaves, labels, rows, others, count), leaves)
    torch.testing.assert_close(gradients, by_hand)


def both_by_hand(distribution, logits, second, labels, rows, others, count) -> torch.Tensor:
    both = saor_loss(distribution, logits[rows], labels[rows], second, alpha=6.0, num_items=count)
    return both.loss + saor_loss(distribution, logits[others], labels[others], num_items=count).loss


@every_distribution
def test_the_loss_of_some_rows_is_that_of_all_on_average(distribution):
    logits, second, labels = make_batch(distribution, num_documents=4)
    labels[1] = labels[3, 2:] = no_label(distribution)
    every = [torch.tensor(rows) for rows in itertools.combinations(range(4), 2)]
    found = [saor_loss(distribution, logits, labels, second[rows], rows=rows).consistency_loss for rows in every]
    expected = saor_loss(distribution, logits, labels, second).consistency_loss
    torch.testing.assert_close(torch.stack(found).mean(), expected)


@every_distribution
def test_both_passes_are_trained_by_both_terms(distribution):
    logits, second, labels = make_batch(distribution)
    for weight_of in ("task_loss", "consistency_loss"):
        first, other = (states.clone().requires_grad_() for states in (logits, second))
        getattr(saor_loss(distribution, first, labels, other), weight_of).backward()
        assert (first.grad != 0).any(dim=-1).all() and (other.grad != 0).any(dim=-1).all()
    _, first, other = loss_and_gradients(distribution, logits, labels, second, alpha=2.0)
    _, swapped_first, swapped_other = loss_and_gradients(distribution, second, labels, logits, alpha=2.0)
    torch.testing.assert_close(first, swapped_other)
    torch.testing.assert_close(other, swapped_first)


@pytest.mark.parametrize("poison", [1e30, -1e30, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_distribution
def test_logits_without_a_label_have_no_effect(distribution, dtype, poison):
    logits, second, labels = make_batch(distribution, dtype=dtype)
    has_label = torch.rand(labels.shape) < 0.6
    labels = labels.masked_fill(~has_label, no_label(distribution))
    of_logits = has_label.unsqueeze(-1).expand_as(logits) if distribution == "categorical" else has_label
    # In fp16 the finite ones become infinite as well.
    poison = torch.tensor(poison).to(dtype)
    clean = loss_and_gradients(distribution, logits, labels, second)
    for poison_first, poison_second in ((True, False), (False, True), (True, True)):
        states = logits.masked_fill(~of_logits, poison) if poison_first else logits
        other = second.masked_fill(~of_logits, poison) if poison_second else second
        poisoned = loss_and_gradients(distribution, states, labels, other)
        for actual, expected in zip(poisoned, clean, strict=True):
            assert expected.isfinite().all()
            assert torch.equal(actual, expected)
        for gradient in poisoned[1:]:
            assert (gradient[~of_logits] == 0).all()
            assert (gradient[of_logits] != 0).any()
        assert torch.equal(saor_loss(distribution, states, labels).loss, saor_loss(distribution, logits, labels).loss)


@every_distribution
def test_loss_is_the_mean_over_the_labelled_predictions_alone(distribution):
    logits, second, labels = make_batch(distribution)
    labels[2:] = no_label(distribution)
    actual = saor_loss(distribution, logits, labels, second, alpha=3.0)
    expected = saor_loss(distribution, logits[:2], labels[:2], second[:2], alpha=3.0)
    torch.testing.assert_close(tuple(actual), tuple(expected))


@every_distribution
@pytest.mark.parametrize("num_items", [7, torch.tensor(7)], ids=["int", "tensor"])
def test_both_sums_are_divided_by_num_items(distribution, num_items):
    logits, second, labels = make_batch(distribution)
    mean = saor_loss(distribution, logits, labels, second, alpha=3.0)
    scaled = saor_loss(distribution, logits, labels, second, alpha=3.0, num_items=num_items)
    for actual, expected in zip(scaled, mean, strict=True):
        torch.testing.assert_close(actual, expected * labels.numel() / 7)
    torch.testing.assert_close(
        saor_loss(distribution, logits, labels, num_items=num_items).loss,
        torch_loss(distribution, logits, labels, reduction="sum") / 7,
    )


@every_distribution
@pytest.mark.parametrize("has_second", [False, True])
def test_micro_batches_add_up_to_the_full_batch(distribution, has_second):
    logits, second, labels = make_batch(distribution)
    # An uneven share of labels: means of means would not add up.
    labels[0, 1:] = labels[3:, 2] = no_label(distribution)
    second = second if has_second else None
    full = saor_loss(distribution, logits, labels, second, alpha=3.0)
    num_items = is_labelled(distribution, labels).sum()
    parts = [
        saor_loss(
            distribution,
            logits[rows],
            labels[rows],
            second[rows] if has_second else None,
            alpha=3.0,
            num_items=num_items,
        )
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    for expected, *terms in zip(full, *parts, strict=True):
        if expected is not None:
            torch.testing.assert_close(sum(terms), expected)


@every_distribution
def test_loss_does_not_depend_on_how_often_the_batch_is_repeated(distribution):
    logits, second, labels = make_batch(distribution)
    once = saor_loss(distribution, logits, labels, second, alpha=3.0)
    repeated = saor_loss(
        distribution,
        *(states.repeat(4, 1, *[1] * (states.dim() - 2)) for states in (logits, labels, second)),
        alpha=3.0,
    )
    torch.testing.assert_close(tuple(repeated), tuple(once))


@every_distribution
@pytest.mark.parametrize("num_items", [None, 5, 0, torch.tensor(0)], ids=["none", "5", "0", "tensor0"])
def test_batch_without_a_label_has_no_loss_and_no_gradient(distribution, num_items):
    logits, second, labels = make_batch(distribution)
    labels = torch.full_like(labels, no_label(distribution))
    for value in loss_and_gradients(distribution, logits, labels, second, num_items=num_items):
        assert (value == 0).all()
    assert saor_loss(distribution, logits, labels, num_items=num_items).loss == 0


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@every_distribution
def test_half_precision_logits_are_taken_to_fp32(distribution, dtype):
    logits, second, labels = make_batch(distribution, dtype=dtype)
    actual = saor_loss(distribution, logits, labels, second, alpha=3.0)
    expected = saor_loss(distribution, logits.float(), labels, second.float(), alpha=3.0)
    for value in actual:
        assert value.dtype == torch.float32
    torch.testing.assert_close(tuple(actual), tuple(expected))
    one_pass = saor_loss(distribution, logits, labels).loss
    assert one_pass.dtype == torch.float32
    torch.testing.assert_close(one_pass, saor_loss(distribution, logits.float(), labels).loss)


def test_half_precision_regression_takes_labels_beyond_its_range():
    logits = torch.zeros(2, dtype=torch.float16)
    assert saor_loss("gaussian", logits, torch.tensor([1e5, 0.0])).loss == 5e9


def test_fp64_logits_stay_fp64():
    logits, second, labels = make_batch("categorical", dtype=torch.float64)
    for value in saor_loss("categorical", logits, labels, second):
        assert value.dtype == torch.float64


@pytest.mark.parametrize("distribution, count", [("bernoulli", 2), ("gaussian", 3)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_targets_and_numbers_may_be_integers(distribution, count, dtype):
    logits, labels = torch.tensor([[0.5, -1.0, 2.0]], dtype=dtype), torch.tensor([[1, 0, -100]])
    loss = saor_loss(distribution, logits, labels).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch_loss(distribution, logits[:, :count].float(), labels[:, :count].float()))


def test_minus_100_is_a_number_like_any_other_in_a_regression():
    logits, second = torch.randn(64, 1), torch.randn(64, 1)
    labels = torch.cat([torch.full((60, 1), -100.0), torch.randn(4, 1)])
    expected = (nn.functional.mse_loss(logits, labels) + nn.functional.mse_loss(second, labels)) / 2
    assert expected > 1000
    torch.testing.assert_close(saor_loss("gaussian", logits, labels, second).task_loss, expected)


def test_unknown_distribution_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"distribution='poisson' .*categorical, any_of, bernoulli, gaussian"):
        saor_loss("poisson", torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize(
    "distribution, shape, expected",
    [
        ("categorical", (4, 3), r"\(4, 3\).*\(4,\)"),
        ("categorical", (5,), r"\(5,\).*\(4,\)"),
        ("categorical", (4, 1), r"\(4, 1\).*\(4,\)"),
        ("bernoulli", (4,), r"\(4,\).*\(4, 3\)"),
        # These would broadcast in silence.
        ("bernoulli", (4, 1), r"\(4, 1\).*\(4, 3\)"),
        ("gaussian", (1, 3), r"\(1, 3\).*\(4, 3\)"),
        ("gaussian", (3,), r"\(3,\).*\(4, 3\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_both_shapes(distribution, shape, expected):
    with pytest.raises(ValueError, match=expected):
        saor_loss(distribution, torch.zeros(4, 3), torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("shape", [(1, 3), (4, 1), (4, 2), (4, 1, 3)])
@every_distribution
def test_second_logits_that_do_not_fit_are_refused(distribution, shape):
    labels = torch.zeros(4, dtype=torch.long) if distribution == "categorical" else torch.zeros(4, 3)
    with pytest.raises(ValueError, match="shape"):
        saor_loss(distribution, torch.zeros(4, 3), labels, torch.zeros(shape))


def test_first_and_last_class_and_no_label_are_allowed():
    loss = saor_loss("categorical", torch.zeros(3, 3), torch.tensor([0, 2, -100])).loss
    torch.testing.assert_close(loss, torch.tensor(3.0).log())


def test_consistency_loss_does_not_read_which_label_it_is():
    # The consistency term reads which predictions have a label, never which label it is.
    logits, second, labels = make_batch("categorical")
    for shift, alpha in itertools.product((1, 2), (1.0, 4.0)):
        moved = saor_loss("categorical", logits, (labels + shift) % 3, second, alpha=alpha)
        assert torch.equal(moved.consistency_loss, saor_loss("categorical", logits, labels, second).consistency_loss)


@every_distribution
@pytest.mark.parametrize("has_second", [True, False])
def test_logits_in_chunks_change_neither_losses_nor_gradients(distribution, has_second, monkeypatch):
    logits, second, labels = make_batch(distribution)
    labels.view(-1)[::4] = no_label(distribution)
    results = []
    # All at once, a row at a time, and rows that the chunks do not divide.
    for chunk in (90, 1, 12, 89):
        monkeypatch.setattr(saor, "CHUNK_LOGITS", chunk)
        leaves = [states.clone().requires_grad_() for states in (logits, second)]
        losses = saor_loss(distribution, leaves[0], labels, leaves[1] if has_second else None, alpha=0.7)
        (losses.loss + (0.3 * losses.task_loss if has_second else 0)).backward()
        values = [value.detach() for value in losses if value is not None]
        results.append([*values, *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    for result in results[1:]:
        assert len(result) == len(results[0]) == (5 if has_second else 2)
        for actual, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(actual, expected)


def test_forward_pass_over_many_logits_makes_no_tensor_as_large(monkeypatch):
    monkeypatch.setattr(saor, "CHUNK_LOGITS", 100)
    logits, second = (torch.randn(64, 50, requires_grad=True) for _ in range(2))
    with LargestTensor() as largest:
        saor_loss("categorical", logits, torch.randint(50, (64,)), second)
    assert largest.numel <= 100
