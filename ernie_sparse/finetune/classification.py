# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Classes, sets of classes and numbers for whole texts, or pairs of texts, of any length."""

from collections.abc import Iterator

import numpy as np
from datasets import Dataset, List, Value
from scipy.special import expit, softmax

from ..errors import InputError
from .features import Encoded, build_features
from .metrics import compute
from .settings import Settings

LONGER = "longer than the limit"
LABEL_TYPES = {"single_label": Value("int64"), "multi_label": List(Value("float64")), "regression": Value("float64")}


def encode(rows: Dataset, settings: Settings, tokenizer, is_training: bool, num_proc: int | None = None) -> Dataset:
    """
    Records of texts: one feature each, or several where `long_documents` is `windows`. `document_length` counts the whole
    text's tokens.

    Raises:
        [`InputError`]: Windows, tails or both ends of pairs, which can only be cut at the end; a stride without progress.
    """
    if "text_pair" in rows.column_names and settings.long_documents != "head":
        raise InputError(f"--long-documents {settings.long_documents} is for single texts: pairs are cut at the end")
    room = settings.max_length - sum(map(len, special_tokens_around(tokenizer)))
    if settings.long_documents == "windows" and settings.stride >= room:
        raise InputError(f"--stride {settings.stride} must be less than the {room} tokens of a window")
    types = {"document_length": Value("int64")}
    if "label" in rows.column_names:
        types["labels"] = LABEL_TYPES[settings.task_type]
    return build_features(rows, encode_batch, types, settings, tokenizer, is_training, num_proc)


def encode_batch(batch: dict, settings: Settings, tokenizer, is_training: bool) -> Encoded:
    numbers = {name: number for number, name in enumerate(settings.label_names)}
    parts_of_texts = _parts_of_pairs if "text_pair" in batch else _parts_of_texts
    for i, (length, parts) in enumerate(parts_of_texts(batch, settings, tokenizer)):
        of_text = {"document_length": length}
        if "label" in batch:
            of_text["labels"] = _label(batch["label"][i], settings, numbers)
        # The model takes no input without a token.
        features = [{**part, "input_ids": part["input_ids"] or [0], **of_text} for part in parts]
        yield features, [LONGER] if length > settings.max_length else []


def _parts_of_texts(batch: dict, settings: Settings, tokenizer) -> Iterator[tuple[int, list[dict]]]:
    first, last = special_tokens_around(tokenizer)
    num_specials = len(first) + len(last)
    texts = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)
    for ids in texts["input_ids"]:
        parts = cut_tokens(ids, settings.max_length - num_specials, settings)
        yield len(ids) + num_specials, [{"input_ids": [*first, *part, *last]} for part in parts]


def _parts_of_pairs(batch: dict, settings: Settings, tokenizer) -> Iterator[tuple[int, list[dict]]]:
    texts = batch["text"], batch["text_pair"]
    whole = tokenizer(*texts, return_attention_mask=False, verbose=False)["input_ids"]
    cut = tokenizer(*texts, truncation=True, max_length=settings.max_length)
    for i, ids in enumerate(whole):
        yield len(ids), [{name: cut[name][i] for name in ("input_ids", "token_type_ids") if name in cut}]


def special_tokens_around(tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind a single text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return framed[:start], framed[start + len(plain) :]
    raise InputError(f"{type(tokenizer).__name__} tokenizes a text otherwise when special tokens are added")


def cut_tokens(ids: list[int], room: int, settings: Settings) -> list[list[int]]:
    """What of a document's tokens is read: one list of at most `room`, or one per window."""
    if len(ids) <= room:
        return [ids]
    if settings.long_documents == "head":
        return [ids[:room]]
    if settings.long_documents == "tail":
        return [ids[-room:]]
    if settings.long_documents == "head_tail":
        return [[*ids[: room - room // 2], *ids[len(ids) - room // 2 :]]]
    step = room - settings.stride
    return [ids[start : start + room] for start in range(0, len(ids) - settings.stride, step)]


def _label(value, settings: Settings, numbers: dict[str, int]):
    if settings.task_type == "regression":
        return float(value)
    if settings.task_type == "single_label":
        return numbers[value]
    return [float(name in value) for name in settings.label_names]


def decode(outputs: np.ndarray, features: Dataset, rows: Dataset, settings: Settings) -> list[dict]:
    """One prediction per text; the logits of its windows are averaged first."""
    documents = np.asarray(features["document"])
    sums = np.zeros((len(rows), outputs.shape[1]))
    np.add.at(sums, documents, outputs.astype(np.float64))
    logits = sums / np.bincount(documents, minlength=len(rows))[:, None]
    ids = rows["id"]
    if settings.task_type == "regression":
        return [{"id": i, "value": float(value)} for i, value in zip(ids, logits[:, 0], strict=True)]
    names = settings.label_names
    if settings.task_type == "single_label":
        scores = softmax(logits, axis=1)
        best = logits.argmax(axis=1)
        chosen = [{"label": names[k], "score": float(score[k])} for k, score in zip(best, scores, strict=True)]
    else:
        scores = expit(logits)
        chosen = [{"labels": [name for name, p in zip(names, row, strict=True) if p > 0.5]} for row in scores]
    return [
        {"id": i, **choice, "scores": dict(zip(names, map(float, row), strict=True))}
        for i, choice, row in zip(ids, chosen, scores, strict=True)
    ]


def score(predictions: list[dict], rows: Dataset, settings: Settings) -> dict[str, float]:
    """The metrics that `settings.metrics` names."""
    if settings.task_type == "regression":
        return compute(settings.metrics, [p["value"] for p in predictions], list(rows["label"]))
    if settings.task_type == "multi_label":
        sets = ([p["labels"] for p in predictions], rows["label"])
        return compute(
            settings.metrics, *([[int(name in labels) for name in settings.label_names] for labels in s] for s in sets)
        )
    numbers = {name: number for number, name in enumerate(settings.label_names)}
    return compute(
        settings.metrics, [numbers[p["label"]] for p in predictions], [numbers[label] for label in rows["label"]]
    )
