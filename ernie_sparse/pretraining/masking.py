# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Masked rows for masked-LM training: the same masks whatever the batch size, the number of processes, or a break."""

import random
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase, TrainerCallback

MASKINGS = ("token", "word", "span")
# SpanBERT's: lengths in words fall geometrically with 0.2, and none is above 10.
SPAN_STOPS, LONGEST_SPAN = 0.2, 10


@dataclass(frozen=True)
class Masking:
    """
    Which tokens are predicted, as a function of `(seed, epoch, row)`. Special tokens never are.

    Args:
        tokenizer (`PreTrainedTokenizerBase`)
        probability (`float`): The share of tokens to predict.
        unit (`str`):
            What is predicted together: each `token` for itself; each `word`, with all of its tokens; or a `span` of words, of 3.8
            on average (SpanBERT's, arXiv 1907.10529), until the share is reached.
        seed (`int`)
    """

    tokenizer: PreTrainedTokenizerBase
    probability: float = 0.15
    unit: str = "token"
    seed: int = 0

    @property
    def needs_words(self) -> bool:
        return self.unit != "token"

    def __call__(self, row: dict, epoch: int) -> dict[str, list[int]]:
        """`input_ids` and `labels` of one row: of the tokens to predict 80 % become the mask token, 10 % any token, and 10 % stay (BERT's)."""
        generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{epoch}/{row['row']}").getrandbits(63))
        ids = torch.as_tensor(row["input_ids"], dtype=torch.int64)
        frame = [self.tokenizer.cls_token_id, self.tokenizer.sep_token_id]
        is_special = torch.isin(ids, torch.tensor([token for token in frame if token is not None], dtype=torch.int64))
        if self.needs_words:
            is_predicted = self._of_words(torch.as_tensor(row["is_word_start"]) | is_special, is_special, generator)
        else:
            is_predicted = _draw(self.probability, is_special, generator)
        is_hidden, is_replaced = _draw(0.8, is_special, generator), _draw(0.5, is_special, generator)
        others = torch.randint(len(self.tokenizer), ids.shape, generator=generator)
        shown = torch.where(is_hidden, self.tokenizer.mask_token_id, torch.where(is_replaced, others, ids))
        return {
            "input_ids": torch.where(is_predicted, shown, ids).tolist(),
            "labels": torch.where(is_predicted, ids, -100).tolist(),
        }

    def _of_words(self, starts: torch.Tensor, is_special: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        words = starts.cumsum(0) - 1
        is_frame = is_special[starts]
        if self.unit == "word":
            return _draw(self.probability, is_frame, generator)[words]
        chosen, sizes = torch.zeros_like(is_frame), words.bincount()
        wanted = self.probability * (~is_special).sum()
        for first in torch.randperm(len(chosen), generator=generator).tolist():
            if sizes[chosen].sum() >= wanted:
                break
            length = 1
            while length < LONGEST_SPAN and torch.rand((), generator=generator) >= SPAN_STOPS:
                length += 1
            # Not across the frame of a document.
            span = slice(first, first + length)
            chosen[span] |= is_frame[span].cumsum(0) == 0
        return chosen[words]


def _draw(probability: float, is_special: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    shares = torch.full(is_special.shape, probability).masked_fill(is_special, 0)
    return torch.bernoulli(shares, generator=generator).bool()


class MaskingCollator:
    """
    Batches of packed rows, each masked as the epoch has it: a resumed run, other batch sizes, workers and numbers of processes mask
    alike. Rows that carry labels (see [`mask_once`]) are masked already.

    Args:
        masking ([`Masking`])
        is_flat (`bool`): Whether all documents of all rows stand one after the other in one row, with `cu_seq_lens_q`; else rows
            are padded. Of rows that are masked already there are `row_lengths` as well.
    """

    def __init__(self, masking: Masking, is_flat: bool = False):
        self.masking, self.is_flat = masking, is_flat
        self.padding = DataCollatorForTokenClassification(masking.tokenizer)
        # Workers that are kept from epoch to epoch have a copy of all else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return self._epoch.item()

    @epoch.setter
    def epoch(self, epoch: int):
        self._epoch.fill_(epoch)

    def __call__(self, rows: list[dict]) -> dict:
        masked = [row if "labels" in row else self.masking(row, self.epoch) for row in rows]
        if not self.is_flat:
            return self.padding([{name: row[name] for name in ("input_ids", "labels")} for row in masked])
        lengths = torch.tensor([length for row in rows for length in row["lengths"]], dtype=torch.int32)
        batch = {
            name: torch.tensor([token for row in masked for token in row[name]])[None]
            for name in ("input_ids", "labels")
        }
        batch["cu_seq_lens_q"] = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        if "labels" in rows[0]:
            # An evaluation has to know rows that are others' once more.
            batch["row_lengths"] = torch.tensor([len(row["input_ids"]) for row in rows])
        return batch


class MaskAnew(TrainerCallback):
    """Tells a [`MaskingCollator`] the epoch, of which no row has been asked for yet: batches are read ahead within one."""

    def __init__(self, collator: MaskingCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        # What Trainer counts is a float.
        self.collator.epoch = int(state.epoch + 1e-9)


def mask_once(rows: Dataset, masking: Masking) -> Dataset:
    """The rows with one fixed masking, so that every evaluation asks the same questions."""
    return rows.map(
        masking,
        fn_kwargs={"epoch": 0},
        remove_columns=[name for name in ("row", "is_word_start") if name in rows.column_names],
        desc="Masking the validation rows",
    )
