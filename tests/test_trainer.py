# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""SaorTrainer: the choice of the second pattern, the losses it logs, and the same training however a batch is split."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_training import (
    CHECKPOINTING,
    DISTRIBUTED_RUNS,
    HEADS,
    build_dataset,
    build_model,
    build_trainer,
    distributed_run,
    evaluation_loss,
    result_of,
)
from transformers import BertConfig, BertForSequenceClassification

import ernie_sparse
from ernie_sparse import SparsePattern
from ernie_sparse.block_plan import BlockPlan, plan_batch
from ernie_sparse.errors import InputError
from ernie_sparse.regularization import SaorArguments, second_pattern
from ernie_sparse.trainer import DivergedError, SaorTrainer


def train(head: str, output_dir, **options) -> dict:
    trainer = build_trainer(head, str(output_dir), **options)
    trainer.train()
    return result_of(trainer)


def assert_same_training(ours: dict, expected: dict, tolerance: float = 1e-5):
    assert len(ours["losses"]) == len(expected["losses"]) > 1
    for our_log, log in zip(ours["losses"], expected["losses"], strict=True):
        assert our_log == pytest.approx(log, rel=tolerance, abs=tolerance)
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(ours["weights"][name], weight, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("logging_steps", [1, 2])
@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_the_logged_loss_is_the_sum_of_its_logged_parts(alpha, logging_steps, tmp_path):
    result = train(
        "masked_lm",
        tmp_path,
        alpha=alpha,
        batch_size=2,
        accumulation=2,
        logging_steps=logging_steps,
        num_train_epochs=2,
    )
    assert len(result["losses"]) == 6 // logging_steps
    for log in result["losses"]:
        assert log["consistency_loss"] > 1e-4
        assert log["loss"] == pytest.approx(log["task_loss"] + alpha * log["consistency_loss"], rel=1e-4)


@pytest.fixture
def in_own_folder(tmp_path, monkeypatch):
    """A Trainer without arguments makes a folder where it is."""
    monkeypatch.chdir(tmp_path)


def test_logging_less_often_logs_the_means(tmp_path):
    every_step, every_third = (
        train("masked_lm", tmp_path, batch_size=2, accumulation=2, logging_steps=n)["losses"] for n in (1, 3)
    )
    assert len(every_step) == 3 and len(every_third) == 1
    for part, value in every_third[0].items():
        assert value == pytest.approx(np.mean([log[part] for log in every_step]), rel=1e-4)


@pytest.mark.parametrize("alpha, num_passes", [(0.0, 1), (1.0, 2)])
def test_the_number_of_passes_per_step(alpha, num_passes, tmp_path):
    trainer = build_trainer("masked_lm", str(tmp_path), alpha=alpha)
    passes = []
    trainer.model.ernie_sparse.register_forward_hook(lambda *args: passes.append(None))
    trainer.train()
    assert trainer.state.global_step == 2 and len(passes) == 2 * num_passes
    has_parts = ["consistency_loss" in log and "task_loss" in log for log in trainer.state.log_history if "loss" in log]
    assert has_parts == [alpha > 0] * 2


def calls_of(trainer: SaorTrainer) -> list[dict]:
    """Records what the model is called with."""
    calls = []
    trainer.model.register_forward_pre_hook(lambda module, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True)
    return calls


def regularization_of(call: dict) -> dict:
    """What of a call is the regularisation's, comparable."""
    names = ("pattern", "consistency_pattern", "alignment_pattern", "consistency_alpha", "consistency_rows")
    rows = call.get("consistency_rows")
    return {name: call.get(name) for name in names} | {"consistency_rows": None if rows is None else rows.tolist()}


def test_the_second_pattern_follows_the_step_and_holds_for_its_micro_batches(tmp_path):
    trainer = build_trainer("masked_lm", str(tmp_path), batch_size=2, accumulation=2, num_train_epochs=2, saor_seed=5)
    calls = calls_of(trainer)
    own = trainer.model.config.pattern
    trainer.train()
    expected = [second_pattern(own, trainer.saor, step) for step in range(6) for _ in range(2)]
    assert [call["consistency_pattern"] for call in calls] == expected
    assert {call["consistency_alpha"] for call in calls} == {2.0}
    assert len(set(expected)) > 3
    assert trainer.model.config.pattern == own


@pytest.mark.parametrize("head", ["single_label", "multi_label", "regression", "masked_lm", "token_classification"])
def test_evaluation_is_one_pass_under_the_models_own_pattern(head, tmp_path):
    dataset = build_dataset(head, size=5)
    trainer = build_trainer(head, str(tmp_path), eval_dataset=dataset, per_device_eval_batch_size=5)
    calls = calls_of(trainer)
    metrics = trainer.evaluate()
    predicted = trainer.predict(dataset)
    assert len(calls) == 2
    assert not any("consistency_pattern" in call or "pattern" in call for call in calls)
    batch = trainer.data_collator(dataset)
    with torch.no_grad():
        output = trainer.model.eval()(**batch)
    assert isinstance(predicted.predictions, np.ndarray)
    np.testing.assert_allclose(predicted.predictions, output.logits.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(predicted.label_ids, batch["labels"].numpy())
    assert metrics["eval_loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert predicted.metrics["test_loss"] == pytest.approx(output.loss.item(), rel=1e-5)


def test_predictions_are_logits_whatever_else_the_model_returns(tmp_path):
    dataset = build_dataset("single_label", size=5)
    trainer = build_trainer("single_label", str(tmp_path), model_config={"output_hidden_states": True})
    predicted = trainer.predict(dataset).predictions
    assert isinstance(predicted, np.ndarray) and predicted.shape == (5, 3)
    batch = {**trainer.data_collator(dataset), "consistency_pattern": "block_size=2"}
    _, logits, _ = trainer.prediction_step(trainer.model, batch, prediction_loss_only=False)
    np.testing.assert_allclose(logits.numpy(), predicted, rtol=1e-5, atol=1e-5)


def test_question_answering_predicts_starts_and_ends(tmp_path):
    dataset = build_dataset("question_answering", size=5)
    trainer = build_trainer("question_answering", str(tmp_path), eval_dataset=dataset, per_device_eval_batch_size=5)
    predicted = trainer.predict(dataset)
    with torch.no_grad():
        output = trainer.model.eval()(**trainer.data_collator(dataset))
    starts, ends = predicted.predictions
    np.testing.assert_allclose(starts, output.start_logits.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ends, output.end_logits.numpy(), rtol=1e-5, atol=1e-5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(output.loss.item(), rel=1e-5)


def test_an_evaluation_smooths_no_labels(tmp_path):
    rows = build_dataset("masked_lm", size=5)
    plain, smooth = (
        build_trainer("masked_lm", str(tmp_path), alpha=0.0, label_smoothing_factor=factor).evaluate(rows)["eval_loss"]
        for factor in (0.0, 0.3)
    )
    assert plain == smooth


@pytest.mark.parametrize("head", HEADS)
def test_an_evaluation_loss_is_the_mean_over_predictions_whatever_the_batch(head, tmp_path):
    rows = build_dataset(head, size=11)
    trainer = build_trainer(head, str(tmp_path))
    with torch.no_grad():
        expected = trainer.model.eval()(**trainer.data_collator(rows)).loss.item()
    for size in (1, 2, 3, 8, 11):
        assert evaluation_loss(head, size, str(tmp_path)) == pytest.approx(expected, rel=1e-6)


def test_evaluating_while_training_leaves_the_log_of_the_parts_alone(tmp_path):
    options = {"batch_size": 4, "num_train_epochs": 1}
    plain = train("single_label", tmp_path, **options)
    evaluated = train(
        "single_label",
        tmp_path,
        eval_dataset=build_dataset("single_label", size=12),
        eval_strategy="steps",
        eval_steps=1,
        **options,
    )
    assert_same_training(evaluated, plain)


def test_losses_outside_the_model_are_refused_unless_saor_is_off(in_own_folder, tmp_path):
    with pytest.raises(InputError, match=r"label-smoothing-factor 0.1: SAOR .* needs --saor-alpha 0"):
        build_trainer("single_label", str(tmp_path), label_smoothing_factor=0.1)
    losses = {
        factor: train("single_label", tmp_path, label_smoothing_factor=factor, alpha=0.0)["losses"]
        for factor in (0.0, 0.1)
    }
    assert len(losses[0.1]) == 2 and losses[0.1] != losses[0.0]

    def loss_of(outputs, labels, num_items_in_batch=None):
        return outputs.logits.square().sum() / num_items_in_batch

    model = build_model("single_label")
    with pytest.raises(ValueError, match="compute_loss_func"):
        SaorTrainer(model=model, compute_loss_func=loss_of)
    SaorTrainer(model=model, compute_loss_func=loss_of, saor=SaorArguments(saor_alpha=0.0))


def test_models_without_patterns_are_trained_plainly_or_refused(in_own_folder):
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ValueError, match=r"a bert model has no sparse pattern.*saor_alpha=0"):
        SaorTrainer(model=BertForSequenceClassification(config))
    trainer = SaorTrainer(model=BertForSequenceClassification(config), saor=SaorArguments(saor_alpha=0.0))
    batch = {"input_ids": torch.randint(20, (2, 6)), "labels": torch.tensor([0, 1])}
    assert trainer.compute_loss(trainer.model.train(), batch).requires_grad


def test_numbers_of_minus_100_are_trained_on_and_missing_ones_are_not(tmp_path):
    trainer = build_trainer("regression", str(tmp_path), batch_size=64, alpha=0.0)
    rows = build_dataset("regression", size=70)
    for i, row in enumerate(rows):
        row["labels"] = -100.0 if i < 60 else float("nan") if i < 66 else 1.0 + i
    (batch,), num_items = trainer.get_batch_samples(iter([trainer.data_collator(rows)]), 1, torch.device("cpu"))
    assert num_items == 64
    loss = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=num_items)
    with torch.no_grad():
        numbers = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    is_labelled = ~batch["labels"].isnan()
    torch.testing.assert_close(loss, (numbers - batch["labels"])[is_labelled].square().mean())
    assert loss > 9000


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "batch_rebalance"])
def test_batches_come_in_the_order_of_the_data_seed(strategy, tmp_path):
    orders = {}
    for seed, data_seed in ((0, None), (1, None), (1, 0), (0, 5)):
        options = {"train_sampling_strategy": strategy, "seed": seed, "data_seed": data_seed}
        trainer = build_trainer("single_label", str(tmp_path), num_train_epochs=2, **options)
        seen, collate = [], trainer.data_collator
        trainer.data_collator = lambda rows, seen=seen, collate=collate: (
            seen.extend(tuple(map(int, row["input_ids"])) for row in rows) or collate(rows)
        )
        trainer.train()
        orders[seed, data_seed] = seen
    epochs = orders[0, None][: len(seen) // 2], orders[0, None][len(seen) // 2 :]
    assert set(epochs[0]) == set(epochs[1]) and epochs[0] != epochs[1]
    assert orders[1, 0] == orders[0, None] and orders[1, None] != orders[0, None] != orders[0, 5]


def test_saor_is_on_with_its_defaults_unless_told_otherwise(in_own_folder):
    trainer = SaorTrainer(model=build_model("single_label"))
    assert trainer.saor == SaorArguments(1.0, ["shift", "block_size", "window", "random"], 0)


SOME_HEADS = ("masked_lm", "single_label", "question_answering")


@pytest.mark.parametrize(
    "head, options",
    [
        *(pytest.param(head, {}, marks=[pytest.mark.slow] * (head not in SOME_HEADS)) for head in HEADS),
        ("masked_lm", {CHECKPOINTING: True}),
        ("masked_lm", {"alpha": 0.0}),
        ("masked_lm", {"saor": {"saor_every": 2, "saor_alpha_warmup": 1.0, "saor_temperature": 2.0}}),
        *(
            pytest.param(
                head, {"saor": {"regularization": "alignment"}}, marks=[pytest.mark.slow] * (head not in SOME_HEADS)
            )
            for head in ("masked_lm", "regression", "question_answering")
        ),
    ],
)
def test_accumulated_micro_batches_train_as_one_batch(head, options, tmp_path):
    # Twelve examples: the second and last step has only half of its examples.
    whole, split, single = (train(head, tmp_path, batch_size=8 // n, accumulation=n, **options) for n in (1, 2, 8))
    assert_same_training(split, whole)
    assert_same_training(single, whole)


@pytest.mark.parametrize(
    "head, more",
    [
        ("masked_lm", {}),
        pytest.param("question_answering", {}, marks=pytest.mark.slow),
        pytest.param("single_label", {"num_train_epochs": 2}, marks=pytest.mark.slow),
        ("single_label", {"num_train_epochs": 2, "train_sampling_strategy": "group_by_length"}),
        ("single_label", {"num_train_epochs": 2, "train_sampling_strategy": "batch_rebalance"}),
        ("masked_lm", {"saor": {"saor_every": 3, "saor_share": 0.5, "saor_alpha_warmup": 1.0, "saor_perturb": "both"}}),
        ("single_label", {"saor": {"regularization": "alignment", "saor_every": 3}}),
    ],
)
def test_a_resumed_run_repeats_the_uninterrupted_one(head, more, tmp_path):
    options = {
        **more,
        "batch_size": 3,
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "model_config": {"hidden_dropout_prob": 0.2},
        "save_strategy": "steps",
        "save_steps": 2,
    }
    trainer = build_trainer(head, str(tmp_path), **options)
    calls = calls_of(trainer)
    trainer.train()
    whole = result_of(trainer)
    # In the middle of the last epoch.
    done = 4 * more.get("num_train_epochs", 1) - 2
    assert trainer.state.global_step == done + 2

    resumed_trainer = build_trainer(head, str(tmp_path), **options)
    resumed_calls = calls_of(resumed_trainer)
    resumed_trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{done}"))
    resumed = result_of(resumed_trainer)
    given, given_again = ([regularization_of(call) for call in each] for each in (calls, resumed_calls))
    assert given_again == given[done:]
    assert len({str(each) for each in given}) > 1
    assert resumed["losses"] == whole["losses"]
    for name, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][name], weight), name


@pytest.mark.parametrize("head", ["regression", "masked_lm"])
@pytest.mark.parametrize("factor, saor_alpha", [(0.1, 0.0), (0.1, 1.0)])
def test_labels_are_smoothed_for_classes_alone(head, factor, saor_alpha, tmp_path):
    if head == "masked_lm" and not saor_alpha:
        build_trainer(head, str(tmp_path), alpha=saor_alpha, label_smoothing_factor=factor)
    else:
        with pytest.raises(InputError, match=r"--label-smoothing-factor 0\.1: "):
            build_trainer(head, str(tmp_path), alpha=saor_alpha, label_smoothing_factor=factor)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    "what, message",
    [
        ("loss", "the loss of update 3 is not finite"),
        ("gradient", "the gradient of update 3 is not finite"),
        ("weights", "weights are not finite after update 3"),
    ],
)
def test_a_training_stops_where_it_diverges_and_keeps_the_last_good_checkpoint(what, message, accumulation, tmp_path):
    save = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "num_train_epochs": 2}
    save |= {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": build_dataset("single_label", 2)}
    trainer = build_trainer(
        "single_label", str(tmp_path), batch_size=4 // accumulation, accumulation=accumulation, **save
    )
    weight = trainer.model.classifier.weight

    def infinite(*values):
        return values[-1] * math.inf if trainer.state.global_step == 2 else values[-1]

    if what == "loss":
        trainer.model.register_forward_hook(lambda *args: {**args[-1], "loss": infinite(args[-1].loss)})
    elif what == "gradient":
        weight.register_hook(infinite)
    else:
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters())
        trainer.optimizer.register_step_post_hook(lambda *args: weight.data.copy_(infinite(weight.data)))
    with pytest.raises(DivergedError, match=f"{message}; the last good checkpoint is .*checkpoint-2; .*than 0.05"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert sum("eval_loss" in entry for entry in trainer.state.log_history) == 2
    if what == "weights":
        with pytest.raises(DivergedError, match=message):
            trainer.save_model()
    saved = type(trainer.model).from_pretrained(tmp_path / "checkpoint-2")
    assert all(value.isfinite().all() for value in saved.state_dict().values())
    if what != "weights":
        torch.testing.assert_close(dict(saved.named_parameters())["classifier.weight"], weight)


def test_a_training_that_diverges_at_once_says_that_nothing_was_saved(tmp_path):
    trainer = build_trainer("single_label", str(tmp_path), learning_rate=1e38, num_train_epochs=2)
    with pytest.raises(InputError, match=r"nothing had been saved before; .* than 1e\+38"):
        trainer.train()


def test_updates_that_fp16_leaves_out_by_design_do_not_stop_a_training(tmp_path):
    trainer = build_trainer("single_label", str(tmp_path))
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    weight = trainer.model.classifier.weight
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = weight.detach().clone()
    trainer.train()
    assert trainer.state.global_step == 2 and torch.equal(weight, before)


@pytest.mark.parametrize("is_restored", [pytest.param(True, marks=pytest.mark.slow), False])
def test_train_loss_is_of_the_whole_run(is_restored, tmp_path):
    options = {
        "batch_size": 2,
        "num_train_epochs": 2,
        "logging_steps": 5,
        "save_strategy": "steps",
        "save_steps": 4,
        "restore_callback_states_from_checkpoint": is_restored,
    }
    trainer = build_trainer("masked_lm", str(tmp_path), **options)
    whole = trainer.train()
    resumed = build_trainer("masked_lm", str(tmp_path), **options).train(str(tmp_path / "checkpoint-4"))
    assert resumed.training_loss == resumed.metrics["train_loss"] == pytest.approx(whole.training_loss, rel=1e-6)
    assert trainer.state.log_history[-1]["train_loss"] == whole.training_loss
    losses = train("masked_lm", tmp_path, **{**options, "logging_steps": 1})["losses"]
    assert whole.training_loss == pytest.approx(np.mean([log["loss"] for log in losses]), rel=1e-6)
    assert trainer.train().training_loss < whole.training_loss


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """One launch for all runs: most of its time is the start of the two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("distributed_training.py")
    package_root = str(Path(ernie_sparse.__file__).parents[1])
    path = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    launch = subprocess.run(
        [*torchrun, "--nproc_per_node=2", f"--master_port={port}", str(script), str(tmp_path / "results.pt"), "4"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launch.returncode == 0, launch.stderr[-4000:]
    saved = torch.load(tmp_path / "results.pt")
    assert saved["num_processes"] == 2
    for name, run in DISTRIBUTED_RUNS.items():
        expected = distributed_run(run, batch_size=8, output_dir=str(tmp_path))
        assert_same_training(saved["results"][name], expected)
        parts = [log.get("consistency_loss", log.get("alignment_loss", 0.0)) for log in expected["losses"]]
        assert parts[0] > 1e-4 and (parts[1] > 1e-4) == ("every" not in name), name
    for head, losses in saved["losses"].items():
        assert losses == pytest.approx([evaluation_loss(head, 11, str(tmp_path))] * 3, rel=1e-6), head
    epochs = [[row for process in saved["rows"] for row in process[start : start + 16]] for start in (0, 16, 32)]
    assert all(sorted(rows) == list(range(32)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(
    "head, saor",
    [
        *((head, {}) for head in HEADS),
        ("masked_lm", {"regularization": "alignment"}),
        *((head, {"saor_share": 0.5}) for head in ("masked_lm", "question_answering")),
    ],
)
def test_a_compiled_model_is_given_its_patterns_as_plans(head, saor, tmp_path):
    given = []
    results = []
    for is_compiled in (False, True):
        trainer = build_trainer(head, str(tmp_path / str(is_compiled)), saor=saor)
        trainer.args.torch_compile = is_compiled
        trainer.current_gradient_accumulation_steps = 1
        model = trainer.model.train()
        model.register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        torch.manual_seed(0)
        results.append(trainer.compute_loss(model, batch).detach())
    torch.testing.assert_close(*results)
    second = "alignment_pattern" if saor.get("regularization") == "alignment" else "consistency_pattern"
    for name in ("pattern", second):
        value, plan = (kwargs[name] for kwargs in given)
        assert isinstance(value, SparsePattern) and isinstance(plan, BlockPlan)
        mask = given[1]["attention_mask"]
        if name == second and "consistency_rows" in given[1]:
            mask = mask[given[1]["consistency_rows"]]
        expected = plan_batch(value, 1, mask.shape, torch.device("cpu"), mask, is_static=True)
        assert torch.equal(plan.block_bounds, expected.block_bounds) and torch.equal(plan.is_real, expected.is_real)
    assert ("consistency_rows" in given[1]) == ("saor_share" in saor)
