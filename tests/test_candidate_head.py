# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Answers of several mentions, class weights and the choice among candidates, each against the same by hand."""

import pytest
import torch
from distributed_training import build_trainer
from test_modeling_ernie_sparse import (
    CLOSE,
    HEADS,
    OTHER_PATTERN,
    gradients,
    make_batch,
    make_inputs,
    randomise,
    without_labels,
)
from torch import nn
from torch.distributions import Categorical, kl_divergence

from ernie_sparse import ErnieSparseForCandidateChoice, saor
from ernie_sparse.saor import categorical_divergence, saor_loss
from ernie_sparse.trainer import SaorArguments, SaorTrainer

PARTS = ("loss", "task_loss", "consistency_loss")
LEAST = torch.finfo(torch.float32).min


@pytest.fixture
def build(tiny_config):
    """Builds a head in eval mode, all parameters random and no dropout: `build("candidates", block_size=4)`."""

    def build_head(name: str = "candidates", backend: str = "sdpa", **overrides) -> nn.Module:
        model, config = (
            (ErnieSparseForCandidateChoice, {}) if name == "candidates" else (HEADS[name].model, HEADS[name].config)
        )
        no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = tiny_config(attn_implementation=backend, **{**no_dropout, **config, **overrides})
        return randomise(model(config)).eval()

    return build_head


def make_candidates() -> dict:
    """Three documents of three, one and two candidates."""
    return {
        **make_inputs(lengths=(40, 23, 31)),
        "candidate_positions": torch.tensor([[3, 9, 30], [5, -1, -1], [1, 30, -1]]),
        "labels": torch.tensor([2, 0, 1]),
    }


def candidate_inputs(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name != "labels"}


def row_of(batch: dict, i: int) -> dict:
    """One document without padding, neither of tokens nor of candidates."""
    length, count = int(batch["attention_mask"][i].sum()), int((batch["candidate_positions"][i] >= 0).sum())
    ends = {"candidate_positions": count}
    return {
        name: value[i : i + 1, : ends.get(name, length)] if value.dim() == 2 else value[i : i + 1]
        for name, value in batch.items()
    }


def loss_and_gradients(distribution: str, labels: torch.Tensor, *passes: torch.Tensor, **kwargs) -> list[torch.Tensor]:
    """The parts of the loss that there are, and the gradient of the loss by every pass."""
    passes = [states.clone().requires_grad_() for states in passes]
    losses = saor_loss(distribution, passes[0], labels, *passes[1:], **kwargs)
    losses.loss.backward()
    return [*(part.detach() for part in losses if part is not None), *(states.grad for states in passes)]


def assert_all_close(ours, theirs, **tolerances):
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected, **tolerances)


def draw_any_of(num_rows: int = 6, num_classes: int = 9) -> tuple[torch.Tensor, ...]:
    """Logits of two passes and sets of one class or more, all of them in the last row."""
    logits, second = (2 * torch.randn(num_rows, num_classes, dtype=torch.float64) for _ in range(2))
    labels = torch.rand(num_rows, num_classes) < 0.3
    labels[torch.arange(num_rows), torch.randint(num_classes, (num_rows,))] = True
    labels[-1] = True
    return logits, second, labels


def test_any_of_is_minus_the_log_of_the_joint_probability():
    logits, second, labels = draw_any_of()
    values = [-(states.softmax(-1) * labels).sum(-1).log() for states in (logits, second)]
    one_pass = saor_loss("any_of", logits, labels)
    torch.testing.assert_close(one_pass.loss, values[0].mean())
    assert one_pass.task_loss is None and one_pass.consistency_loss is None
    losses = saor_loss("any_of", logits, labels, second, alpha=3.0)
    task, consistency = (values[0] + values[1]).mean() / 2, categorical_divergence(logits, second).mean()
    assert_all_close(losses, (task + 3.0 * consistency, task, consistency))
    by_items = saor_loss("any_of", logits, labels, second, alpha=3.0, num_items=4)
    assert_all_close(by_items, [part * 6 / 4 for part in losses])


def test_gradient_of_any_of_is_that_of_its_formula():
    logits, _, labels = draw_any_of()
    _, gradient = loss_and_gradients("any_of", labels, logits)
    probabilities = logits.softmax(-1)
    among_the_right = logits.masked_fill(~labels, -torch.inf).softmax(-1)
    torch.testing.assert_close(gradient, (probabilities - among_the_right) / len(logits))
    # Whatever is chosen is right.
    assert gradient[-1].abs().max() < 1e-12


def test_gradient_of_any_of_is_that_of_finite_differences():
    logits, second, labels = draw_any_of(3, 5)
    states = [logits.requires_grad_(), second.requires_grad_()]
    assert torch.autograd.gradcheck(lambda p, q: saor_loss("any_of", p, labels, q, alpha=0.7).loss, states)


def test_any_of_one_is_the_categorical_loss():
    logits, second, _ = draw_any_of()
    classes = torch.tensor([0, 8, 3, 3, 1, 7])
    sets = nn.functional.one_hot(classes, 9).bool()
    ours = loss_and_gradients("any_of", sets, logits, second, alpha=2.0)
    assert_all_close(ours, loss_and_gradients("categorical", classes, logits, second, alpha=2.0))


@pytest.mark.parametrize("poison", [0.0, float("inf"), float("-inf"), float("nan")])
def test_a_row_of_which_none_is_right_has_no_effect(poison):
    logits, second, labels = draw_any_of()
    labels[[1, 4]] = False
    rest = torch.tensor([0, 2, 3, 5])
    states = [pass_logits.clone() for pass_logits in (logits, second)]
    for pass_logits in states:
        pass_logits[[1, 4]] = poison
    *parts, first, other = loss_and_gradients("any_of", labels, *states)
    *expected_parts, expected_first, expected_other = loss_and_gradients(
        "any_of", labels[rest], logits[rest], second[rest]
    )
    assert_all_close(parts, expected_parts)
    assert_all_close((first[rest], other[rest]), (expected_first, expected_other))
    assert not first[[1, 4]].any() and not other[[1, 4]].any()


def test_a_batch_of_which_none_is_right_has_loss_and_gradients_of_zero():
    logits, second, labels = draw_any_of()
    for value in loss_and_gradients("any_of", torch.zeros_like(labels), logits, second):
        assert not value.any()


def test_any_of_in_chunks_changes_nothing(monkeypatch):
    logits, second, labels = draw_any_of()
    labels[1] = False
    whole = loss_and_gradients("any_of", labels, logits, second, alpha=0.5)
    for chunk in (1, 20):
        monkeypatch.setattr(saor, "CHUNK_LOGITS", chunk)
        assert_all_close(loss_and_gradients("any_of", labels, logits, second, alpha=0.5), whole)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (9,), (5, 9)])
def test_sets_shaped_unlike_the_logits_are_refused(shape):
    with pytest.raises(ValueError, match=r"labels of shape .* \(6, 9\) is expected"):
        saor_loss("any_of", torch.zeros(6, 9), torch.ones(shape, dtype=torch.bool))


def make_questions(mentions: list[list[tuple[int, int]]]) -> dict:
    """A batch of 40, 23, … tokens with `mentions` as (start, end), padded with -1."""
    width = max(map(len, mentions))
    filled = torch.tensor([[*row, *[(-1, -1)] * (width - len(row))] for row in mentions])
    return {
        **make_inputs(lengths=(40, 23, 31)[: len(mentions)]),
        "start_positions": filled[..., 0],
        "end_positions": filled[..., 1],
    }


def question_results(model: nn.Module, batch: dict, positions: dict) -> list[torch.Tensor]:
    model.zero_grad()
    output = model(**{**batch, **positions}, consistency_pattern=OTHER_PATTERN)
    output.loss.backward()
    return [*(output[part].detach() for part in PARTS), *(gradient.clone() for gradient in gradients(model).values())]


def test_mentions_of_an_answer_share_one_loss(build):
    mentions = [[(3, 5), (10, 10), (39, 39)], [(0, 1)], [(7, 9), (7, 8)]]
    model, batch = build("question_answering"), make_questions(mentions)
    output = model(**batch, consistency_pattern=OTHER_PATTERN, consistency_alpha=2.5)
    task = []
    for pattern in (None, OTHER_PATTERN):
        logits = model(**without_labels(batch), pattern=pattern)
        for side, scores in enumerate((logits.start_logits, logits.end_logits)):
            for i, row in enumerate(mentions):
                probabilities = scores[i, batch["attention_mask"][i].bool()].softmax(-1)
                task.append(-sum(probabilities[place] for place in {mention[side] for mention in row}).log())
    torch.testing.assert_close(output.task_loss, torch.stack(task).mean(), **CLOSE)
    torch.testing.assert_close(output.loss, output.task_loss + 2.5 * output.consistency_loss)
    assert output.consistency_loss > 1e-3


def test_positions_outside_and_repeated_ones_have_no_effect(build):
    model = build("question_answering")
    batch = make_questions([[(3, 5), (12, 14)], [(2, 2)]])
    expected = question_results(model, batch, {})
    noisy = make_questions(
        [[(3, 5), (-1, -1), (12, 14), (3, 5), (40, 41)], [(-100, -7), (2, 2), (2, 2), (1000, 40), (-1, -1)]]
    )
    positions = {name: noisy[name] for name in ("start_positions", "end_positions")}
    assert_all_close(question_results(model, batch, positions), expected)


@pytest.mark.parametrize("outside", [-1, 40])
def test_a_question_without_a_mention_inside_counts_for_none(outside, build):
    model, batch = build("question_answering"), make_questions([[(3, 5), (12, 14)], [(2, 2)], [(outside, outside)]])
    batch["start_positions"][2] = batch["end_positions"][2] = outside
    rest = {name: value[:2] for name, value in batch.items()}
    assert_all_close(question_results(model, batch, {}), question_results(model, rest, {}), **CLOSE)
    nowhere = {name: torch.full((3, 2), outside) for name in ("start_positions", "end_positions")}
    for value in question_results(model, batch, nowhere):
        assert not value.any()


def test_one_position_may_stand_in_a_list(build):
    model, batch = build("question_answering"), make_questions([[(3, 5)], [(2, 2)], [(30, 30)]])
    flat = {name: batch[name].squeeze(1) for name in ("start_positions", "end_positions")}
    assert flat["start_positions"].shape == (3,)
    assert all(
        torch.equal(*pair)
        for pair in zip(question_results(model, batch, {}), question_results(model, batch, flat), strict=True)
    )


@pytest.mark.parametrize("name", ["question_answering", "candidates"])
def test_trainer_counts_rows_with_a_label(name, build, tmp_path):
    model = build(name)
    if name == "candidates":
        batches = [make_candidates(), make_candidates()]
        batches[1]["labels"][1:] = -100
    else:
        batches = [
            make_questions([[(3, 5), (12, 14), (20, 21)], [(-1, -1)], [(40, 40), (2, 3)]]),
            make_questions([[(39, 39)], [(0, 0)], [(40, 41)]]),
        ]
    trainer = build_trainer("question_answering", str(tmp_path), model=model)

    def count(batches: list[dict]) -> int:
        return trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))[1]

    assert count(batches) == 4
    if name == "question_answering":
        assert count([{**batch, "start_positions": torch.tensor([39, -1, 40])} for batch in batches]) == 2


@pytest.mark.parametrize("name", ["question_answering", "candidates"])
def test_accumulated_rows_train_as_one_batch(name, build, tmp_path):
    """An uneven share of labels: means of means would not add up."""
    if name == "candidates":
        batch = make_candidates()
        batch["labels"][1] = -100
    else:
        batch = make_questions([[(3, 5), (12, 14)], [(-1, -1), (-1, -1)], [(7, 9), (-1, -1)]])
    rows = [{key: value[i] for key, value in batch.items()} for i in (0, 1, 2, 2)]
    weights = build(name).state_dict()
    results = []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        model = build(name)
        model.load_state_dict(weights)
        arguments = build_trainer(
            "question_answering", str(tmp_path), model=model, batch_size=batch_size, accumulation=accumulation
        ).args
        SaorTrainer(model=model, args=arguments, train_dataset=rows, saor=SaorArguments(saor_alpha=2.0)).train()
        results.append([weight.detach() for weight in model.state_dict().values()])
    assert all((new - old).abs().max() < 1 for new, old in zip(results[0], weights.values(), strict=True))
    assert any((new - old).abs().max() > 1e-3 for new, old in zip(results[0], weights.values(), strict=True))
    for result in results[1:]:
        assert_all_close(result, results[0], rtol=1e-4, atol=1e-5)


WEIGHTS = torch.tensor([0.5, 2.0, 0.0])


def test_class_weights_are_factors_by_label():
    logits, second = (2 * torch.randn(6, 5, 3, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, 3, (6, 5))
    labels[0, 1:4] = labels[3] = -100
    is_labelled = labels != -100
    known = labels[is_labelled]
    values = [
        WEIGHTS[known] * nn.functional.cross_entropy(p[is_labelled], known, reduction="none") for p in (logits, second)
    ]
    weighted = saor_loss("categorical", logits, labels, second, alpha=3.0, class_weights=WEIGHTS)
    task = (values[0] + values[1]).mean() / 2
    # The consistency loss is that of no weights.
    consistency = saor_loss("categorical", logits, labels, second).consistency_loss
    assert_all_close(weighted, (task + 3.0 * consistency, task, consistency))
    torch.testing.assert_close(saor_loss("categorical", logits, labels, class_weights=WEIGHTS).loss, values[0].mean())
    torch.testing.assert_close(
        saor_loss("categorical", logits, labels, class_weights=WEIGHTS, num_items=7).loss, values[0].sum() / 7
    )
    ones = loss_and_gradients("categorical", labels, logits, second, class_weights=torch.ones(3))
    for actual, expected in zip(ones, loss_and_gradients("categorical", labels, logits, second), strict=True):
        assert torch.equal(actual, expected)


def test_a_class_of_weight_zero_has_no_gradient():
    logits, labels = torch.randn(30, 3), torch.arange(30) % 3
    _, gradient = loss_and_gradients("categorical", labels, logits, class_weights=WEIGHTS)
    assert not gradient[labels == 2].any() and (gradient[labels != 2] != 0).all()
    _, plain = loss_and_gradients("categorical", labels, logits)
    torch.testing.assert_close(gradient, plain * WEIGHTS[labels][:, None])


def test_class_weights_in_chunks_change_nothing(monkeypatch):
    logits, second, labels = torch.randn(6, 5, 3), torch.randn(6, 5, 3), torch.randint(0, 3, (6, 5))
    whole = loss_and_gradients("categorical", labels, logits, second, class_weights=WEIGHTS)
    monkeypatch.setattr(saor, "CHUNK_LOGITS", 12)
    assert_all_close(loss_and_gradients("categorical", labels, logits, second, class_weights=WEIGHTS), whole)


@pytest.mark.parametrize(
    "distribution, labels, class_weights, message",
    [
        ("categorical", torch.zeros(4, dtype=torch.long), torch.ones(2), r"class_weights of shape \(2,\).*\(3,\)"),
        ("categorical", torch.zeros(4, dtype=torch.long), torch.ones(1, 3), r"\(1, 3\) do not fit"),
        ("categorical", torch.zeros(4, dtype=torch.long), torch.tensor(1.0), r"\(\) do not fit"),
        ("any_of", torch.ones(4, 3, dtype=torch.bool), torch.ones(3), "categorical logits"),
        ("bernoulli", torch.zeros(4, 3), torch.ones(3), "categorical logits"),
        ("gaussian", torch.zeros(4, 3), torch.ones(3), "categorical logits"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(distribution, labels, class_weights, message):
    with pytest.raises(ValueError, match=message):
        saor_loss(distribution, torch.zeros(4, 3), labels, class_weights=class_weights)


@pytest.mark.parametrize("name", ["single_label", "token_classification"])
def test_heads_take_class_weights(name, build):
    model, batch = build(name), make_batch(name, lengths=(40, 23, 31))
    num_labels = model.config.num_labels
    weights = torch.linspace(0.2, 3.0, num_labels)
    plain = model(**batch, consistency_pattern=OTHER_PATTERN)
    weighted = model(**batch, consistency_pattern=OTHER_PATTERN, class_weights=weights, consistency_alpha=2.0)
    values = []
    for pattern in (None, OTHER_PATTERN):
        logits = model(**without_labels(batch), pattern=pattern).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten(), reduction="none")
        is_labelled = batch["labels"].flatten() != -100
        values.append((loss[is_labelled] * weights[batch["labels"].flatten()[is_labelled]]).mean())
    torch.testing.assert_close(weighted.task_loss, sum(values) / 2, **CLOSE)
    torch.testing.assert_close(model(**batch, class_weights=weights).loss, values[0], **CLOSE)
    assert not torch.isclose(weighted.task_loss, plain.task_loss, rtol=1e-3)
    assert torch.equal(weighted.consistency_loss, plain.consistency_loss)
    torch.testing.assert_close(weighted.loss, weighted.task_loss + 2.0 * weighted.consistency_loss)
    with pytest.raises(ValueError, match="class_weights"):
        model(**batch, class_weights=weights[:-1])


@pytest.mark.parametrize("name", ["multi_label", "regression"])
def test_class_weights_where_classes_do_not_exclude_each_other_are_refused(name, build):
    model = build(name)
    with pytest.raises(ValueError, match="class_weights is for classes that exclude each other"):
        model(**make_batch(name), class_weights=torch.ones(model.config.num_labels))


def test_a_candidate_s_logit_is_read_from_its_marker(build):
    model, batch = build(), make_candidates()
    states = model.ernie_sparse(**make_encoder_inputs(batch)).last_hidden_state
    logits = model(**candidate_inputs(batch)).logits
    weight, bias = model.classifier.weight[0], model.classifier.bias[0]
    for i, positions in enumerate(batch["candidate_positions"].tolist()):
        expected = [(states[i, place] @ weight + bias).item() if place >= 0 else LEAST for place in positions]
        torch.testing.assert_close(logits[i], torch.tensor(expected))


def make_encoder_inputs(batch: dict) -> dict:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


def test_logits_depend_on_the_markers_states_alone(build):
    model, batch = build(), make_candidates()
    inputs, positions = candidate_inputs(batch), batch["candidate_positions"]
    is_marker = torch.zeros(3, 40, dtype=torch.bool)
    for i, row in enumerate(positions.tolist()):
        is_marker[i, [place for place in row if place >= 0]] = True
    expected = model(**inputs).logits

    def logits_with(change) -> torch.Tensor:
        def hook(module, args, output):
            output.last_hidden_state = change(output.last_hidden_state)
            return output

        handle = model.ernie_sparse.register_forward_hook(hook)
        logits = model(**inputs).logits
        handle.remove()
        return logits

    poisoned = logits_with(lambda states: states.masked_fill(~is_marker[..., None], float("nan")))
    assert torch.equal(poisoned, expected)
    for i, k in ((0, 1), (2, 0)):
        changed = torch.zeros(3, 40, 1)
        changed[i, positions[i, k]] = 1.0
        moved = logits_with(lambda states, changed=changed: states + changed) != expected
        assert moved.nonzero().tolist() == [[i, k]]


def results_of(model: nn.Module, batch: dict, **kwargs) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits, and the parts of the loss and all gradients."""
    model.zero_grad()
    output = model(**batch, consistency_pattern=OTHER_PATTERN, **kwargs)
    output.loss.backward()
    parts = [output[part].detach() for part in PARTS]
    return output.logits.detach(), [*parts, *(gradient.clone() for gradient in gradients(model).values())]


@pytest.mark.parametrize("filler", [-1, -100])
def test_padding_candidates_changes_nothing(filler, build):
    model, batch = build().train(), make_candidates()
    logits, results = results_of(model, batch)
    padding = torch.full((3, 4), filler)
    batch["candidate_positions"] = torch.cat([batch["candidate_positions"], padding], dim=1)
    padded_logits, padded_results = results_of(model, batch)
    torch.testing.assert_close(padded_logits[:, :3], logits)
    assert (padded_logits[:, 3:] == LEAST).all()
    assert_all_close(padded_results, results)
    assert all(value.isfinite().all() for value in padded_results)


def test_rows_of_any_number_of_candidates_equal_each_alone(build):
    model, batch = build(), make_candidates()
    together = model(**batch)
    losses = []
    for i, count in enumerate((3, 1, 2)):
        alone = model(**row_of(batch, i))
        assert alone.logits.shape == (1, count)
        torch.testing.assert_close(together.logits[i, :count], alone.logits[0], **CLOSE)
        torch.testing.assert_close(
            alone.loss, nn.functional.cross_entropy(alone.logits, batch["labels"][i : i + 1]), **CLOSE
        )
        losses.append(alone.loss)
    torch.testing.assert_close(together.loss, torch.stack(losses).mean(), **CLOSE)
    assert together.task_loss is None and together.consistency_loss is None


def test_the_order_of_the_candidates_is_that_of_the_logits(build):
    model, batch = build(), make_candidates()
    order = torch.tensor([2, 0, 1])
    inputs = candidate_inputs(batch)
    turned = model(**{**inputs, "candidate_positions": inputs["candidate_positions"][:, order]}).logits
    assert_all_close([turned], [model(**inputs).logits[:, order]])


def test_two_passes_equal_the_losses_by_hand(build):
    model, batch = build(), make_candidates()
    task, consistency = [], []
    passes = [model(**candidate_inputs(batch), pattern=pattern).logits for pattern in (None, OTHER_PATTERN)]
    for i, count in enumerate((3, 1, 2)):
        pair = [logits[i, :count] for logits in passes]
        task += [nn.functional.cross_entropy(logits, batch["labels"][i]) for logits in pair]
        p, q = (Categorical(logits=logits) for logits in pair)
        consistency.append((kl_divergence(p, q) + kl_divergence(q, p)) / 2)
    task, consistency = torch.stack(task).mean(), torch.stack(consistency).mean()
    output = model(**batch, consistency_pattern=OTHER_PATTERN, consistency_alpha=2.5)
    assert consistency > 1e-3
    assert_all_close([output[part] for part in PARTS], (task + 2.5 * consistency, task, consistency), **CLOSE)
    assert torch.equal(output.logits, passes[0])
    quarter = model(**batch, consistency_pattern=OTHER_PATTERN, consistency_alpha=2.5, num_items_in_batch=12)
    assert_all_close([4 * quarter[part] for part in PARTS], [output[part] for part in PARTS])


def test_a_row_without_an_answer_has_no_effect(build):
    model, batch = build(), make_candidates()
    batch["labels"][1] = -100
    rest = {name: value[[0, 2]] for name, value in batch.items()}
    assert_all_close(results_of(model, batch)[1], results_of(model, rest)[1], **CLOSE)
    batch["labels"][:] = -100
    # A row of no candidates is one without an answer.
    batch["candidate_positions"][1] = -1
    for value in results_of(model, batch)[1]:
        assert not value.any()


@pytest.mark.parametrize("consistency", [None, OTHER_PATTERN])
def test_every_parameter_is_trained(consistency, build):
    model = build().train()
    model(**make_candidates(), consistency_pattern=consistency).loss.backward()
    for name, gradient in gradients(model).items():
        assert gradient is not None and gradient.isfinite().all(), name
        # The same added to all candidates, or to all keys, leaves a softmax as it is.
        if not name.endswith("key.bias") and name != "classifier.bias":
            assert gradient.abs().sum() > 0, name


def test_markers_of_the_right_candidates_are_learned(tiny_config):
    model = ErnieSparseForCandidateChoice(tiny_config(initializer_range=0.1, hidden_dropout_prob=0.0)).train()
    batch = make_candidates()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(30):
        loss = model(**batch, consistency_pattern=OTHER_PATTERN).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1
    assert model.eval()(**candidate_inputs(batch)).logits.argmax(-1).tolist() == batch["labels"].tolist()


def test_save_and_load_give_the_same_logits(build, tmp_path):
    model, inputs = build(block_shift=3), candidate_inputs(make_candidates())
    model.save_pretrained(tmp_path)
    loaded, info = ErnieSparseForCandidateChoice.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pattern", [None, OTHER_PATTERN, "block_size=8,block_shift=3"])
def test_eager_equals_sdpa(pattern, build):
    model, batch = build(), make_candidates()
    outputs = []
    for backend in ("eager", "sdpa"):
        model.set_attn_implementation(backend)
        outputs.append(model(**batch, pattern=pattern))
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, **CLOSE)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_no_nan(dtype, build):
    model, batch = build().to(dtype).train(), make_candidates()
    logits, results = results_of(model, batch)
    assert all(value.isfinite().all() for value in (logits, *results))
    assert (logits[batch["candidate_positions"] < 0] == torch.finfo(dtype).min).all()


@pytest.mark.parametrize("dropout", ["hidden_dropout_prob", "classifier_dropout"])
def test_dropout_acts_in_training_alone(dropout, build):
    model, inputs = build(**{dropout: 0.5}), candidate_inputs(make_candidates())
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


def test_what_is_missing_is_said(build):
    model, batch = build(), make_candidates()
    with pytest.raises(ValueError, match="candidate_positions is missing"):
        model(**make_encoder_inputs(batch))
    with pytest.raises(ValueError, match="consistency_pattern needs labels"):
        model(**candidate_inputs(batch), consistency_pattern=OTHER_PATTERN)
