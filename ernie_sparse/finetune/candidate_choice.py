# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Candidate choice, as in WikiHop: which of the candidates answers a query about several documents, all in one input."""

from typing import NamedTuple

import numpy as np
from datasets import Dataset, List, Value

from ..errors import InputError
from .features import Encoded, build_features
from .settings import Settings

IGNORE_INDEX = -100


class _Specials(NamedTuple):
    """Token ids: what opens an input (nothing, for some tokenizers), what closes a part, what stands before a candidate."""

    opening: list[int]
    separator: int
    marker: int

    @classmethod
    def of(cls, tokenizer) -> "_Specials":
        opening, separator = (
            first if first is not None else second
            for first, second in (
                (tokenizer.cls_token_id, tokenizer.bos_token_id),
                (tokenizer.sep_token_id, tokenizer.eos_token_id),
            )
        )
        for token_id, name in ((tokenizer.mask_token_id, "mask"), (separator, "sep or eos")):
            if token_id is None:
                raise InputError(
                    f"{type(tokenizer).__name__} has no {name} token, which marks a part of the input: choosing among "
                    "candidates needs a tokenizer with a mask token and a sep or eos token"
                )
        return cls([] if opening is None else [opening], separator, tokenizer.mask_token_id)


def encode(rows: Dataset, settings: Settings, tokenizer, is_training: bool, num_proc: int | None = None) -> Dataset:
    """
    One input per row, `[CLS] query [SEP] [MASK] candidate [MASK] candidate … [SEP] support [SEP] support … [SEP]`: the
    query and the candidates stand in the leading global blocks, and every candidate behind a marker that all masked
    language models know. Supports that do not fit are cut at the end.

    Args:
        rows (`Dataset`):
            Columns `id`, `query`, `candidates`, `supports` and, optionally, `answer`, one of the candidates. Underscores
            of a query, such as WikiHop's `participant_of juan rossell`, are read as spaces.

    Returns:
        `Dataset`: Records, with `candidate_positions` (the markers' places).

    Raises:
        [`InputError`]: A tokenizer without the tokens needed. In evaluation a row without candidates, or with more of them
            than there are places, has an error instead of features.
    """
    _Specials.of(tokenizer)
    types = {"candidate_positions": List(Value("int64"))}
    if "answer" in rows.column_names:
        types["labels"] = Value("int64")
    return build_features(rows, encode_batch, types, settings, tokenizer, is_training, num_proc)


def encode_batch(batch: dict, settings: Settings, tokenizer, is_training: bool) -> Encoded:
    specials = _Specials.of(tokenizer)
    for i in range(len(batch["id"])):
        row = {name: values[i] for name, values in batch.items()}
        try:
            encoded = _encode_row(row, settings, tokenizer, specials, is_training)
        except InputError as error:
            encoded = error
        yield encoded


def _encode_row(
    row: dict, settings: Settings, tokenizer, specials: _Specials, is_training: bool
) -> tuple[list[dict], list[str]]:
    if not row["candidates"]:
        if not is_training:
            raise InputError("it has no candidates: there is nothing to choose from")
        return [], ["no candidates"]
    # The first candidate that is the answer, or none.
    label, notes = IGNORE_INDEX, []
    if row.get("answer") in row["candidates"]:
        label = row["candidates"].index(row["answer"])
    elif is_training or "answer" in row:
        notes.append("answer not among the candidates")
    if is_training and label == IGNORE_INDEX:
        return [], notes
    num_candidates = len(row["candidates"])
    texts = [row["query"].replace("_", " "), *row["candidates"], *row["supports"]]
    query, *pieces = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    candidates, supports = pieces[:num_candidates], pieces[num_candidates:]
    # Beside the opening token, the two separators and one place for what follows them.
    room = settings.max_length - len(specials.opening) - 3
    if len(query) + num_candidates + sum(map(len, candidates)) > room:
        if is_training:
            return [], ["query and candidates longer than the limit"]
        query, candidates = _cut(query, candidates, room, settings.max_length // 4)
        notes.append("candidates cut")
    ids = [*specials.opening, *query, specials.separator]
    positions = []
    for candidate in candidates:
        positions.append(len(ids))
        ids += [specials.marker, *candidate]
    ids.append(specials.separator)
    if len(ids) > settings.num_global_tokens:
        notes.append("candidates longer than the global blocks")
    documents = [token for support in supports for token in (*support, specials.separator)]
    left = settings.max_length - len(ids)
    if len(documents) > left:
        notes.append("supports cut")
        documents = [*documents[: left - 1], specials.separator]
    feature = {
        "input_ids": ids + documents,
        "token_type_ids": [0] * len(ids) + [1] * len(documents),
        "candidate_positions": positions,
        "labels": label,
    }
    return [feature], notes


def _cut(
    query: list[int], candidates: list[list[int]], room: int, query_limit: int
) -> tuple[list[int], list[list[int]]]:
    """At most `query_limit` tokens of the query and equally many of each candidate, as many as fit beside the markers."""
    query = query[:query_limit]
    room -= len(query) + len(candidates)
    if room < 0:
        raise InputError(
            f"it has {len(candidates)} candidates: beside {len(query)} tokens of the query only {room + len(candidates)} have "
            "a place"
        )
    limit = max(map(len, candidates))
    while sum(min(len(candidate), limit) for candidate in candidates) > room:
        limit -= 1
    return query, [candidate[:limit] for candidate in candidates]


def decode(outputs: np.ndarray, features: Dataset, rows: Dataset, settings: Settings) -> list[dict]:
    """
    The best candidate of every row and the probabilities of all; that of a candidate given twice is the sum of both.

    Args:
        outputs (`np.ndarray` of shape `(num_features, num_candidates)`): Logits, padded behind each row's candidates.
    """
    logits = dict(zip(features["document"], np.asarray(outputs, dtype=np.float64), strict=True))
    predictions = []
    for document, (row_id, candidates) in enumerate(zip(rows["id"], rows["candidates"], strict=True)):
        own = logits[document][: len(candidates)]
        weights = np.exp(own - own.max())
        scores = dict.fromkeys(candidates, 0.0)
        for candidate, probability in zip(candidates, weights / weights.sum(), strict=True):
            scores[candidate] += float(probability)
        answer = max(scores, key=scores.get)
        predictions.append({"id": row_id, "answer": answer, "score": scores[answer], "scores": scores})
    return predictions


def score(predictions: list[dict], rows: Dataset, settings: Settings) -> dict[str, float]:
    """The share of right answers."""
    is_right = [prediction["answer"] == answer for prediction, answer in zip(predictions, rows["answer"], strict=True)]
    return {"accuracy": float(np.mean(is_right))}
