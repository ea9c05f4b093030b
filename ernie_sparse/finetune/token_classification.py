# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Token classification: a label for every word of a document, which is read in overlapping windows where it is long."""

import numpy as np
import torch
from datasets import Dataset, List, Value

from ..errors import InputError
from .features import Encoded, build_features
from .metrics import compute, entities
from .settings import Settings

IGNORE_INDEX = -100


def encode(rows: Dataset, settings: Settings, tokenizer, is_training: bool, num_proc: int | None = None) -> Dataset:
    """
    Windows of at most `settings.max_length` tokens, consecutive ones sharing `settings.stride` pieces. A word's label
    stands at its first piece, in every window that holds it.

    Args:
        rows (`Dataset`): Columns `id`, `tokens` (words) and, optionally, `labels` (a label name per word).

    Returns:
        `Dataset`: Records, with `word_ids` (the word whose first piece a token is, -1 for none).

    Raises:
        [`InputError`]: A tokenizer that cannot say which word a piece is of, a stride that leaves no progress, a label that
            is none of `settings.label_names` or, in evaluation, not one label per word.
    """
    _window_size(settings, tokenizer)
    types = {"word_ids": List(Value("int32"))}
    if "labels" in rows.column_names:
        types["labels"] = List(Value("int64"))
    return build_features(rows, encode_batch, types, settings, tokenizer, is_training, num_proc)


def encode_batch(batch: dict, settings: Settings, tokenizer, is_training: bool) -> Encoded:
    size = _window_size(settings, tokenizer)
    numbers = {name: number for number, name in enumerate(settings.label_names)}
    encoded = tokenizer(batch["tokens"], is_split_into_words=True, verbose=False)
    for i, (row_id, tokens) in enumerate(zip(batch["id"], batch["tokens"], strict=True)):
        labels, words = (batch["labels"][i] or []) if "labels" in batch else None, encoded.word_ids(i)
        if labels is not None and len(labels) != len(tokens):
            if not is_training:
                yield InputError(f"it has {len(tokens)} tokens and {len(labels)} labels: as many are needed")
            else:
                yield [], ["as many labels as tokens are needed"]
            continue
        classes = _class_numbers(row_id, labels or [], numbers)
        if is_training and all(word is None for word in words):
            yield [], ["no tokens"]
            continue
        whole = {name: encoded[name][i] for name in ("input_ids", "token_type_ids") if name in encoded}
        windows = _windows(whole, words, size, settings.stride)
        for window in windows:
            window["labels"] = [
                IGNORE_INDEX if word < 0 or not classes else classes[word] for word in window["word_ids"]
            ]
        yield windows, []


def _window_size(settings: Settings, tokenizer) -> int:
    """How many of a document's pieces stand in one window."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} does not say which word a piece is of: token classification needs a fast "
            "tokenizer (tokenizer.json)"
        )
    size = settings.max_length - tokenizer.num_special_tokens_to_add()
    if settings.stride >= size:
        raise InputError(
            f"stride={settings.stride} leaves no progress: windows of max_length={settings.max_length} hold {size} "
            "pieces beside the special tokens, and must share fewer"
        )
    return size


def _class_numbers(row_id: str, labels: list[str], numbers: dict[str, int]) -> list[int]:
    for label in labels:
        if label not in numbers:
            raise InputError(f"label {label!r} of row {row_id} is not one of {', '.join(numbers)}")
    return [numbers[label] for label in labels]


def _windows(
    whole: dict[str, list[int]], words: list[int | None], size: int, stride: int
) -> list[dict[str, list[int]]]:
    """One document in windows of `size` pieces, each between the special tokens that stand around the whole."""
    # Seen in the whole document: a window may begin in the middle of a word.
    is_first = [word is not None and (i == 0 or words[i - 1] != word) for i, word in enumerate(words)]
    whole["word_ids"] = [word if begins else -1 for word, begins in zip(words, is_first, strict=True)]
    if not words:
        # The model takes no input without a token.
        return [{name: [-1 if name == "word_ids" else 0] for name in whole}]
    places = [i for i, word in enumerate(words) if word is not None]
    first, end = (places[0], places[-1] + 1) if places else (len(words), len(words))
    return [
        {name: values[:first] + values[start : min(start + size, end)] + values[end:] for name, values in whole.items()}
        for start in range(first, max(end - stride, first + 1), size - stride)
    ]


def reduce(
    outputs: torch.Tensor, inputs: dict[str, torch.Tensor], settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Logits `(batch_size, sequence_length, num_labels)` to the best classes and their probabilities in fp32, both
    `(batch_size, sequence_length)`.
    """
    best, classes = outputs.float().max(-1)
    return classes, (best - outputs.float().logsumexp(-1)).exp()


def decode(outputs: tuple, features: Dataset, rows: Dataset, settings: Settings) -> list[dict]:
    """
    The label of every word and its probability, from the window where it stands farthest from both ends, and the entities
    that the labels make. A word of which the tokenizer leaves nothing gets `O` or, where that is no label, the first one,
    with a probability of 0.

    Args:
        outputs (`tuple` of two `np.ndarray` of shape `(num_features, sequence_length)`):
            As `reduce` returns them, padded behind each window.
    """
    names = settings.label_names
    default = names.index("O") if "O" in names else 0
    all_tokens = rows["tokens"][:]
    classes = [np.full(len(tokens), default) for tokens in all_tokens]
    scores = [np.zeros(len(tokens)) for tokens in all_tokens]
    margins = [np.full(len(tokens), -1) for tokens in all_tokens]
    for best, probabilities, document, word_ids in zip(
        *outputs, features["document"], features["word_ids"], strict=True
    ):
        words = np.array(word_ids)
        places = np.flatnonzero(words >= 0)
        words, margin = words[places], np.minimum(places, len(words) - 1 - places)
        is_better = margin > margins[document][words]
        margins[document][words[is_better]] = margin[is_better]
        classes[document][words[is_better]] = best[places[is_better]]
        scores[document][words[is_better]] = probabilities[places[is_better]]
    predictions = []
    for row_id, tokens, numbers, shares in zip(rows["id"], all_tokens, classes, scores, strict=True):
        labels = [names[number] for number in numbers]
        found = _entities(tokens, labels, shares)
        predictions.append({"id": row_id, "labels": labels, "scores": shares.tolist(), "entities": found})
    return predictions


def _entities(tokens: list[str], labels: list[str], scores: np.ndarray) -> list[dict]:
    """
    The entities of labels such as `B-PER`, as the metric counts them: words `start_word` to `end_word` and, of the words
    joined by single spaces, characters `start` to `end` (both exclusive). The score is the mean of its words'.
    """
    text, ends = " ".join(tokens), np.cumsum([len(token) + 1 for token in tokens]) - 1
    found = []
    for kind, first, last in entities(labels):
        start, end = int(ends[first]) - len(tokens[first]), int(ends[last])
        words = {"start_word": first, "end_word": last + 1, "start": start, "end": end}
        found.append({"type": kind, "text": text[start:end], "score": float(scores[first : last + 1].mean()), **words})
    return found


def score(predictions: list[dict], rows: Dataset, settings: Settings) -> dict[str, float]:
    """Accuracy and, of entities where the labels are of that form, F1, precision and recall."""
    return compute(
        ["token_classification"],
        predictions=[prediction["labels"] for prediction in predictions],
        references=list(rows["labels"]),
    )
