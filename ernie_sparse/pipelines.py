# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Question answering as a pipeline of transformers, which has none of its own since version 5."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import GeneratorType

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from transformers import PreTrainedConfig
from transformers.pipelines.base import ChunkPipeline

from .conversion_families import FAMILIES
from .errors import InputError
from .finetune.answer_spans import answer, reduce
from .finetune.question_answering import check, encode_batch
from .finetune.settings import FILE_NAME, Settings
from .finetune.trainer import FeatureCollator
from .tables import check_text

# Windows of models whose config does not say how much they read, as they were in transformers 4.
DEFAULT_LENGTH = 384
# The parameters that are numbers, each with the least that is allowed.
NUMBERS = {"top_k": 1, "doc_stride": 0, "max_answer_len": 1, "max_seq_len": 1, "max_question_len": 1}
SWITCHES = ("handle_impossible_answer", "align_to_words")


class QuestionAnsweringPipeline(ChunkPipeline):
    """
    The pipeline `question-answering`: extractive answers from any `AutoModelForQuestionAnswering`, with the interface
    of transformers 4. Contexts of any length are read in windows. Make it with `pipeline("question-answering",
    model=…)` after `import ernie_sparse`.

    Defaults come from the training if `ernie-sparse finetune` wrote the model; the answers are then those of
    `ernie-sparse predict`. For other models the defaults below hold, which are our choice.

    Args:
        top_k (`int`, defaults to 1): The number of answers. No text is returned twice.
        max_seq_len (`int`, *optional*):
            Tokens per window, with question and special tokens. By default as many as the model reads.
        doc_stride (`int`, *optional*):
            Tokens of the context that two windows share. By default 128, and at most a quarter of a window.
        max_answer_len (`int`, *optional*): The most tokens of an answer. By default 30.
        max_question_len (`int`, *optional*):
            The most tokens of a question; by default half of a window, which is also the most that is allowed. A
            longer question is an error (transformers 4 cut it).
        handle_impossible_answer (`bool`, *optional*):
            Whether the answer may be "", for questions that the context does not answer. By default only if the model
            was trained with `--null-threshold`.
        align_to_words (`bool`, defaults to `False`):
            Whether answers are widened to whole words of the tokenizer. (`True` in transformers 4.)

    Raises:
        [`InputError`]: The tokenizer is not a fast one; a parameter is unknown, of a wrong type, too small or too
            large; or windows share so much that they do not move on.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    default_input_names = "question,context"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.settings = _own_settings(self.model, self.tokenizer)
        given = {name: kwargs[name] for name in (*NUMBERS, *SWITCHES) if kwargs.get(name) is not None}
        check(self.settings_with(**given), self.tokenizer)

    def __call__(self, inputs=None, *, question=None, context=None, **kwargs) -> dict | list[dict]:
        """
        Args:
            inputs (`dict`, an iterable or a generator of `dict`, *optional*):
                Examples with `question` and `context`, such as rows of SQuAD. Other keys are ignored.
            question, context (`str` or `list[str]`, *optional*):
                Instead of `inputs`: questions and their contexts. A single text goes with every text of a list.
            kwargs: The parameters above, for this call, and `batch_size`, the number of windows per forward pass.

        Returns:
            `dict` or `list[dict]`: For each example a `dict`, or with `top_k` above 1 a list of them. `answer` is the
                text, `start` and `end` (exclusive) are its characters in the context, and `score` is its probability
                among the best answers. No answer is "" from 0 to 0. Several examples give a list, and a generator gives
                an iterator.

        Raises:
            [`InputError`]: An example is empty or no text, or its question is too long.
            `ValueError`: The output of the model is not finite.
        """
        if inputs is None:
            inputs = _examples(question, context)
        elif question is not None or context is not None:
            raise InputError("examples are given, and question or context as well: only one of both is possible")
        if isinstance(inputs, GeneratorType | torch.utils.data.Dataset):
            return super().__call__(inputs, **kwargs)
        if isinstance(inputs, Mapping):
            return super().__call__(_example(inputs), **kwargs)
        if isinstance(inputs, str) or not isinstance(inputs, Iterable):
            raise InputError(f"an example is a dict of question and context: {type(inputs).__name__} is none")
        examples = [_example(example, f"example {number}: ") for number, example in enumerate(inputs)]
        return super().__call__(examples, **kwargs) if examples else []

    def settings_with(
        self, top_k=1, doc_stride=None, max_seq_len=None, max_answer_len=None, handle_impossible_answer=None, **_
    ) -> Settings:
        """The settings of the pipeline, with the given ones in place of its own."""
        own, limit = self.settings, _num_positions(self.model.config)
        if max_seq_len is not None and limit is not None and max_seq_len > limit:
            raise InputError(f"max_seq_len={max_seq_len} is more than the {limit} tokens that the model reads")
        if max_seq_len is not None and doc_stride is None:
            doc_stride = min(own.stride, max_seq_len // 4)
        threshold = own.null_threshold
        if handle_impossible_answer is not None:
            threshold = (threshold or 0.0) if handle_impossible_answer else None
        changes = {"max_length": max_seq_len, "stride": doc_stride, "max_answer_length": max_answer_len}
        changes = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(own, num_best=max(own.num_best, top_k), null_threshold=threshold, **changes)

    def _sanitize_parameters(self, **parameters):
        for name, value in parameters.items():
            if name not in (*NUMBERS, *SWITCHES):
                raise InputError(f"{name} is unknown: {', '.join((*NUMBERS, *SWITCHES))} are known")
            if name in NUMBERS and value is not None and (type(value) is not int or value < NUMBERS[name]):
                raise InputError(f"{name}={value!r}: a whole number of at least {NUMBERS[name]} is needed")
            if name in SWITCHES and not isinstance(value, bool | None):
                raise InputError(f"{name}={value!r}: True or False is needed")
        given = {name: value for name, value in parameters.items() if value is not None}
        return given, given, given

    def preprocess(self, example: Mapping, **given) -> Iterator[dict]:
        example, settings = _example(example), self.settings_with(**given)
        check(settings, self.tokenizer)
        question, context = example["question"], example["context"]
        num_tokens = len(self.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"])
        limit = min(given.get("max_question_len", math.inf), settings.max_length // 2)
        if num_tokens > limit:
            raise InputError(
                f"the question has {num_tokens} tokens, more than the {limit} that are allowed by max_question_len and, as half "
                f"of a window, by max_seq_len={settings.max_length}: shorten it, or allow more"
            )
        batch = {"id": [""], "question": [question], "context": [context]}
        ((features, _),) = encode_batch(batch, settings, self.tokenizer, is_training=False)
        edges = self._word_edges(context) if given.get("align_to_words") else None
        for number, feature in enumerate(features):
            if edges is not None:
                for name, to_edge in zip(("offset_starts", "offset_ends"), edges, strict=True):
                    feature[name] = to_edge[feature[name]]
            feature = {"attention_mask": [1] * len(feature["input_ids"])} | feature
            yield {"feature": feature, "context": context, "is_last": number == len(features) - 1}

    def _word_edges(self, context: str) -> tuple[np.ndarray, np.ndarray]:
        """For the character at which a token starts, or ends, the one at which its word does; -1 for -1."""
        encoded = self.tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        words = {}
        for word, (start, end) in zip(encoded.word_ids(), encoded["offset_mapping"], strict=True):
            words[word] = (min(words.get(word, (start, end))[0], start), end)
        starts = np.array([*range(len(context) + 1), -1])
        ends = starts.copy()
        for start, end in words.values():
            starts[start:end], ends[start + 1 : end + 1] = start, end
        return starts, ends

    def _forward(self, model_inputs: dict, **given) -> dict:
        features = model_inputs.pop("feature")
        features = features if isinstance(features, list) else [features]  # of one or several windows
        batch = FeatureCollator(self.tokenizer.pad_token_id, self.settings, self.settings.max_length)(features)
        names = [name for name in self.tokenizer.model_input_names if name in batch]
        output = self.model(**{name: batch[name].to(self.device) for name in names})
        logits = (output["start_logits"], output["end_logits"])
        scores, firsts, lasts = (part.cpu().numpy() for part in reduce(logits, batch, self.settings_with(**given)))
        for window, feature in enumerate(features):  # from tokens to characters, as `decode` does
            firsts[window] = feature["offset_starts"][firsts[window]]
            lasts[window] = feature["offset_ends"][lasts[window]]
        return {"scores": scores, "firsts": firsts, "lasts": lasts, **model_inputs}

    def postprocess(self, windows: list[dict], top_k: int = 1, **given) -> dict | list[dict]:
        settings = self.settings_with(top_k=top_k, **given)
        spans = (np.concatenate([window[name][0] for window in windows]) for name in ("scores", "firsts", "lasts"))
        found = answer(*spans, windows[0]["context"], settings)
        if not math.isfinite(found["score"]):
            raise ValueError("the model's output for the question is not finite")
        best, threshold = found["n_best"], settings.null_threshold
        answers = [_answer(one["probability"], one["start"], one["end"], one["text"]) for one in best]
        if threshold is not None or not best:
            share = 0.0 if threshold is None else max(0.0, 1.0 - sum(one["score"] for one in answers))
            place = sum(one["score"] >= threshold for one in best) if best else 0
            answers.insert(place, _answer(share, 0, 0, ""))
        return answers[:top_k] if top_k > 1 else answers[0]


def _answer(score: float, start: int, end: int, text: str) -> dict:
    return {"score": score, "start": start, "end": end, "answer": text}


def _num_positions(config: PreTrainedConfig) -> int | None:
    """Tokens that a model reads, if its config says so."""
    limit, family = getattr(config, "max_position_embeddings", None), FAMILIES.get(config.model_type)
    is_offset = limit is not None and family is not None and family.has_position_offset
    return limit - (config.pad_token_id or 0) - 1 if is_offset else limit


def _own_settings(model, tokenizer) -> Settings:
    """The settings beside a model that `ernie-sparse finetune` wrote, otherwise those that suit it."""
    config, name = model.config, model.name_or_path
    is_ours = config.model_type == "ernie_sparse"
    if is_ours and name:
        folder = Path(name)
        if not folder.is_dir():
            with suppress(EntryNotFoundError, HFValidationError, OSError):
                folder = Path(hf_hub_download(name, FILE_NAME)).parent
        if (folder / FILE_NAME).is_file():
            settings = Settings.load(folder, config, tokenizer)
            if settings.task_type == "question_answering":
                return settings
    max_length = min(tokenizer.model_max_length, _num_positions(config) or DEFAULT_LENGTH)
    choices = {"task_type": "question_answering", "columns": {}, "stride": min(128, max_length // 4)}
    if is_ours:
        return Settings.of(config, max_length, **choices)
    return Settings(max_length=max_length, block_size=1, num_global_tokens=max_length, **choices)


def _examples(question, context) -> dict | list[dict]:
    """Two texts, or lists of them, as examples."""
    lengths = {len(texts) for texts in (question, context) if isinstance(texts, list | tuple)}
    if not lengths:
        return {"question": question, "context": context}
    if len(lengths) > 1:
        raise InputError(f"{len(question)} questions and {len(context)} contexts: as many of both are needed")
    columns = [texts if isinstance(texts, list | tuple) else [texts] * max(lengths) for texts in (question, context)]
    return [{"question": one, "context": other} for one, other in zip(*columns, strict=True)]


def _example(example, where: str = "") -> dict[str, str]:
    """Question and context of an example. Raises an [`InputError`] where one is missing, empty or not text."""
    if not isinstance(example, Mapping):
        raise InputError(f"{where}an example is a dict of question and context: {type(example).__name__} is none")
    for name in ("question", "context"):
        text = example.get(name)
        if not isinstance(text, str):
            raise InputError(
                f"{where}the {name} has to be text: {'it is missing' if text is None else repr(text)[:40]}"
            )
        if not text.strip():
            raise InputError(f"{where}the {name} is empty")
        try:
            check_text(text)
        except InputError as error:
            raise InputError(f"{where}the {name} {error}") from None
    return {"question": example["question"], "context": example["context"]}
