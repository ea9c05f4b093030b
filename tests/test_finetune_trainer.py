# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Features to padded batches, and what the trainer does with class weights, order and wide outputs."""

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from ernie_sparse import (
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    SaorArguments,
)
from ernie_sparse.errors import InputError
from ernie_sparse.finetune.answer_spans import reduce
from ernie_sparse.finetune.settings import Settings
from ernie_sparse.finetune.trainer import FeatureCollator, FinetuneTrainer
from ernie_sparse.trainer import SaorTrainer

datasets.disable_progress_bars()

PAD = 9


def make_settings(task_type="single_label", block_size=16, **more) -> Settings:
    return Settings(task_type=task_type, max_length=64, block_size=block_size, num_global_tokens=16, columns={}, **more)


def row(length: int, **more) -> dict:
    return {
        "input_ids": list(range(1, length + 1)),
        "attention_mask": [1] * length,
        "document": 0,
        "length": length,
        **more,
    }


def collate(features: list[dict], limit=64, **settings) -> dict[str, torch.Tensor]:
    return FeatureCollator(PAD, make_settings(**settings), limit)(features)


@pytest.mark.parametrize(
    "longest, block_size, limit, length",
    [
        (3, 16, 64, 8),
        (8, 16, 64, 8),
        (9, 16, 64, 16),
        (16, 16, 64, 16),
        (17, 16, 64, 32),
        (33, 16, 64, 48),
        # Never beyond the positions that the model has, and never less than a row.
        (33, 16, 40, 40),
        (41, 16, 40, 41),
        # Blocks of less than eight tokens.
        (3, 4, 64, 4),
        (5, 4, 64, 8),
        (9, 4, 64, 12),
    ],
)
def test_a_batch_is_padded_to_blocks_and_below_one_to_eights(longest, block_size, limit, length):
    batch = collate([row(2), row(longest)], limit=limit, block_size=block_size)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, length)
    assert batch["input_ids"][0].tolist() == [1, 2] + [PAD] * (length - 2)
    assert batch["attention_mask"].sum(1).tolist() == [2, longest]


def test_only_what_the_model_reads_is_in_a_batch():
    batch = collate([row(2, labels=1, document_length=7, offset_starts=[0, 1], word_ids=[0, 1])])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["labels"].tolist() == [1] and batch["labels"].dtype == torch.int64


def test_every_key_has_its_own_padding():
    rows = [
        row(2, token_type_ids=[1, 1], is_context=[1, 1], start_positions=[0], end_positions=[1]),
        row(3, token_type_ids=[0, 1, 1], is_context=[0, 1, 1], start_positions=[0, 1], end_positions=[1, 2]),
    ]
    batch = collate(rows, task_type="question_answering")
    assert batch["token_type_ids"].tolist() == [[1, 1] + [0] * 6, [0, 1, 1] + [0] * 5]
    assert batch["is_context"].tolist() == [[1, 1] + [0] * 6, [0, 1, 1] + [0] * 5]
    # A place 0 would be an answer; -1 is none.
    assert batch["start_positions"].tolist() == [[0, -1], [0, 1]]
    assert batch["end_positions"].tolist() == [[1, -1], [1, 2]]
    batch = collate([row(5, candidate_positions=[1, 3], labels=0), row(5, candidate_positions=[2], labels=-100)])
    assert batch["candidate_positions"].tolist() == [[1, 3], [2, -1]] and batch["labels"].tolist() == [0, -100]


def test_labels_are_per_token_per_text_or_a_float_per_class():
    batch = collate([row(2, labels=[1, -100]), row(3, labels=[0, 1, 2])], task_type="token_classification")
    assert batch["labels"].tolist() == [[1] + [-100] * 7, [0, 1, 2] + [-100] * 5]
    batch = collate([row(2, labels=[1.0, 0.0, 1.0]), row(3, labels=[0.0, 0.0, 0.0])], task_type="multi_label")
    assert batch["labels"].tolist() == [[1, 0, 1], [0, 0, 0]] and batch["labels"].dtype == torch.float32
    batch = collate([row(2, labels=0.5), row(3, labels=2.0)], task_type="regression")
    assert batch["labels"].tolist() == [0.5, 2.0] and batch["labels"].dtype == torch.float32


def make_trainer(
    model, tmp_path, settings, rows=None, saor_alpha=1.0, label_names=("labels",), label_smoothing_factor=0.0, **more
):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        label_names=list(label_names),
        label_smoothing_factor=label_smoothing_factor,
        max_steps=2,
    )
    collator = FeatureCollator(PAD, settings, 64)
    saor = SaorArguments(saor_alpha=saor_alpha)
    data = {"train_dataset": rows, "eval_dataset": rows}
    return FinetuneTrainer(
        model=model, args=arguments, saor=saor, settings=settings, data_collator=collator, **data, **more
    )


def seen_by(model, monkeypatch) -> list[dict]:
    """The keyword arguments of every forward from now on, with whether the model was training."""
    seen, forward = [], model.forward

    def spy(*args, **kwargs):
        seen.append({**kwargs, "training": model.training})
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", spy)
    return seen


@pytest.mark.parametrize("saor_alpha", [0.0, 1.0])
def test_class_weights_weigh_the_training_and_not_the_evaluation(tiny_config, tmp_path, monkeypatch, saor_alpha):
    model = ErnieSparseForSequenceClassification(tiny_config(num_labels=2, block_size=16))
    rows = Dataset.from_list([row(5, labels=0), row(7, labels=1), row(6, labels=1)])
    weights = torch.tensor([0.5, 4.0])
    trainer = make_trainer(model, tmp_path, make_settings(), rows, saor_alpha, class_weights=weights)
    plain = make_trainer(model, tmp_path, make_settings(), rows, saor_alpha)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])
    seen = seen_by(model, monkeypatch)
    trainer.train()
    trainer.evaluate()
    assert {call["training"] for call in seen} == {True, False}
    for call in seen:
        assert ("class_weights" in call) == call["training"]
        if call["training"]:
            torch.testing.assert_close(call["class_weights"], weights)
            assert ("consistency_pattern" in call) == (saor_alpha > 0)


def test_every_gpu_of_a_process_gets_all_class_weights(tiny_config, tmp_path, monkeypatch):
    model = ErnieSparseForSequenceClassification(tiny_config(num_labels=2, block_size=16)).train()
    weights = torch.tensor([0.5, 4.0])
    trainer = make_trainer(model, tmp_path, make_settings(), [row(5, labels=0)], class_weights=weights)
    trainer.args._n_gpu = 3
    given = []
    monkeypatch.setattr(SaorTrainer, "compute_loss", lambda self, model, inputs, *others: given.append(inputs))
    trainer.compute_loss(model, {})
    # As DataParallel shares out every tensor.
    for part in given[0]["class_weights"].chunk(3):
        torch.testing.assert_close(part, weights)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_class_weights_are_finite_and_not_negative(tiny_config, tmp_path, weight):
    model = ErnieSparseForSequenceClassification(tiny_config(num_labels=2))
    with pytest.raises(InputError, match=r"class weights .* finite number of at least 0"):
        make_trainer(model, tmp_path, make_settings(), class_weights=torch.tensor([1.0, weight]))


def test_class_weights_go_with_no_smoothed_labels(tiny_config, tmp_path):
    model = ErnieSparseForSequenceClassification(tiny_config(num_labels=2))
    more = {"saor_alpha": 0.0, "label_smoothing_factor": 0.1}
    make_trainer(model, tmp_path, make_settings(), **more)
    with pytest.raises(InputError, match="smoothed labels know no class weights"):
        make_trainer(model, tmp_path, make_settings(), class_weights=torch.ones(2), **more)


def test_evaluation_keeps_the_order_of_its_rows_where_training_groups_by_length(tiny_config, tmp_path):
    model = ErnieSparseForSequenceClassification(tiny_config(num_labels=2, block_size=16)).eval()
    rows = Dataset.from_list([row(n, labels=0) for n in (3, 40, 5, 33, 8, 20, 4)])
    trainer = make_trainer(model, tmp_path, make_settings(), rows)
    expected = []
    for feature in rows:
        batch = FeatureCollator(PAD, make_settings(), 64)([feature])
        with torch.no_grad():
            expected.append(model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0])
    for outputs in (
        trainer.predict(rows).predictions,
        trainer.evaluation_loop(trainer.get_eval_dataloader(), "").predictions,
    ):
        np.testing.assert_allclose(outputs, torch.stack(expected), atol=1e-5)
    assert isinstance(trainer.get_train_dataloader().batch_sampler.sampler, LengthGroupedSampler)


def test_classes_of_tokens_leave_the_device_and_not_their_logits(tiny_config, tmp_path):
    model = ErnieSparseForTokenClassification(tiny_config(num_labels=5, block_size=16)).eval()
    rows = Dataset.from_list([row(n, labels=[0] * n) for n in (20, 3, 4)])
    settings = make_settings("token_classification")
    classes, probabilities = make_trainer(model, tmp_path, settings, rows).predict(rows).predictions
    assert classes.shape == probabilities.shape == (3, 32) and classes.dtype.kind == "i"
    for best, shares, feature in zip(classes, probabilities, rows, strict=True):
        batch = FeatureCollator(PAD, settings, 64)([feature])
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0]
        length = feature["length"]
        assert best[:length].tolist() == logits.argmax(-1)[:length].tolist()
        np.testing.assert_allclose(shares[:length], logits.softmax(-1).max(-1).values[:length], atol=1e-6)


@pytest.mark.parametrize("is_labelled", [True, False])
def test_spans_are_found_in_the_context_and_the_model_never_sees_where_it_is(
    tiny_config, tmp_path, monkeypatch, is_labelled
):
    model = ErnieSparseForQuestionAnswering(tiny_config(block_size=16)).eval()
    labels = {"start_positions": [4], "end_positions": [5]} if is_labelled else {}
    rows = Dataset.from_list([row(n, is_context=[0] * 3 + [1] * (n - 4) + [0], **labels) for n in (20, 8, 6)])
    settings = make_settings("question_answering", num_best=3, max_answer_length=4)
    names = ("start_positions", "end_positions")
    trainer = make_trainer(model, tmp_path, settings, rows, label_names=names)
    seen = seen_by(model, monkeypatch)
    result = trainer.predict(rows)
    assert seen and all("is_context" not in call for call in seen)
    scores, starts, ends = result.predictions
    assert scores.shape == starts.shape == ends.shape == (3, 3)
    assert ("test_loss" in result.metrics) == is_labelled
    for i, feature in enumerate(rows):
        batch = FeatureCollator(PAD, settings, 64)([feature])
        with torch.no_grad():
            output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        expected = reduce((output.start_logits, output.end_logits), batch, settings)
        np.testing.assert_allclose(scores[i], expected[0][0], atol=1e-5)
        assert (starts[i].tolist(), ends[i].tolist()) == (expected[1][0].tolist(), expected[2][0].tolist())
        assert (starts[i] >= 3).all() and (ends[i] < feature["length"] - 1).all()


def test_the_trainer_writes_no_card_of_its_own(tiny_config, tmp_path):
    model = ErnieSparseForSequenceClassification(tiny_config(num_labels=2))
    make_trainer(model, tmp_path, make_settings()).create_model_card()
    assert not (tmp_path / "README.md").exists()
