# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Batches of symbols against a padding by hand, masks that hang on nothing but their row, and self-pretraining."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments, set_seed
from transformers.trainer_utils import EvalPrediction

from benchmarks.lra import training
from benchmarks.lra.models import MODELS, build_config, encoder_of
from benchmarks.lra.tasks import TASKS
from benchmarks.lra.training import (
    DocumentCollator,
    MaskedDocumentCollator,
    accuracy,
    self_pretrained,
    symbol_tokenizer,
    token_ids,
)
from ernie_sparse.results import Record
from ernie_sparse.run import Run
from ernie_sparse.trainer import SaorTrainer

# The documents here are short; those of the tasks go through the block form.
pytestmark = pytest.mark.usefixtures("block_form")

LISTOPS, TEXT, RETRIEVAL, IMAGE = (TASKS[name] for name in ("listops", "text", "retrieval", "image"))


def documents(number: int, length: int, num_symbols: int, seed: int = 0) -> list[bytes]:
    draw = np.random.default_rng(seed)
    return [draw.integers(num_symbols, size=length, dtype=np.uint8).tobytes() for _ in range(number)]


def test_symbols_follow_behind_padding_and_mask():
    assert token_ids(b"\x00\x05\xff").tolist() == [2, 7, 257]
    for task in TASKS.values():
        tokenizer = symbol_tokenizer(task)
        assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 1)
        assert len(tokenizer) == task.vocab_size == 2 + task.num_symbols
        assert tokenizer.convert_tokens_to_ids(str(task.num_symbols - 1)) == task.vocab_size - 1


@pytest.mark.parametrize(
    "lengths, min_length, expected",
    [
        ([5, 64], 1, 64),
        ([5, 65], 1, 128),
        ([5], 705, 768),
        ([800], 705, 832),
        ([1930], 1, 1984),
        # No more than the model has positions for.
        ([1990], 1, 2000),
        ([2000], 705, 2000),
    ],
)
def test_batches_are_filled_up_to_blocks_and_no_further_than_the_task_is_long(lengths, min_length, expected):
    rows = [{"documents": documents(1, length, 15, length), "labels": 9 - n} for n, length in enumerate(lengths)]
    batch = DocumentCollator(LISTOPS, min_length)(rows)
    assert batch["labels"].tolist() == [9 - n for n in range(len(lengths))]
    for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
        symbols = [code + 2 for code in row["documents"][0]]
        assert ids.tolist() == [symbols + [0] * (expected - len(symbols))]
        assert mask.tolist() == [[1] * len(symbols) + [0] * (expected - len(symbols))]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_two_documents_stay_side_by_side():
    rows = [{"documents": [b"ab", b"c" * 70], "labels": 1}, {"documents": [b"defg", b"h"], "labels": 0}]
    batch = DocumentCollator(RETRIEVAL)(rows)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 2, 128)
    for row, number in itertools.product(range(2), range(2)):
        symbols = [code + 2 for code in rows[row]["documents"][number]]
        assert batch["input_ids"][row, number].tolist() == symbols + [0] * (128 - len(symbols))
        assert batch["attention_mask"][row, number].sum() == len(symbols)


def masked(rows: list[dict], seed: int = 3, epoch: int = 0, task=LISTOPS, min_length: int = 1) -> dict:
    collator = MaskedDocumentCollator(task, min_length, seed)
    collator.masking.epoch = epoch
    return collator(rows)


def test_a_mask_is_a_function_of_seed_epoch_row_and_document_alone():
    first, second = documents(2, 90, 15)
    row, other = {"row": 4, "documents": [first, first]}, {"row": 5, "documents": [second, first]}
    alone, together = masked([row]), masked([{"row": 9, "documents": [first, second[:60]]}, other, row])
    for name in ("input_ids", "labels"):
        assert together[name].shape == (6, 128)
        assert torch.equal(together[name][4:], alone[name])
    assert torch.equal(masked([row], min_length=200)["labels"][:, :128], alone["labels"])
    # The same document, but each time another one of its row, row, epoch or seed.
    found = [alone["labels"][0], alone["labels"][1], together["labels"][3], together["labels"][0]]
    found += [masked([row], epoch=1)["labels"][0], masked([row], seed=4)["labels"][0]]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(found, 2))


@pytest.mark.parametrize("task", [LISTOPS, IMAGE], ids=["listops", "image"])
def test_masks_hide_the_share_that_the_task_says(task):
    lengths = [1000, 700, 333]
    texts = [documents(1, length, task.num_symbols)[0] for length in lengths * 6]
    batch = masked([{"row": n, "documents": [text]} for n, text in enumerate(texts)], task=task)
    original = DocumentCollator(task)([{"documents": [text], "labels": 0} for text in texts])["input_ids"][:, 0]
    ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"]
    assert mask.sum(-1).tolist() == lengths * 6 and set(batch) == {"input_ids", "attention_mask", "labels"}
    chosen = labels != -100
    assert torch.equal(labels[chosen], original[chosen]) and torch.equal(ids[~chosen], original[~chosen])
    assert not (chosen & (mask == 0)).any()
    number = chosen.sum().item()

    def is_about(count, total: int, share: float) -> bool:
        """Within five standard errors."""
        return abs(count / total - share) < 5 * (share * (1 - share) / total) ** 0.5

    assert is_about(number, sum(lengths) * 6, {LISTOPS: 0.15, IMAGE: 0.5}[task])
    # Four fifths are hidden, a tenth is another symbol, a tenth stays.
    assert is_about((ids[chosen] == 1).sum().item(), number, 0.8)
    is_other = (ids[chosen] != 1) & (ids[chosen] != original[chosen])
    assert is_about(is_other.sum().item(), number, 0.1 * (1 - 2 / task.vocab_size))
    if task is LISTOPS:
        # A symbol of 17 that padding replaced is read all the same.
        assert ((ids == 0) & chosen).sum() > 0 and (mask[(ids == 0) & chosen] == 1).all()


def test_accuracy_is_the_share_of_right_answers():
    logits = np.array([[0.1, 2.0, -1.0], [3.0, 0.0, 2.9], [-1.0, -3.0, -0.5], [0.0, 1.0, 0.5]])
    assert accuracy(EvalPrediction(logits, np.array([1, 2, 2, 1]))) == {"accuracy": 0.75}


# Self-pretraining.


@pytest.fixture
def trainers(monkeypatch) -> list[SaorTrainer]:
    """Those that self-pretraining made."""
    made = []

    class Spied(SaorTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(training, "SaorTrainer", Spied)
    return made


def train_set(number: int = 16, num_documents: int = 1) -> Dataset:
    """Documents of symbols in a row."""
    texts = [[bytes([(start + n) % 15 for n in range(40)])] * num_documents for start in range(number)]
    return Dataset.from_dict({"documents": texts, "labels": [0] * number, "length": [40 * num_documents] * number})


def pretrain(folder: Path, name: str = "hst", task=LISTOPS, rows: Dataset | None = None, **options):
    set_seed(0)
    options = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 5,
        **options,
    }
    config, arguments = build_config(name, task), TrainingArguments(**options)
    run = Run(Record("a run", []), arguments, {"name": name})
    return self_pretrained(config, task, MODELS[name], rows or train_set(), arguments, run)


def assert_same_weights(ours: torch.nn.Module, expected: torch.nn.Module):
    ours, expected = ours.state_dict(), expected.state_dict()
    assert ours.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(ours[name], weight), name


@pytest.mark.parametrize("name, alpha", [("hst", 1.0), ("dense", 0.0)])
def test_self_pretraining_leaves_its_facts_and_is_not_done_twice(name, alpha, tmp_path, trainers):
    model, facts = pretrain(tmp_path / "out", name, max_steps=5)
    (trainer,) = trainers
    assert facts == json.loads((tmp_path / "out" / "facts.json").read_text())
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert facts == {
        "steps": 5,
        "learning_rate": 5e-3,
        "mlm_probability": 0.15,
        "saor_alpha": alpha,
        "last_loss": logs[-1]["loss"],
        "environments": [{"step": 0, **Record("a run", []).environment()}],
    }
    assert len(logs) == 5 and all(("consistency_loss" in entry) == (alpha > 0) for entry in logs)
    assert trainer.saor.saor_seed == trainer.data_collator.masking.masking.seed == 5
    # Four steps are an epoch, and the second has masks of its own.
    assert trainer.data_collator.masking.epoch == 1
    assert_same_weights(model, trainer.model)
    again, same_facts = pretrain(tmp_path / "out", name, max_steps=5)
    assert len(trainers) == 1 and same_facts == facts
    assert_same_weights(again, model)


def test_the_seed_is_that_of_the_run(tmp_path):
    models = [pretrain(tmp_path / str(seed), "flat", max_steps=1, seed=seed)[0] for seed in (5, 6)]
    with pytest.raises(AssertionError):
        assert_same_weights(*models)


def test_self_pretraining_that_was_killed_goes_on_where_it_was(tmp_path, monkeypatch, trainers):
    whole, facts = pretrain(tmp_path / "whole", max_steps=6)
    step = SaorTrainer.training_step

    def killed(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SaorTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tmp_path / "killed", max_steps=6)
    assert not (tmp_path / "killed" / "facts.json").exists()
    shutil.rmtree(tmp_path / "killed" / "checkpoint-2")
    steps = []
    monkeypatch.setattr(
        SaorTrainer, "training_step", lambda self, *a, **k: steps.append(self.state.global_step) or step(self, *a, **k)
    )
    model, same_facts = pretrain(tmp_path / "killed", max_steps=6)
    assert steps == [4, 5] and same_facts == facts
    assert_same_weights(model, whole)


def test_self_pretraining_learns_what_neighbours_tell(tmp_path, trainers):
    texts = [[bytes([number % 3]) * 40] for number in range(24)]
    rows = Dataset.from_dict({"documents": texts, "labels": [0] * 24, "length": [40] * 24})
    options = {"max_steps": 30, "per_device_train_batch_size": 8, "save_steps": 100, "logging_steps": 5}
    _, facts = pretrain(tmp_path, "flat", LISTOPS, rows, **options, warmup_steps=5)
    losses = [entry["loss"] for entry in trainers[0].state.log_history if "loss" in entry]
    # To know the three symbols that there are, but not which is the document's, costs log 3, 1.1.
    assert losses[0] > 1.5 and facts["last_loss"] == losses[-1] < 0.7


@pytest.mark.parametrize("name", ["bigbird", "longformer"])
def test_the_encoders_of_transformers_are_pretrained_as_they_are(name, tmp_path, trainers):
    model, facts = pretrain(tmp_path, name, TEXT, max_steps=1, per_device_train_batch_size=1)
    assert facts["saor_alpha"] == 0 and model.config.model_type.replace("_", "") == name
    if name == "bigbird":
        assert trainers[0].model.bert.attention_type == "block_sparse"
    assert getattr(encoder_of(model), "pooler", None) is None


def test_both_documents_of_a_row_are_pretrained_on(tmp_path, monkeypatch):
    shapes = []
    step = SaorTrainer.training_step
    monkeypatch.setattr(
        SaorTrainer, "training_step", lambda self, m, i, *a: shapes.append(i["input_ids"].shape) or step(self, m, i, *a)
    )
    pretrain(tmp_path, "flat", RETRIEVAL, train_set(4, num_documents=2), max_steps=1)
    assert shapes == [(8, 64)]
