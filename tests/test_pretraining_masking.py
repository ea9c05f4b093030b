# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Masked rows: a function of seed, epoch and row, never of the batch or of who reads it; evaluation masks fixed."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from ernie_sparse import ErnieSparseForMaskedLM, SaorArguments
from ernie_sparse.pretraining.masking import MaskAnew, Masking, MaskingCollator, mask_once
from ernie_sparse.pretraining.packing import Packer
from ernie_sparse.pretraining.tokenizer import train_tokenizer
from ernie_sparse.trainer import SaorTrainer

TEXTS = ["A harbour in the north. " * 7, "bees", "In the southern orchard, lemons! " * 11, "x" * 31]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300, max_length=32)


def packed(texts, tokenizer, packing="concatenate", with_words=False) -> Dataset:
    rows = Packer(tokenizer, 32, packing, with_words).rows(texts, random.Random(0))
    return Dataset.from_list([{**row, "row": number} for number, row in enumerate(rows)])


@pytest.fixture
def rows(tokenizer):
    return packed(TEXTS, tokenizer)


def test_masking_is_a_function_of_seed_epoch_and_row(tokenizer, rows):
    first, last = rows[0], rows[len(rows) - 1]
    collator = MaskingCollator(Masking(tokenizer, 0.5, seed=0))
    together, alone = collator([first, last]), collator([first])
    width = alone["labels"].shape[1]
    assert torch.equal(together["labels"][0, :width], alone["labels"][0])
    assert torch.equal(together["input_ids"][0, :width], alone["input_ids"][0])
    collator.epoch = 1
    assert not torch.equal(collator([first])["labels"], alone["labels"])
    other = MaskingCollator(Masking(tokenizer, 0.5, seed=1))
    assert not torch.equal(other([first])["labels"], alone["labels"])


def test_these_masks_are_kept_from_version_to_version(tokenizer):
    row = {"input_ids": [2, *range(100, 120), 3], "row": 2}
    masked = Masking(tokenizer, 0.5, seed=7)(row, epoch=2)
    assert masked["input_ids"] == [
        2,
        100,
        101,
        102,
        4,
        104,
        4,
        106,
        4,
        4,
        109,
        4,
        111,
        4,
        113,
        4,
        115,
        293,
        91,
        118,
        119,
        3,
    ]
    assert masked["labels"] == [
        -100,
        -100,
        -100,
        102,
        103,
        -100,
        105,
        -100,
        107,
        108,
        -100,
        110,
        -100,
        112,
        -100,
        114,
        -100,
        116,
        117,
        -100,
        -100,
        -100,
    ]


def test_of_the_predicted_tokens_eight_in_ten_are_hidden_and_one_is_another(tokenizer):
    row = {"input_ids": [100, tokenizer.sep_token_id] * 10000}
    shares = []
    for number in range(5):
        masked = Masking(tokenizer, 0.3)({**row, "row": number}, epoch=0)
        ids, labels = torch.tensor(masked["input_ids"]), torch.tensor(masked["labels"])
        is_predicted = labels != -100
        assert (
            not is_predicted[1::2].any()
            and (ids[::2][~is_predicted[::2]] == 100).all()
            and (labels[is_predicted] == 100).all()
        )
        ids = ids[is_predicted]
        is_hidden, is_same = ids == tokenizer.mask_token_id, ids == 100
        assert len(ids[~is_hidden & ~is_same].unique()) > 150
        shares.append([len(ids) / 10000, is_hidden.float().mean(), is_same.float().mean()])
    torch.testing.assert_close(torch.tensor(shares).mean(0), torch.tensor([0.3, 0.8, 0.1]), atol=0.01, rtol=0)


def test_special_tokens_and_padding_are_never_masked(tokenizer, rows):
    batch = MaskingCollator(Masking(tokenizer, 0.9, seed=0))([rows[0], rows[len(rows) - 1]])
    labelled = batch["labels"] != -100
    assert 0.5 < labelled.float().mean() < 1
    assert not (labelled & (batch["attention_mask"] == 0)).any()
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id])
    assert not torch.isin(batch["labels"], special).any()


def test_each_epoch_masks_anew_and_a_resumed_one_as_it_did(tokenizer, rows):
    collator = MaskingCollator(Masking(tokenizer, 0.5, seed=0))
    callback, labels = MaskAnew(collator), []
    for epoch in (0, 0.9999999999, 2.0):
        callback.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
        labels.append(collator([rows[0]])["labels"][0].tolist())
    expected = [Masking(tokenizer, 0.5)(rows[0], epoch)["labels"] for epoch in (0, 1, 2)]
    assert labels == expected and expected[0] != expected[1] != expected[2]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers, is_persistent", [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("stop", [None, 4])
def test_workers_mask_as_the_epoch_has_it(stop, num_workers, is_persistent, tokenizer, tiny_config, tmp_path):
    rows = packed(TEXTS * 2, tokenizer)
    collator, seen = MaskingCollator(Masking(tokenizer, 0.5, seed=0)), []

    def build() -> SaorTrainer:
        training = TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            num_train_epochs=3,
            per_device_train_batch_size=4,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            dataloader_num_workers=num_workers,
            dataloader_persistent_workers=is_persistent,
            save_steps=stop or 500,
            report_to="none",
            disable_tqdm=True,
        )
        model = ErnieSparseForMaskedLM(tiny_config(vocab_size=300))
        model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["labels"]), with_kwargs=True)
        saor = SaorArguments(saor_alpha=0.0)
        return SaorTrainer(
            model=model,
            args=training,
            saor=saor,
            train_dataset=rows,
            data_collator=collator,
            callbacks=[MaskAnew(collator)],
        )

    build().train()
    steps = -(-len(rows) // 4)
    assert steps > 2 and len(seen) == 3 * steps
    if stop:
        # Within the second epoch.
        assert steps < stop < 2 * steps
        del seen[stop:]
        build().train(str(tmp_path / f"checkpoint-{stop}"))
    expected = [Masking(tokenizer, 0.5)(row, epoch)["labels"] for epoch in range(3) for row in rows]
    batches = [label[label != -100].tolist() for batch in seen for label in batch]
    assert batches == [[label for label in labels if label != -100] for labels in expected]


def test_validation_rows_keep_one_masking(tokenizer, rows):
    masked = [mask_once(rows, Masking(tokenizer, 0.3, seed=seed)) for seed in (0, 0, 1)]
    assert masked[0]["input_ids"] == masked[1]["input_ids"] and masked[0]["labels"] == masked[1]["labels"]
    assert masked[0]["labels"] != masked[2]["labels"]
    batch = MaskingCollator(Masking(tokenizer, 0.3, seed=0))([masked[0][0], masked[0][len(rows) - 1]])
    assert batch["labels"][0].tolist() == masked[0]["labels"][0]
    original = torch.tensor(rows[0]["input_ids"])
    labels = batch["labels"][0]
    assert torch.equal(torch.where(labels == -100, original, labels), original)
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_masked_whole_in_the_share_that_is_asked_for(unit, tokenizer):
    rows, found, runs = packed(TEXTS * 20, tokenizer, "documents", with_words=True), [], []
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id])
    for row in rows:
        is_predicted = torch.tensor(Masking(tokenizer, 0.3, unit)(row, epoch=0)["labels"]) != -100
        is_special = torch.isin(torch.tensor(row["input_ids"]), special)
        assert not is_predicted[is_special].any()
        words = torch.tensor(row["is_word_start"]).cumsum(0)
        by_word = [is_predicted[words == word] for word in words.unique()]
        assert all(word.all() or not word.any() for word in by_word)
        found.append([is_predicted.sum(), (~is_special).sum()])
        flags = [bool(word.any()) for word in by_word]
        runs += [len(list(group)) for flag, group in itertools.groupby(flags) if flag]
    predicted, total = torch.tensor(found).sum(0).tolist()
    assert 0.2 < predicted / total < 0.55
    # Of single words drawn at random, neighbours are drawn at times; spans are longer.
    assert (sum(runs) / len(runs) > 2) == (unit == "span")


def test_a_flat_batch_holds_the_documents_of_all_rows_one_after_the_other(tokenizer):
    rows = packed(TEXTS * 2, tokenizer, "documents")
    masking = Masking(tokenizer, 0.5)
    batch = MaskingCollator(masking, is_flat=True)([rows[0], rows[1]])
    masked = [masking(rows[number], 0) for number in (0, 1)]
    for name in ("input_ids", "labels"):
        assert batch[name].tolist() == [masked[0][name] + masked[1][name]]
    bounds = batch["cu_seq_lens_q"].tolist()
    assert bounds[0] == 0 and bounds[-1] == batch["input_ids"].shape[1]
    assert [end - first for first, end in itertools.pairwise(bounds)] == rows[0]["lengths"] + rows[1]["lengths"]
