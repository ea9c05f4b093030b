# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Logits of starts and ends to answers: the best spans of every window, and of every question over its windows."""

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import pad

from .settings import Settings

NO_SPAN = torch.finfo(torch.float32).min


def best_spans(
    start_logits: Tensor, end_logits: Tensor, is_context: Tensor, max_answer_length: int, num_best: int
) -> tuple[Tensor, Tensor, Tensor]:
    """
    The spans of the context of at most `max_answer_length` tokens whose start and end logits have the largest sums.

    Args:
        start_logits, end_logits (`torch.Tensor` of shape `(batch_size, sequence_length)`): One per token.
        is_context (`torch.BoolTensor` of shape `(batch_size, sequence_length)`): Where spans may start and end.

    Returns:
        `tuple[Tensor, Tensor, Tensor]`: Scores in fp32, starts and ends (inclusive) of shape `(batch_size, num_best)`,
        best first; where there are fewer spans the score is the smallest fp32 number and the span is 0 to 0.
    """
    batch_size, size = start_logits.shape
    length = min(max_answer_length, size)
    # band[b, i, j] is the span from i to i + j.
    ends = pad(end_logits.float(), (0, length - 1)).unfold(1, length, 1)
    is_span = is_context.unsqueeze(-1) & pad(is_context, (0, length - 1)).unfold(1, length, 1)
    band = (start_logits.float().unsqueeze(-1) + ends).masked_fill(~is_span, NO_SPAN)
    scores, places = band.view(batch_size, -1).topk(min(num_best, size * length), dim=1)
    starts = (places // length).masked_fill(scores == NO_SPAN, 0)
    ends = (places // length + places % length).masked_fill(scores == NO_SPAN, 0)
    missing = (0, num_best - scores.shape[1])
    return pad(scores, missing, value=NO_SPAN), pad(starts, missing), pad(ends, missing)


def reduce(outputs: tuple[Tensor, Tensor], inputs: dict[str, Tensor], settings: Settings) -> tuple[Tensor, ...]:
    """
    The best spans of every window. Their scores are above that of "no answer", the first token's: this makes the
    windows of a question comparable.
    """
    start_logits, end_logits = outputs
    is_context = inputs["is_context"].to(start_logits.device).bool()
    scores, starts, ends = best_spans(
        start_logits, end_logits, is_context, settings.max_answer_length, settings.num_best
    )
    null = start_logits[:, :1].float() + end_logits[:, :1].float()
    # Where there is no span the score stays what it is: what is subtracted is far below its last digit.
    return scores - null, starts, ends


def decode(outputs: tuple, features: Dataset, rows: Dataset, settings: Settings) -> list[dict]:
    """
    One `{"id", "answer", "score", "probability", "start", "end", "n_best"}` per row: the best of the spans of all its
    windows, and the characters of the context at which it starts and ends, `None` where the answer is "". The score stays
    that of the best span where the answer is "" because of `null_threshold`, and is 0 where there is no span. In `n_best`
    each text stands once, where it scores best; probabilities are shares among these texts and, where there is a
    `null_threshold`, no answer.

    Args:
        outputs (`tuple` of three `np.ndarray` of shape `(num_features, num_best)`): As `reduce` returns them.
    """
    scores, starts, ends = (np.asarray(part) for part in outputs)
    first_characters, last_characters = np.zeros_like(starts), np.zeros_like(ends)
    for i, offsets in enumerate(features.select_columns(["offset_starts", "offset_ends"]).with_format("numpy")):
        first_characters[i] = offsets["offset_starts"][starts[i]]
        last_characters[i] = offsets["offset_ends"][ends[i]]
    documents = np.array(features["document"][:])
    order = np.argsort(documents, kind="stable")
    edges = np.searchsorted(documents[order], np.arange(len(rows) + 1))
    predictions = []
    for number, row in enumerate(rows.select_columns(["id", "context"])):
        windows = order[edges[number] : edges[number + 1]]
        parts = (part[windows].ravel() for part in (scores, first_characters, last_characters))
        predictions.append({"id": row["id"], **answer(*parts, row["context"] or "", settings)})
    return predictions


def answer(scores: np.ndarray, firsts: np.ndarray, lasts: np.ndarray, context: str, settings: Settings) -> dict:
    """
    What [`decode`] says of one question, without its id.

    Args:
        scores, firsts, lasts (`np.ndarray` of shape `(num_spans,)`):
            The best spans of all windows of the question: what they score above no answer, and the characters of the context
            at which they start and, exclusive, end.
    """
    return _prediction(_best_of_windows(scores, firsts, lasts, context, settings.num_best), settings.null_threshold)


def predictions_as_json(predictions: list[dict]) -> dict[str, str]:
    """The answers by id, as the evaluation scripts of SQuAD and TriviaQA read them."""
    return {prediction["id"]: prediction["answer"] for prediction in predictions}


def _best_of_windows(scores, firsts, lasts, context: str, num_best: int) -> list[dict]:
    """The best spans, each text once; what is blank would read as no answer."""
    best, seen = [], set()
    # What is no number is first, so that it is seen.
    for i in np.argsort(-np.nan_to_num(scores, nan=np.inf), kind="stable").tolist():
        if scores[i] <= NO_SPAN or len(best) == num_best:
            break
        whole = context[firsts[i] : lasts[i]]
        text = whole.strip()  # some tokens begin with the space before the word
        start = int(firsts[i]) + len(whole) - len(whole.lstrip())
        if text and text not in seen:
            seen.add(text)
            best.append({"text": text, "score": float(scores[i]), "start": start, "end": start + len(text)})
    return best


def _prediction(best: list[dict], null_threshold: float | None) -> dict:
    scores = np.array([*(span["score"] for span in best), -np.inf if null_threshold is None else 0.0])
    # So that nothing at all has weight 0 where there is neither a span nor a threshold.
    weights = np.exp(scores - max(scores.max(), NO_SPAN))
    *shares, null_share = (weights / max(weights.sum(), 1.0)).tolist()
    n_best = [
        {"text": span["text"], "score": span["score"], "probability": share, "start": span["start"], "end": span["end"]}
        for span, share in zip(best, shares, strict=True)
    ]
    if not best or (null_threshold is not None and best[0]["score"] < null_threshold):
        chosen = {"score": best[0]["score"] if best else 0.0, "probability": null_share, "start": None, "end": None}
        return {"answer": "", **chosen, "n_best": n_best}
    return {"answer": best[0]["text"], **{name: n_best[0][name] for name in list(n_best[0])[1:]}, "n_best": n_best}
