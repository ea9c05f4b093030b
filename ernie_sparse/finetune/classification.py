# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Classes, sets of classes and numbers for whole texts, or pairs of texts, of any length."""

import numpy as np
from datasets import Dataset
from scipy.special import expit, softmax

from .features import build_features
from .metrics import compute
from .settings import Settings


def encode(rows: Dataset, settings: Settings, tokenizer, is_training: bool) -> tuple[Dataset, dict[str, list[str]]]:
    """
    Features of texts: one row each, or several where `long_documents` is `windows`. `document_length` counts the whole
    text's tokens.

    Raises:
        `ValueError`: Windows, tails or both ends of pairs, which can only be cut at the end; a stride without progress.
    """
    has_pairs = "text_pair" in rows.column_names
    if has_pairs and settings.long_documents != "head":
        raise ValueError(f"--long-documents {settings.long_documents} is for single texts: pairs are cut at the end")
    first, last = special_tokens_around(tokenizer)
    room = settings.max_length - len(first) - len(last)
    if settings.long_documents == "windows" and settings.stride >= room:
        raise ValueError(f"--stride {settings.stride} must be less than the {room} tokens of a window")
    with_types = "token_type_ids" in tokenizer.model_input_names
    numbers = {name: number for number, name in enumerate(settings.label_names)}

    def encode_batch(batch: dict, indices: list[int]) -> dict:
        features: dict[str, list] = {name: [] for name in ("input_ids", "document", "document_length")}
        if has_pairs:
            return _pairs(batch, indices, features)
        texts = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)
        for index, ids in zip(indices, texts["input_ids"], strict=True):
            for part in cut_tokens(ids, room, settings):
                features["input_ids"].append([*first, *part, *last])
                features["document"].append(index)
                features["document_length"].append(len(ids) + len(first) + len(last))
        if with_types:
            features["token_type_ids"] = [[0] * len(ids) for ids in features["input_ids"]]
        return finish(batch, indices, features)

    def _pairs(batch: dict, indices: list[int], features: dict) -> dict:
        whole = tokenizer(batch["text"], batch["text_pair"], return_attention_mask=False, verbose=False)["input_ids"]
        cut = tokenizer(batch["text"], batch["text_pair"], truncation=True, max_length=settings.max_length)
        features.update({name: cut[name] for name in ("input_ids", "token_type_ids") if name in cut})
        features.update(document=indices, document_length=[len(ids) for ids in whole])
        return finish(batch, indices, features)

    def finish(batch: dict, indices: list[int], features: dict) -> dict:
        features["attention_mask"] = [[1] * len(ids) for ids in features["input_ids"]]
        features["length"] = [len(ids) for ids in features["input_ids"]]
        if "label" in batch:
            labels = dict(zip(indices, (_label(value, settings, numbers) for value in batch["label"]), strict=True))
            features["labels"] = [labels[index] for index in features["document"]]
        return features

    features = build_features(rows, encode_batch)
    ids, lengths = rows["id"], np.asarray(features["document_length"])
    documents = np.asarray(features["document"])
    is_long = np.unique(documents[lengths > settings.max_length])
    return features, {"longer than the limit": [ids[int(index)] for index in is_long]}


def special_tokens_around(tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind a single text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return framed[:start], framed[start + len(plain) :]
    raise ValueError(f"{type(tokenizer).__name__} tokenizes a text otherwise when special tokens are added")


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
    if settings.kind == "regression":
        return float(value)
    if settings.kind == "single_label":
        return numbers[value]
    return [float(name in value) for name in settings.label_names]


def decode(outputs: np.ndarray, features: Dataset, rows: Dataset, settings: Settings) -> list[dict]:
    """One prediction per text; the logits of its windows are averaged first."""
    documents = np.asarray(features["document"])
    sums = np.zeros((len(rows), outputs.shape[1]))
    np.add.at(sums, documents, outputs.astype(np.float64))
    logits = sums / np.bincount(documents, minlength=len(rows))[:, None]
    ids = rows["id"]
    if settings.kind == "regression":
        return [{"id": i, "value": float(value)} for i, value in zip(ids, logits[:, 0], strict=True)]
    names = settings.label_names
    if settings.kind == "single_label":
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
    if settings.kind == "regression":
        return compute(settings.metrics, [p["value"] for p in predictions], list(rows["label"]))
    if settings.kind == "multi_label":
        sets = ([p["labels"] for p in predictions], rows["label"])
        return compute(
            settings.metrics, *([[int(name in labels) for name in settings.label_names] for labels in s] for s in sets)
        )
    numbers = {name: number for number, name in enumerate(settings.label_names)}
    return compute(
        settings.metrics, [numbers[p["label"]] for p in predictions], [numbers[label] for label in rows["label"]]
    )
