# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What a model is given wrongly ends in one ValueError that names it, before anything is computed; what is right passes."""

import functools

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BatchEncoding

from ernie_sparse import (
    ErnieSparseConfig,
    ErnieSparseForCandidateChoice,
    ErnieSparseForMaskedLM,
    ErnieSparseForMultipleChoice,
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    ErnieSparseModel,
    SparsePattern,
)
from ernie_sparse.block_plan import plan_batch

MODELS = {
    "base": (ErnieSparseModel, {}),
    "embeddings": (ErnieSparseModel, {"embedding_size": 6}),
    "masked_lm": (ErnieSparseForMaskedLM, {}),
    "single_label": (ErnieSparseForSequenceClassification, {"num_labels": 3}),
    "multi_label": (
        ErnieSparseForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "regression": (ErnieSparseForSequenceClassification, {"num_labels": 1}),
    "tokens": (ErnieSparseForTokenClassification, {"num_labels": 3}),
    "answers": (ErnieSparseForQuestionAnswering, {}),
    "choices": (ErnieSparseForMultipleChoice, {}),
    "candidates": (ErnieSparseForCandidateChoice, {}),
}
IDS = torch.arange(24).view(2, 12) + 3
ONES = torch.ones_like(IDS)
PLACES = torch.arange(12)[None]
TWO = torch.tensor([1, 0])
CANDIDATES = torch.tensor([[1, 4, 6], [0, 3, -1]])
CHOICES = IDS[:, None].repeat(1, 3, 1)
PATTERN = SparsePattern(block_size=4)
# On the left in one row and on the right in the other; places 3 to 8 are real in both.
PADDED = torch.cat([PLACES > 2, PLACES < 9]).long()
PADDINGS = {"no_padding": None, "padding": PADDED}
every_padding = pytest.mark.parametrize("padding", PADDINGS)


@functools.cache
def build(name: str):
    model_class, settings = MODELS[name]
    sizes = {
        "vocab_size": 50,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 32,
        "block_size": 4,
    }
    torch.manual_seed(0)
    return model_class(ErnieSparseConfig(**sizes, **settings)).eval()


def inputs_of(name: str, padding: str) -> dict:
    inputs = {"input_ids": IDS, "attention_mask": PADDINGS[padding]}
    if name == "choices":
        inputs = {key: None if v is None else v[:, None].expand(2, 3, 12) for key, v in inputs.items()}
    return {**inputs, "candidate_positions": CANDIDATES} if name == "candidates" else inputs


def with_value(values: torch.Tensor, value, row: int = 1, place: int = 4) -> torch.Tensor:
    """One of them changed, of a token that is real in each padding."""
    values = values.clone()
    values[row, ..., place] = value
    return values


def embeddings(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


def of_plan(num_rows: int, num_tokens: int):
    return plan_batch(PATTERN, 1, (num_rows, num_tokens), torch.device("cpu"))


BATCH = "(batch_size, sequence_length) = (2, 12) is expected"
INTEGERS = "torch.int64 or torch.int32 is needed"
MASK = "it must be 1 where there is a token and 0 where there is padding (an additive mask is not taken)"
SECOND = {"consistency_pattern": PATTERN, "labels": TWO}
# A head, what is given in place of or beside what is right, and what is said.
WRONG = [
    (
        "base",
        {"input_ids": None, "attention_mask": None},
        "exactly one of input_ids or inputs_embeds is needed: neither",
    ),
    ("base", {"inputs_embeds": embeddings(2, 12, 8)}, "exactly one of input_ids or inputs_embeds is needed: both"),
    ("masked_lm", {"input_ids": None}, "exactly one of input_ids or inputs_embeds is needed: neither is given"),
    ("choices", {"input_ids": None}, "exactly one of input_ids or inputs_embeds is needed: neither is given"),
    ("base", {"input_ids": IDS.float()}, f"input_ids has the dtype torch.float32: {INTEGERS}"),
    ("base", {"input_ids": IDS > 4}, f"input_ids has the dtype torch.bool: {INTEGERS}"),
    ("base", {"input_ids": IDS.to(torch.int8)}, f"input_ids has the dtype torch.int8: {INTEGERS}"),
    ("base", {"input_ids": IDS.tolist()}, "input_ids is a list: a tensor is needed"),
    ("single_label", {"input_ids": IDS.numpy()}, "input_ids is a ndarray: a tensor is needed"),
    ("answers", {"input_ids": "a text"}, "input_ids is a str: a tensor is needed"),
    ("base", {"input_ids": IDS[0]}, "input_ids has the shape (12,): (batch_size, sequence_length) is expected"),
    ("base", {"input_ids": IDS[:, :0]}, "input_ids has the shape (2, 0): it is empty"),
    ("base", {"input_ids": IDS[:0]}, "input_ids has the shape (0, 12): it is empty"),
    ("base", {"input_ids": with_value(IDS, 50)}, "input_ids holds 50: 0 to 49 is allowed"),
    ("base", {"input_ids": with_value(IDS, -1)}, "input_ids holds -1: 0 to 49 is allowed"),
    ("base", {"input_ids": with_value(IDS.int(), 50)}, "input_ids holds 50: 0 to 49 is allowed"),
    ("tokens", {"input_ids": with_value(IDS, -100, 1, 11)}, "input_ids holds -100: 0 to 49 is allowed"),
    ("choices", {"input_ids": with_value(CHOICES, 50)}, "input_ids holds 50: 0 to 49 is allowed"),
    (
        "base",
        {"input_ids": IDS.repeat(1, 3), "attention_mask": None},
        "input_ids has 36 tokens, more than this model's",
    ),
    (
        "base",
        {"input_ids": None, "inputs_embeds": embeddings(2, 36, 8), "attention_mask": None},
        "inputs_embeds has 36 tokens, more than this model's max_position_embeddings=32",
    ),
    ("choices", {"input_ids": IDS}, "input_ids has the shape (2, 12): (batch_size, num_choices, sequence_length)"),
    ("choices", {"input_ids": CHOICES[:, :0]}, "input_ids has the shape (2, 0, 12): it is empty"),
    *(
        (name, {"input_ids": None, "inputs_embeds": values}, message)
        for name, values, message in (
            ("base", embeddings(2, 12, 9), "inputs_embeds has the width 9: the model's embeddings have 8"),
            ("embeddings", embeddings(2, 12, 8), "inputs_embeds has the width 8: the model's embeddings have 6"),
            (
                "base",
                embeddings(2, 12),
                "inputs_embeds has the shape (2, 12): (batch_size, sequence_length, hidden_size)",
            ),
            ("base", embeddings(2, 12, 8).long(), "inputs_embeds has the dtype torch.int64: torch.float32 or"),
            ("masked_lm", embeddings(2, 12, 8).tolist(), "inputs_embeds is a list: a tensor is needed"),
            ("choices", embeddings(2, 12, 8), "inputs_embeds has the shape (2, 12, 8): (batch_size, num_choices, "),
        )
    ),
    *(
        ("base", {"attention_mask": with_value(mask, value)}, f"attention_mask holds {text}: {MASK}")
        for mask, value, text in (
            (ONES * 0.0, -1e9, "-1e+09"),
            (ONES * 0.0, torch.finfo(torch.float32).min, "-3.40282e+38"),
            (ONES * 0.0, -torch.inf, "-inf"),
            (ONES * 1.0, 0.5, "0.5"),
            (ONES.bfloat16(), 0.5, "0.5"),
            (ONES * 1.0, torch.nan, "nan"),
            (ONES * 1.0, torch.inf, "inf"),
            (ONES, 2, "2"),
            (ONES, -1, "-1"),
            (ONES.to(torch.uint8), 255, "255"),
        )
    ),
    ("answers", {"attention_mask": with_value(ONES * 0.0, -1e9)}, "attention_mask holds -1e+09"),
    ("choices", {"attention_mask": with_value(ONES[:, None].repeat(1, 3, 1), 7)}, "attention_mask holds 7"),
    ("base", {"attention_mask": ONES.tolist()}, "attention_mask is a list: a tensor is needed"),
    (
        "base",
        {"attention_mask": ONES.to(torch.complex64)},
        "attention_mask has the dtype torch.complex64: torch.bool or",
    ),
    ("base", {"attention_mask": ONES[:, :11]}, f"attention_mask has the shape (2, 11): {BATCH}"),
    ("base", {"attention_mask": ONES[:1]}, f"attention_mask has the shape (1, 12): {BATCH}"),
    (
        "base",
        {"attention_mask": ONES[:, :, None] * ONES[:, None]},
        f"attention_mask has the shape (2, 12, 12): {BATCH}",
    ),
    ("base", {"attention_mask": ONES[:, None, None]}, "is expected; which tokens see which is the pattern's business"),
    ("base", {"attention_mask": ONES.to("meta")}, "attention_mask is on meta: cpu, where the tokens are, is needed"),
    ("choices", {"attention_mask": CHOICES.mT}, "attention_mask has the shape (2, 12, 3): (batch_size, num_choices, "),
    # As many rows once they are flattened.
    ("choices", {"attention_mask": torch.ones(3, 2, 12)}, "attention_mask has the shape (3, 2, 12): (batch_size, num_"),
    (
        "choices",
        {"attention_mask": ONES[:1, None]},
        "attention_mask has the shape (1, 1, 12): (batch_size, num_choices",
    ),
    ("choices", {"token_type_ids": ONES.view(2, 1, 12)}, "token_type_ids has the shape (2, 1, 12): (batch_size, num_"),
    ("choices", {"position_ids": PLACES}, "position_ids has the shape (1, 12): (batch_size, num_choices, sequence_l"),
    *(
        ("base", {name: values}, f"{name} {message}")
        for name, least, most in (("token_type_ids", "0", "1"), ("position_ids", "0", "31"))
        for values, message in (
            (ONES[:, :11], f"has the shape (2, 11): {BATCH}"),
            (ONES[0], f"has the shape (12,): {BATCH}"),
            (ONES.repeat(2, 1), f"has the shape (4, 12): {BATCH}"),
            (ONES.float(), f"has the dtype torch.float32: {INTEGERS}"),
            (ONES.bool(), f"has the dtype torch.bool: {INTEGERS}"),
            (ONES.tolist(), "is a list: a tensor is needed"),
            (with_value(ONES, 32), f"holds 32: {least} to {most} is allowed"),
            (with_value(ONES, -1), f"holds -1: {least} to {most} is allowed"),
            (ONES.to("meta"), "is on meta: cpu, where the tokens are, is needed"),
        )
    ),
    ("base", {"pattern": 64}, "pattern: 64 is not a sparse pattern"),
    ("base", {"pattern": True}, "pattern: True is not a sparse pattern"),
    ("base", {"pattern": [PATTERN]}, "is not a sparse pattern: give a SparsePattern, a mapping of its fields, or text"),
    ("base", {"pattern": "blocks=3"}, "pattern: 'blocks' is not a field of a sparse pattern"),
    ("base", {"pattern": {"block_size": 0}}, "pattern: block_size=0 is not allowed"),
    ("base", {"pattern": of_plan(2, 11)}, "pattern: the plan is for 11 tokens, but the input has 12"),
    ("base", {"pattern": of_plan(3, 12)}, "pattern: the plan is for 3 rows, but the input has 2"),
    ("base", {"alignment_pattern": 64}, "alignment_pattern: 64 is not a sparse pattern"),
    ("base", {"alignment_pattern": of_plan(3, 12)}, "alignment_pattern: the plan is for 3 rows, but the input has 2"),
    ("base", {"num_tokens_in_batch": "20"}, "num_tokens_in_batch='20': a number is needed"),
    ("base", {"num_tokens_in_batch": ONES}, "num_tokens_in_batch has the shape (2, 12): one number is expected"),
    ("base", {"cu_seq_lens_q": [0, 12, 24]}, "cu_seq_lens_q is a list: a tensor is needed"),
    ("base", {"cu_seq_lens_q": torch.tensor([0.0, 12, 24])}, f"cu_seq_lens_q has the dtype torch.float32: {INTEGERS}"),
    (
        "base",
        {"cu_seq_lens_q": torch.tensor([[0, 12, 24]])},
        "cu_seq_lens_q has the shape (1, 3): (num_documents + 1,)",
    ),
    ("base", {"cu_seq_lens_q": torch.tensor([0, 12])}, "cu_seq_lens_q has to rise from 0 to 24"),
    ("base", {"cu_seq_lens_q": torch.tensor([0, 20, 24])}, "cu_seq_lens_q has to rise from 0 to 24"),
    ("base", {"cu_seq_lens_q": torch.tensor([0, 12, 6, 24])}, "cu_seq_lens_q has to rise from 0 to 24"),
    (
        "base",
        {"input_ids": IDS.repeat(1, 3), "attention_mask": None, "cu_seq_lens_q": torch.tensor([0, 36, 46, 72])},
        "cu_seq_lens_q has a document of 36 tokens, more than this model's max_position_embeddings=32",
    ),
    *(
        (name, {"labels": labels}, f"labels {message}")
        for name in ("masked_lm", "tokens")
        for labels, message in (
            (ONES[:, :11], f"has the shape (2, 11): {BATCH}"),
            (ONES[0], f"has the shape (12,): {BATCH}"),
            (ONES.float(), f"has the dtype torch.float32: {INTEGERS}"),
            (ONES.tolist(), "is a list: a tensor is needed"),
            (with_value(ONES, 50), f"holds 50: 0 to {49 if name == 'masked_lm' else 2} is allowed, and -100 for none"),
            (with_value(ONES, -1), f"holds -1: 0 to {49 if name == 'masked_lm' else 2} is allowed, and -100 for none"),
        )
    ),
    *(
        (name, {"labels": labels}, f"labels {message}")
        for name, labels, message in (
            ("single_label", torch.tensor([0, 1, 2]), "has the shape (3,): (batch_size,) = (2,) is expected"),
            ("single_label", torch.zeros(2, 3).long(), "has the shape (2, 3): (batch_size,) = (2,) is expected"),
            ("single_label", torch.tensor([0.0, 1.0]), "has the shape (2,): (batch_size, num_labels) = (2, 3) is"),
            ("single_label", [0, 1], "is a list: a tensor is needed"),
            ("single_label", torch.tensor([0, 3]), "holds 3: 0 to 2 is allowed, and -100 for none"),
            ("single_label", torch.tensor([-1, 2]), "holds -1: 0 to 2 is allowed, and -100 for none"),
            ("single_label", TWO.to(torch.int8), f"has the dtype torch.int8: {INTEGERS}"),
            # As many numbers, which would be read in another order.
            ("multi_label", torch.zeros(3, 2), "has the shape (3, 2): (batch_size, num_labels) = (2, 3) is expected"),
            ("multi_label", torch.zeros(6), "has the shape (6,): (batch_size, num_labels) = (2, 3) is expected"),
            ("multi_label", torch.full((2, 3), 1.5), "holds 1.5: 0 to 1 is allowed, and -100 for none"),
            ("multi_label", torch.full((2, 3), 2), "holds 2: 0 to 1 is allowed, and -100 for none"),
            ("regression", torch.zeros(3), "has the shape (3,): (batch_size, num_labels) = (2, 1) is expected"),
            ("regression", torch.zeros(1, 2), "has the shape (1, 2): (batch_size, num_labels) = (2, 1) is expected"),
            ("regression", torch.zeros(2).to(torch.complex64), "has the dtype torch.complex64: torch.bool or"),
            ("choices", torch.tensor([0, 3]), "holds 3: 0 to 2 is allowed, and -100 for none"),
            ("choices", torch.zeros(6).long(), "has the shape (6,): (batch_size,) = (2,) is expected"),
            ("candidates", torch.tensor([0, 3]), "holds 3: 0 to 2 is allowed, and -100 for none"),
            ("candidates", torch.tensor([0, 2]), "has a candidate whose place in candidate_positions is negative"),
            ("candidates", torch.zeros(2, 3).long(), "has the shape (2, 3): (batch_size,) = (2,) is expected"),
            ("candidates", torch.tensor([0.0, 1.0]), f"has the dtype torch.float32: {INTEGERS}"),
        )
    ),
    *(
        ("answers", {"start_positions": start, "end_positions": end}, message)
        for start, end, message in (
            (TWO, None, "end_positions is missing: an answer has a start and an end"),
            (None, TWO, "start_positions is missing: an answer has a start and an end"),
            (TWO, TWO[:, None], "end_positions has the shape (2, 1): that of start_positions, (2,), is expected"),
            (
                ONES[:, :2],
                ONES[:, :3],
                "end_positions has the shape (2, 3): that of start_positions, (2, 2), is expected",
            ),
            (TWO[:1], TWO[:1], "start_positions has the shape (1,): (batch_size,) = (2,) is expected"),
            (TWO, TWO[:1], "end_positions has the shape (1,): (batch_size,) = (2,) is expected"),
            (ONES[:1], ONES[:1], "start_positions has the shape (1, 12): (batch_size, num_mentions) = (2, 12) is"),
            (TWO[0], TWO[0], "start_positions has the shape (): (batch_size,) = (2,) is expected"),
            (TWO.float(), TWO, f"start_positions has the dtype torch.float32: {INTEGERS}"),
            (TWO, TWO.tolist(), "end_positions is a list: a tensor is needed"),
        )
    ),
    *(
        ("candidates", {"candidate_positions": positions}, f"candidate_positions {message}")
        for positions, message in (
            (None, "is missing: it says where the candidates' markers stand"),
            (CANDIDATES[:1], "has the shape (1, 3): (batch_size, num_candidates) with batch_size=2 is expected"),
            (CANDIDATES[0], "has the shape (3,): (batch_size, num_candidates) with batch_size=2 is expected"),
            (
                CANDIDATES.repeat(2, 1),
                "has the shape (4, 3): (batch_size, num_candidates) with batch_size=2 is expected",
            ),
            (CANDIDATES.float(), f"has the dtype torch.float32: {INTEGERS}"),
            (CANDIDATES.tolist(), "is a list: a tensor is needed"),
            (CANDIDATES * 3, "holds 18: 0 to 11 is allowed, and negative for none"),
        )
    ),
    *(
        ("masked_lm", {"logits_to_keep": kept}, f"logits_to_keep{message}")
        for kept, message in (
            (-1, "=-1: a number of at least 0 is needed"),
            ([3, 4], " is a list: a tensor is needed"),
            (PLACES[0].float(), " has the dtype torch.float32: torch.int64 or torch.int32 or torch.bool is needed"),
            (PLACES[0] + 1, " holds 12: -12 to 11 is allowed"),
            # Which would be rows.
            (TWO[None], " has the shape (1, 2): (num_kept,) = (1,) is expected; of each row its own are given as bool"),
            (IDS[:1] > 4, f" has the shape (1, 12): {BATCH}"),
            (IDS[0, :11] > 4, " has the shape (11,): (sequence_length,) = (12,) is expected"),
        )
    ),
    *(
        ("single_label", {**SECOND, name: value}, f"{name}{message}")
        for name, value, message in (
            ("consistency_pattern", 64, ": 64 is not a sparse pattern"),
            ("consistency_pattern", "blocks=3", ": 'blocks' is not a field"),
            ("consistency_pattern", of_plan(1, 12), ": the plan is for 1 rows, but the input has 2"),
            ("consistency_alpha", "1", "='1': a number is needed"),
            ("consistency_alpha", torch.ones(2), " has the shape (2,): one number is expected"),
            ("consistency_temperature", 0, "=0: a number above 0 is needed"),
            ("consistency_temperature", None, "=None: a number is needed"),
            ("consistency_rows", [0], " is a list: a tensor is needed"),
            ("consistency_rows", torch.tensor([0.0]), f" has the dtype torch.float32: {INTEGERS}"),
            ("consistency_rows", torch.tensor(0), " has the shape (): (num_rows,) of at least 1 is expected"),
            ("consistency_rows", TWO[:0], " has the shape (0,): (num_rows,) of at least 1 is expected"),
            ("consistency_rows", torch.tensor([2]), " holds 2: 0 to 1 is allowed"),
            ("consistency_rows", TWO, " is [1, 0]: the rows are needed once each, in rising order"),
            ("num_items_in_batch", True, "=True: a number is needed"),
            ("num_items_in_batch", TWO, " has the shape (2,): one number is expected"),
            ("class_weights", torch.ones(2), " has the shape (2,): (num_labels,) = (3,) is expected"),
            ("class_weights", [1.0, 1.0, 1.0], " is a list: a tensor is needed"),
        )
    ),
    ("choices", {**SECOND, "consistency_rows": torch.tensor([2])}, "consistency_rows holds 2: 0 to 1 is allowed"),
    ("multi_label", {"labels": torch.zeros(2, 3), "class_weights": torch.ones(3)}, "class_weights is for classes that"),
    ("answers", {"start_positions": TWO, "end_positions": TWO, "num_items_in_batch": "2"}, "num_items_in_batch='2'"),
    (
        "single_label",
        {"labels": TWO, "cu_seq_lens_q": torch.tensor([0, 5, 12, 24])},
        "labels has the shape (2,): (batch_s",
    ),
]


@every_padding
@pytest.mark.parametrize("name, given, message", WRONG, ids=[f"{i}-{row[2][:40]}" for i, row in enumerate(WRONG)])
def test_what_is_wrong_is_named_before_anything_is_computed(name, given, message, padding, monkeypatch):
    model = build(name)
    monkeypatch.setattr(model.base_model.embeddings, "forward", lambda *args: pytest.fail("the body runs"))
    with pytest.raises(ValueError) as error:
        model(**{**inputs_of(name, padding), **given})
    assert message in str(error.value) and "\n" not in str(error.value)


RIGHT = [
    ("base", {}),
    ("base", {"input_ids": IDS.int(), "token_type_ids": (IDS % 2).int(), "position_ids": PLACES.int()}),
    ("base", {"token_type_ids": ONES, "position_ids": PLACES.expand(2, -1) + 20}),
    ("base", {"token_type_ids": ONES[:1], "position_ids": PLACES}),
    ("base", {"input_ids": None, "inputs_embeds": embeddings(2, 12, 8)}),
    ("embeddings", {"input_ids": None, "inputs_embeds": embeddings(2, 12, 6)}),
    ("base", {"attention_mask": ONES * 0}),
    *(
        ("base", {"attention_mask": ONES.tril().to(dtype)})
        for dtype in (torch.bool, torch.uint8, torch.int8, torch.int32)
    ),
    *(("base", {"attention_mask": ONES.tril().to(dtype)}) for dtype in (torch.float32, torch.float64, torch.bfloat16)),
    ("base", {"attention_mask": ONES.tril().half()}),
    *(("base", {"pattern": pattern}) for pattern in (None, PATTERN, {"block_size": 4}, "block_size=4", of_plan(2, 12))),
    ("base", {"alignment_pattern": "block_size=2", "num_tokens_in_batch": 24}),
    ("base", {"alignment_pattern": PATTERN, "num_tokens_in_batch": torch.tensor(24)}),
    ("base", {"cu_seq_lens_q": torch.tensor([0, 5, 12, 24])}),
    (
        "base",
        {"cu_seq_lens_q": torch.tensor([0, 5, 12, 24], dtype=torch.int32), "cu_seq_lens_k": None, "max_length_q": 12},
    ),
    *((name, {"labels": with_value(IDS % 3, -100)}) for name in ("masked_lm", "tokens")),
    *((name, {"labels": with_value(IDS % 3, -100).int()}) for name in ("masked_lm", "tokens")),
    *(
        ("masked_lm", {"logits_to_keep": kept})
        for kept in (0, 3, 40, PLACES[0, :3], torch.tensor([-1]), IDS > 9, IDS[0] > 9)
    ),
    *(("single_label", {"labels": labels}) for labels in (TWO, TWO.int(), TWO[:, None], torch.tensor([-100, 2]))),
    ("single_label", {"labels": torch.tensor([[0.0, 1.0, torch.nan], [1.0, -100.0, 0.2]])}),
    ("single_label", {"labels": torch.tensor([0, 1, 2]), "cu_seq_lens_q": torch.tensor([0, 5, 12, 24])}),
    ("single_label", {"labels": TWO, "class_weights": torch.ones(3), "num_items_in_batch": 2}),
    *(
        ("single_label", {**SECOND, name: value})
        for name, value in (
            ("consistency_rows", torch.tensor([1])),
            ("consistency_alpha", torch.tensor(2.0)),
            ("consistency_alpha", np.float32(2.0)),
            ("consistency_temperature", 2),
            ("num_items_in_batch", torch.tensor([2])),
            ("num_items_in_batch", np.int64(2)),
        )
    ),
    *(("multi_label", {"labels": (CANDIDATES % 2).to(dtype)}) for dtype in (torch.float32, torch.int64, torch.bool)),
    *(
        ("regression", {"labels": labels})
        for labels in (TWO.float(), TWO.double()[:, None], TWO, torch.tensor([-7.0, 9.0]))
    ),
    *(
        ("answers", {"start_positions": positions, "end_positions": positions})
        for positions in (None, TWO, TWO.int(), TWO[:, None], CANDIDATES, torch.tensor([-100, 900]))
    ),
    ("choices", {"labels": torch.tensor([2, -100]), "position_ids": PLACES[None], "token_type_ids": CHOICES % 2}),
    ("choices", {**SECOND, "consistency_rows": torch.tensor([1])}),
    ("candidates", {"labels": torch.tensor([2, -100])}),
    ("candidates", {"candidate_positions": CANDIDATES[:, :0]}),
    ("candidates", {"candidate_positions": CANDIDATES.int() * 0 - 5}),
]


@every_padding
@pytest.mark.parametrize("name, given", RIGHT)
def test_what_is_right_passes(name, given, padding):
    output = build(name)(**{**inputs_of(name, padding), **given})
    assert all(value.isfinite().all() for value in output.values() if isinstance(value, torch.Tensor))
    assert output.get("loss") is not None or not {"labels", "start_positions"} & {
        k for k, v in given.items() if v is not None
    }


def test_a_tokenizer_s_batch_passes():
    batch = BatchEncoding({"input_ids": IDS.tolist(), "attention_mask": ONES.tolist()}, tensor_type="pt")
    assert build("base")(**batch).last_hidden_state.shape == (2, 12, 8)


def test_where_there_are_no_values_none_are_read():
    model = build("masked_lm")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(IDS), labels=mode.from_tensor(IDS)).logits.shape == (2, 12, 50)
    with torch.device("meta"):
        empty = ErnieSparseForMaskedLM(model.config).eval()
        ids = torch.empty(2, 12, dtype=torch.long)
        assert empty(ids, torch.empty(2, 12), ids, position_ids=ids, labels=ids).loss.is_meta


def test_a_tracer_is_not_stopped_by_values_that_it_does_not_know():
    model = build("base").requires_grad_(False)
    call = lambda ids, mask: model(ids, mask, return_dict=False)[0]  # noqa: E731
    traced = torch.jit.trace(call, (IDS, ONES), check_trace=False)
    # What was looked at would be a constant of the program, or an error in it.
    torch.testing.assert_close(traced(IDS + 5, PADDED), call(IDS + 5, PADDED))
    assert not {"aten::aminmax", "aten::equal"} & {node.kind() for node in traced.graph.nodes()}


def test_asking_a_backend_without_maps_for_them_is_said(monkeypatch):
    model, said = build("base"), []
    monkeypatch.setattr("ernie_sparse.input_checks.logger.warning_once", said.append)
    assert not model(IDS, output_attentions=True).attentions
    assert len(said) == 1 and said[0].startswith(
        "output_attentions=True gives nothing under attn_implementation='sdpa'"
    )
    model(IDS)
    eager = ErnieSparseModel._from_config(model.config, attn_implementation="eager")
    assert len(eager(IDS, output_attentions=True).attentions) == 1
    assert len(said) == 1


@pytest.mark.gpu
def test_on_a_gpu_a_mask_is_read_where_the_batch_is_planned():
    model = ErnieSparseModel(build("base").config).cuda()
    for value in (0.5, -1e9, torch.nan):
        with pytest.raises(ValueError, match="attention_mask holds"):
            model(IDS.cuda(), with_value(ONES * 1.0, value).cuda())
    assert model(IDS.cuda(), PADDED.cuda()).last_hidden_state.isfinite().all()
