# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Extractive question answering: rows of question and context to windows with the answer's mentions, and the score."""

import random
import re
import unicodedata
from collections.abc import Iterable
from itertools import zip_longest

import numpy as np
from datasets import Dataset, List, Value

from ..errors import InputError
from .features import Encoded, build_features
from .metrics import compute
from .settings import Settings

# Documents are long: few of them at a time are held as Python objects.
BATCH_SIZE = 16

NO_LABEL = [(-1, -1)]
NO_ANSWER = [(0, 0)]

QUESTION_CUT = "question cut"
QUESTION_NOT_GLOBAL = "question longer than the global blocks"
EMPTY = "answer, but an empty context"
NOT_FOUND = "answer not in the context"
TOO_LONG = "answer longer than the limit"
IN_NO_WINDOW = "answer in no window as a whole"
NOT_LABELLED = "no answers given"


def encode(rows: Dataset, settings: Settings, tokenizer, is_training: bool, num_proc: int | None = None) -> Dataset:
    """
    Windows of `[CLS] question [SEP] context [SEP]`, as the tokenizer writes a pair, of `max_length` tokens; consecutive
    windows of a question share `stride` tokens of the context.

    Where the rows have `answers` or `aliases`, a window's `start_positions` and `end_positions` are the first and the
    last tokens of all mentions that it holds as a whole. They are `[0]` where it holds none, and `[-1]`, which is no
    label, in the evaluation of a question whose answer cannot be pointed at. For training, as many windows without a
    mention are drawn as there are with one, and at most two of a question that has no answer.

    Raises:
        [`InputError`]: A tokenizer without offsets, a stride that leaves no progress, or training rows without answers.
    """
    check(settings, tokenizer)
    if is_training and not _is_labelled(rows.column_names):
        raise InputError(
            f"training needs answers or aliases, the columns are {', '.join(map(repr, rows.column_names))}"
        )
    types = {}
    if _is_labelled(rows.column_names):
        types |= {"start_positions": List(Value("int32")), "end_positions": List(Value("int32"))}
    if not is_training:
        types |= {"offset_starts": List(Value("int32")), "offset_ends": List(Value("int32"))}
        types["is_context"] = List(Value("int8"))
    return build_features(rows, encode_batch, types, settings, tokenizer, is_training, num_proc, BATCH_SIZE)


def encode_batch(batch: dict, settings: Settings, tokenizer, is_training: bool) -> Encoded:
    """The windows of every row of a batch, as arrays by name, and notes: what [`encode`] puts into a table."""
    contexts = [context or "" for context in batch["context"]]
    encoded = tokenizer(
        [question or "" for question in batch["question"]],
        contexts,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    for i, row_id in enumerate(batch["id"]):
        sequence = np.array([-1 if side is None else side for side in encoded.sequence_ids(i)], dtype=np.int64)
        names = [name for name in ("input_ids", "token_type_ids", "offset_mapping") if name in encoded]
        # Even where there are no tokens.
        tokens = {name: np.array(encoded[name][i], dtype=np.int64) for name in names}
        offsets = np.where(sequence[:, None] == 1, tokens.pop("offset_mapping").reshape(-1, 2), -1)
        tokens |= {
            "offset_starts": offsets[:, 0],
            "offset_ends": offsets[:, 1],
            "is_context": (sequence == 1).astype(np.int8),
        }
        windows, notes = _windows(sequence, settings)
        features = [{name: column[window] for name, column in tokens.items()} for window in windows]
        if _is_labelled(batch):
            answers, aliases = (batch[name][i] if name in batch else None for name in ("answers", "aliases"))
            targets, problem = _targets(answers, aliases, contexts[i], tokens, windows, settings.max_answer_length)
            notes += [problem] if problem else []
            for feature, mentions in zip(features, targets, strict=True):
                feature["start_positions"], feature["end_positions"] = zip(*mentions, strict=True)
            if is_training:
                features = [features[number] for number in _draw(targets, row_id)]
        yield features, notes


def score(predictions: list[dict], rows: Dataset, settings: Settings) -> dict[str, float]:
    """Exact match and F1, in percent: TriviaQA's where the rows have `aliases`, otherwise SQuAD's."""
    given = [[None] * len(rows) if name not in rows.column_names else rows[name] for name in ("answers", "aliases")]
    references = [_accepted(answers, aliases) for answers, aliases in zip(*given, strict=True)]
    name = "trivia_qa" if "aliases" in rows.column_names else "squad"
    return compute([name], [prediction["answer"] for prediction in predictions], references)


def check(settings: Settings, tokenizer):
    """Raise an [`InputError`] for a tokenizer without offsets and for a stride that leaves no progress."""
    if not tokenizer.is_fast:
        raise InputError(
            f"question answering needs a fast tokenizer (tokenizer.json), which knows the characters of every token: "
            f"{type(tokenizer).__name__} does not"
        )
    # A question takes at most half of a window.
    room = settings.max_length - settings.max_length // 2 - tokenizer.num_special_tokens_to_add(pair=True)
    if not 0 <= settings.stride < room:
        raise InputError(
            f"a stride of {settings.stride} tokens makes no progress in windows of {settings.max_length}: beside the "
            f"longest question {max(room, 0)} tokens of the context fit, and the stride has to be smaller"
        )


def _is_labelled(names: Iterable[str]) -> bool:
    return "answers" in names or "aliases" in names


def _windows(sequence: np.ndarray, settings: Settings) -> tuple[list[np.ndarray], list[str]]:
    """
    Args:
        sequence (`np.ndarray` of shape `(num_tokens,)`): 0 for the question's tokens, 1 for the context's, -1 otherwise.

    Returns:
        `tuple[list[np.ndarray], list[str]]`: The tokens of every window, by their numbers in the whole, and notes.
    """
    question, context = np.flatnonzero(sequence == 0), np.flatnonzero(sequence == 1)
    cut = question[settings.max_length // 2 :]
    kept = np.setdiff1d(np.flatnonzero(sequence != 1), cut)
    before = kept[kept < context[0]] if len(context) else kept
    after = kept[len(before) :]
    messages = [QUESTION_CUT] if len(cut) else []
    if len(before) > settings.num_global_tokens:
        messages.append(QUESTION_NOT_GLOBAL)
    width = settings.max_length - len(kept)
    firsts = range(0, max(len(context) - settings.stride, 1), width - settings.stride)
    return [np.concatenate([before, context[first : first + width], after]) for first in firsts], messages


def _targets(
    answers: dict | None,
    aliases: list[str] | None,
    context: str,
    tokens: dict[str, np.ndarray],
    windows: list[np.ndarray],
    max_answer_length: int,
) -> tuple[list[list[tuple[int, int]]], str | None]:
    """The mentions in every window, as first and last token in it, and why the question cannot be trained on."""
    if answers is None and aliases is None:
        return [NO_LABEL] * len(windows), NOT_LABELLED
    if not _accepted(answers, aliases):
        return [NO_ANSWER] * len(windows), None
    if not context.strip():
        return [NO_LABEL] * len(windows), EMPTY
    spans = _spans_to_tokens(_find_spans(answers, aliases, context), tokens)
    mentions = [(first, last) for first, last in spans if last - first < max_answer_length]
    targets = [_inside(mentions, window) for window in windows]
    if any(target != NO_ANSWER for target in targets):
        return targets, None
    return [NO_LABEL] * len(windows), NOT_FOUND if not spans else TOO_LONG if not mentions else IN_NO_WINDOW


def _inside(mentions: list[tuple[int, int]], window: np.ndarray) -> list[tuple[int, int]]:
    tokens = np.array(mentions, dtype=np.int64).reshape(-1, 2)
    places = np.searchsorted(window, tokens).clip(max=len(window) - 1)
    # The context's tokens of a window are consecutive: with both ends of a mention it holds what is between them.
    held = [(first, last) for first, last in places[(window[places] == tokens).all(1)].tolist()]
    return held or NO_ANSWER


def _draw(targets: list[list[tuple[int, int]]], seed: str) -> list[int]:
    """The windows to train on: those with a mention and as many without, or at most two where there is no answer."""
    if NO_LABEL in targets:
        return []
    having = [number for number, target in enumerate(targets) if target != NO_ANSWER]
    others = [number for number, target in enumerate(targets) if target == NO_ANSWER]
    count = min(len(having) or 2, len(others))
    return sorted(having + random.Random(seed).sample(others, count))


def _accepted(answers: dict | None, aliases: list[str] | None) -> list[str]:
    texts = [*(aliases or []), *((answers or {}).get("text") or [])]
    return [text for text in texts if text and text.strip()]


def _find_spans(answers: dict | None, aliases: list[str] | None, context: str) -> set[tuple[int, int]]:
    """First character and the one after the last of the given answers, and of all occurrences where there are aliases."""
    texts, starts = ((answers or {}).get(name) or [] for name in ("text", "answer_start"))
    given = (_given_span(text, start, context) for text, start in zip_longest(texts, starts[: len(texts)]))
    spans = {span for span in given if span is not None}
    return spans | _occurrences(_accepted(answers, aliases), context) if _accepted(None, aliases) else spans


def _given_span(text: str | None, start: int | None, context: str) -> tuple[int, int] | None:
    """The answer at `start`; where it is not there, the nearest such text, preferably between word boundaries."""
    if not text or not text.strip():
        return None
    start = -1 if start is None else start
    if start >= 0 and context.startswith(text, start):
        return start, start + len(text)
    text = text.strip()
    spans = [match.span() for match in re.finditer(re.escape(text), context)]
    return min(spans, key=lambda span: (not _is_between_words(context, *span), abs(span[0] - start)), default=None)


def _occurrences(texts: list[str], context: str) -> set[tuple[int, int]]:
    """Wherever one of `texts` stands between word boundaries, in whatever case."""
    folded = context.casefold()
    places = np.arange(len(context) + 1)
    if len(folded) != len(context):  # some characters become several: where in `folded` every character begins
        places = np.cumsum([0, *(len(character.casefold()) for character in context)])
    spans = set()
    for text in {text.strip().casefold() for text in texts}:
        found = [folded.find(text)]
        while found[-1] >= 0:
            found.append(folded.find(text, found[-1] + 1))
        edges = np.array(found[:-1], dtype=np.int64)[:, None] + [0, len(text)]
        characters = np.searchsorted(places, edges)
        # An edge may lie within the several characters that one has become.
        is_whole = (places[characters] == edges).all(1)
        spans.update((start, end) for start, end in characters[is_whole].tolist())
    return {span for span in spans if _is_between_words(context, *span)}


def _is_between_words(context: str, start: int, end: int) -> bool:
    return not any(0 < edge < len(context) and _is_in_word(context[edge - 1 : edge + 1]) for edge in (start, end))


def _is_in_word(characters: str) -> bool:
    """Whether all are letters, marks or digits; a vowel sign is a mark."""
    return all(unicodedata.category(character)[0] in "LMN" for character in characters)


def _spans_to_tokens(spans: set[tuple[int, int]], tokens: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    """First and last token of the context that share a character with each span, sorted, the same one once."""
    context = np.flatnonzero(tokens["is_context"])
    starts, ends = tokens["offset_starts"][context], tokens["offset_ends"][context]
    edges = np.array(list(spans), dtype=np.int64).reshape(-1, 2)
    firsts = np.searchsorted(ends, edges[:, 0], side="right")
    lasts = np.searchsorted(starts, edges[:, 1], side="left") - 1
    found = np.stack([firsts, lasts], axis=1)[firsts <= lasts]
    return sorted({(first, last) for first, last in context[found].tolist()})
