# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The heads' losses, of one pass and of two, against torch's own, and what masked modelling computes for them."""

import math
from functools import partial

import pytest
import torch
from test_modeling_ernie_sparse import (
    HEADS,
    OTHER_PATTERN,
    build_head,
    every_head,
    gradients,
    make_batch,
    make_inputs,
    predictions,
    without_labels,
)
from torch import nn
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from ernie_sparse import modeling_ernie_sparse


@pytest.fixture
def build(tiny_config):
    """Builds a head: `build("masked_lm", block_size=4)`."""
    return partial(build_head, tiny_config)


class RowsAsWideAs(TorchDispatchMode):
    """Records the shapes of all tensors computed under it whose last dimension has `width`."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.shapes = width, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if isinstance(output, torch.Tensor) and output.dim() and output.shape[-1] == self.width:
                self.shapes.add(tuple(output.shape))
        return outputs


@pytest.mark.parametrize("consistency", [None, OTHER_PATTERN])
def test_masked_lm_in_training_computes_logits_of_labelled_positions_only(consistency, build):
    model, batch = build("masked_lm").train(), make_batch("masked_lm")
    num_labelled = int((batch["labels"] != -100).sum())
    assert 3 < num_labelled < 32
    with RowsAsWideAs(99) as recorder:
        output = model(**batch, consistency_pattern=consistency)
        output.loss.backward()
    assert output.logits is None
    # The transposed vocabulary matrix and its gradient are as wide.
    rows = {math.prod(shape[:-1]) for shape in recorder.shapes - {(32, 99)}}
    assert max(rows) == num_labelled


@pytest.mark.parametrize("num_items", [None, 7])
def test_masked_lm_in_chunks_of_logits_changes_neither_losses_nor_gradients(num_items, build, monkeypatch):
    batch = {**make_batch("masked_lm"), "consistency_pattern": OTHER_PATTERN, "num_items_in_batch": num_items}
    model, results = build("masked_lm").train(), []
    num_labelled = int((batch["labels"] != -100).sum())
    for rows, expected in ((num_labelled, num_labelled), (num_labelled - 1, num_labelled - 1), (3, 3), (0, 1)):
        monkeypatch.setattr(modeling_ernie_sparse, "CHUNK_LOGITS", rows * 99 + 98)
        model.zero_grad()
        with RowsAsWideAs(99) as recorder:
            output = model(**batch)
            output.loss.backward()
        assert max(math.prod(shape[:-1]) for shape in recorder.shapes - {(32, 99)}) == expected
        losses = torch.stack([output.loss, output.task_loss, output.consistency_loss]).detach()
        results.append((losses, {name: gradient.clone() for name, gradient in gradients(model).items()}))
    for losses, by_name in results[1:]:
        torch.testing.assert_close(losses, results[0][0], rtol=1e-5, atol=1e-7)
        for name, gradient in by_name.items():
            torch.testing.assert_close(gradient, results[0][1][name], rtol=1e-4, atol=1e-6)


def test_masked_lm_in_training_equals_the_full_computation(build):
    batch = make_batch("masked_lm")
    model = build("masked_lm").train()
    loss = model(**batch).loss
    loss.backward()
    ours = gradients(model)
    model.zero_grad()
    full_logits = model(**without_labels(batch)).logits
    assert full_logits.shape == (2, 40, 99)
    expected = nn.functional.cross_entropy(full_logits.flatten(0, 1), batch["labels"].flatten())
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)
    evaluated = model.eval()(**batch)
    assert torch.equal(evaluated.logits, full_logits)
    torch.testing.assert_close(evaluated.loss, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("consistency", [None, OTHER_PATTERN])
def test_masked_lm_without_a_label_has_no_loss(consistency, is_training, build):
    model, inputs = build("masked_lm").train(is_training), make_inputs()
    labels = torch.full_like(inputs["input_ids"], -100)
    loss = model(**inputs, labels=labels, consistency_pattern=consistency).loss
    loss.backward()
    assert loss == 0
    assert all(gradient is None or torch.equal(gradient, 0 * gradient) for gradient in gradients(model).values())


def losses_by_hand(name: str, model, batch: dict, second_pattern) -> tuple[torch.Tensor, torch.Tensor]:
    """Task loss and consistency loss from two calls of one pass each, with torch's own losses and divergences."""
    inputs = without_labels(batch)
    first, second = (predictions(HEADS[name], model(**inputs, pattern=p)) for p in (None, second_pattern))
    if name == "question_answering":
        task, consistency = [], []
        for p, q, positions in zip(first, second, (batch["start_positions"], batch["end_positions"]), strict=True):
            for i, is_real in enumerate(batch["attention_mask"].bool()):
                pair, label = (p[i, is_real], q[i, is_real]), positions[i]
                task += [nn.functional.cross_entropy(logits, label) for logits in pair]
                consistency.append(symmetric_divergence(*(Categorical(logits=logits) for logits in pair)))
        return torch.stack(task).mean(), torch.stack(consistency).mean()
    (p,), (q,), labels = first, second, batch["labels"]
    if name in ("masked_lm", "token_classification"):
        is_labelled = labels != -100
        p, q, labels = p[is_labelled], q[is_labelled], labels[is_labelled]
    if name == "regression":
        labels = labels[:, None]
    task_loss, distribution = {
        "categorical": (nn.functional.cross_entropy, lambda logits: Categorical(logits=logits)),
        "bernoulli": (nn.functional.binary_cross_entropy_with_logits, lambda logits: Bernoulli(logits=logits)),
        "gaussian": (nn.functional.mse_loss, lambda means: Normal(means, 1.0)),
    }[HEADS[name].distribution]
    task = (task_loss(p, labels) + task_loss(q, labels)) / 2
    return task, symmetric_divergence(distribution(p), distribution(q)).mean()


def symmetric_divergence(p, q) -> torch.Tensor:
    return (kl_divergence(p, q) + kl_divergence(q, p)) / 2


@every_head
def test_two_passes_equal_the_losses_by_hand_with_gradients(name, build):
    model, batch = build(name).train(), make_batch(name)
    task, consistency = losses_by_hand(name, model, batch, OTHER_PATTERN)
    expected = task + 2.5 * consistency
    expected.backward()
    by_hand = gradients(model)
    model.zero_grad()
    output = model(**batch, consistency_pattern=OTHER_PATTERN, consistency_alpha=2.5)
    output.loss.backward()
    assert consistency > 1e-3
    for ours, theirs in (
        (output.task_loss, task),
        (output.consistency_loss, consistency),
        (output.loss, expected),
    ):
        assert ours.shape == ()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for parameter_name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, by_hand[parameter_name], rtol=1e-3, atol=1e-4)


@every_head
def test_one_pass_equals_the_task_loss_by_hand(name, build):
    model, batch = build(name).train(), make_batch(name)
    output = model(**batch)
    task, _ = losses_by_hand(name, model, batch, None)
    torch.testing.assert_close(output.loss, task, rtol=1e-5, atol=1e-5)
    assert output.task_loss is None and output.consistency_loss is None


@every_head
def test_the_same_pattern_twice_is_consistent(name, build):
    model, batch = build(name).train(), make_batch(name)
    output = model(**batch, consistency_pattern=model.config.pattern)
    assert output.consistency_loss == 0
    torch.testing.assert_close(output.loss, model(**batch).loss, rtol=1e-6, atol=1e-6)


@every_head
def test_a_second_pass_over_some_rows_is_that_of_these_rows(name, build):
    """Three rows, of which two are read twice: against calls of one pass."""
    model, batch = build(name).train(), make_batch(name, lengths=(40, 23, 31))
    rows, count = torch.tensor([0, 2]), model.is_labelled(batch).sum()
    settings = {"consistency_alpha": 2.5, "num_items_in_batch": count}
    if name != "regression":
        settings["consistency_temperature"] = 2.0
    shared, alone = ({key: value[index] for key, value in batch.items()} for index in (rows, [1]))
    double = model(**shared, **settings, consistency_pattern=OTHER_PATTERN)
    single = model(**alone, num_items_in_batch=count)
    expected = double.task_loss + single.loss + 1.5 * 2.5 * double.consistency_loss
    expected.backward()
    by_hand = {key: gradient.clone() for key, gradient in gradients(model).items()}
    model.zero_grad()
    output = model(**batch, **settings, consistency_pattern=OTHER_PATTERN, consistency_rows=rows)
    output.loss.backward()
    assert double.consistency_loss > 1e-3
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.task_loss, double.task_loss + single.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.consistency_loss, 1.5 * double.consistency_loss, rtol=1e-4, atol=1e-5)
    for parameter_name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, by_hand[parameter_name], rtol=1e-3, atol=1e-4)
    evaluated = model.eval()(**batch, **settings, consistency_pattern=OTHER_PATTERN, consistency_rows=rows)
    torch.testing.assert_close(evaluated.loss, output.loss, rtol=1e-4, atol=1e-5)


@every_head
def test_num_items_divides_both_losses(name, build):
    model, batch = build(name).train(), {**make_batch(name), "consistency_pattern": OTHER_PATTERN}
    labels = batch["start_positions"] if name == "question_answering" else batch["labels"]
    count = (labels != -100).sum()
    mean = model(**batch)
    for num_items in (4 * count, int(4 * count)):
        quarter = model(**batch, num_items_in_batch=num_items)
        for part in ("loss", "task_loss", "consistency_loss"):
            torch.testing.assert_close(4 * quarter[part], mean[part], rtol=1e-5, atol=1e-6)


@every_head
def test_the_loss_is_a_mean_over_what_is_labelled(name, build):
    model, batch = build(name).train(), make_batch(name)
    labels = batch["start_positions"] if name == "question_answering" else batch["labels"]
    labels[0] = float("nan") if labels.is_floating_point() else -100
    if name == "question_answering":
        batch["end_positions"][0] = -100
    count = model.is_labelled(batch).sum()
    assert 0 < count < labels.numel()
    torch.testing.assert_close(model(**batch, num_items_in_batch=1).loss, model(**batch).loss * count)
    assert model.is_labelled(without_labels(batch)) is None


def test_consistency_compares_the_pattern_of_the_call_with_the_second_one(build):
    model, batch = build("single_label"), make_batch("single_label")
    output = model(**batch, pattern=OTHER_PATTERN, consistency_pattern=OTHER_PATTERN)
    assert output.consistency_loss == 0
    assert torch.equal(output.logits, model(**without_labels(batch), pattern=OTHER_PATTERN).logits)


def test_question_answering_loss_ignores_padding(build):
    model, batch = build("question_answering").train(), make_batch("question_answering")
    batch["consistency_pattern"] = OTHER_PATTERN
    padding = batch["attention_mask"] == 0
    poisoned = {**batch, "input_ids": torch.where(padding, 57, batch["input_ids"])}
    output, poisoned_output = model(**batch), model(**poisoned)
    for part in ("task_loss", "consistency_loss", "loss"):
        torch.testing.assert_close(output[part], poisoned_output[part], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outside", [-1, -100, 40, 1000])
def test_question_answering_takes_an_answer_outside_the_input_for_none(outside, build):
    model, batch = build("question_answering").train(), make_batch("question_answering", lengths=(40, 23, 31))
    inside = {key: value[:2] for key, value in batch.items()}
    for positions in ("start_positions", "end_positions"):
        batch[positions][2] = outside
    ours, expected = (model(**b, consistency_pattern=OTHER_PATTERN) for b in (batch, inside))
    for part in ("loss", "task_loss", "consistency_loss"):
        torch.testing.assert_close(ours[part], expected[part], rtol=1e-5, atol=1e-6)


def test_problem_type_follows_the_labels_where_the_config_names_none(build):
    model, inputs = build("single_label"), make_inputs()
    logits = model(**inputs).logits
    classes, targets = torch.tensor([0, 2]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(model(**inputs, labels=classes).loss, nn.functional.cross_entropy(logits, classes))
    torch.testing.assert_close(
        model(**inputs, labels=targets).loss, nn.functional.binary_cross_entropy_with_logits(logits, targets)
    )
    assert model.config.problem_type is None


@torch.no_grad()
def test_logits_of_some_tokens_are_those_of_all_and_so_is_their_loss(build):
    model = build("masked_lm").eval()
    ids = torch.randint(5, model.config.vocab_size, (2, 30))
    is_masked = torch.zeros(2, 30, dtype=torch.bool)
    is_masked[0, [3, 17]] = is_masked[1, 29] = True
    labels = torch.where(is_masked, ids, -100)
    whole = model(ids, labels=labels)
    for kept, expected in (
        (is_masked, whole.logits[is_masked]),
        (torch.tensor([3, 17, 29]), whole.logits[:, [3, 17, 29]]),
        (27, whole.logits[:, 3:]),
    ):
        some = model(ids, labels=labels, logits_to_keep=kept)
        torch.testing.assert_close(some.logits, expected)
        torch.testing.assert_close(some.loss, whole.loss)
    assert model(ids, logits_to_keep=1).logits.shape == (2, 1, model.config.vocab_size)
    # What is not kept does not count.
    assert model(ids, labels=labels, logits_to_keep=1).loss != whole.loss
