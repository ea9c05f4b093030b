# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The two pipelines of transformers that cut a long text at the tokenizer's `model_max_length` without a word, such that they do
not: a longer text raises an [`InputError`] unless `truncation=True` asks for it to be cut.
"""

from collections.abc import Iterator

from transformers import TokenClassificationPipeline, ZeroShotClassificationPipeline

from .errors import InputError


class _Uncut:
    def _sanitize_parameters(self, truncation: bool | None = None, **parameters):
        preprocess, forward, postprocess = super()._sanitize_parameters(**parameters)
        return preprocess if truncation is None else {**preprocess, "truncation": truncation}, forward, postprocess

    def refuse_cut(self, num_read: int, remedy: str, *texts, **how):
        """Raise an [`InputError`] if the `num_read` tokens that are read are only a part of `texts`."""
        limit = self.tokenizer.model_max_length
        if num_read >= limit:
            num_tokens = len(self.tokenizer(*texts, truncation=False, verbose=False, **how)["input_ids"])
            if num_tokens > limit:
                raise InputError(
                    f"the input has {num_tokens} tokens, more than the tokenizer's model_max_length={limit}: {remedy}, or "
                    "have it cut by truncation=True"
                )


class UncutTokenClassificationPipeline(_Uncut, TokenClassificationPipeline):
    """
    Args:
        stride (`int`, *optional*): Read longer texts in windows of `model_max_length` that share so many tokens.
        truncation (`bool`, *optional*): Whether to read the beginning of a longer text alone.
    """

    def preprocess(self, sentence, offset_mapping=None, truncation=False, **parameters) -> Iterator[dict]:
        is_in_windows = "tokenizer_params" in parameters
        how = {"is_split_into_words": parameters["is_split_into_words"]}
        for window in super().preprocess(sentence, offset_mapping, **parameters):
            if not truncation and not is_in_windows:
                self.refuse_cut(window["input_ids"].shape[1], "read it in windows by stride", sentence, **how)
            yield window


class UncutZeroShotClassificationPipeline(_Uncut, ZeroShotClassificationPipeline):
    """
    Args:
        truncation (`bool`, *optional*): Whether to read the beginning of a longer text alone.
    """

    def preprocess(
        self, inputs, candidate_labels=None, hypothesis_template="This example is {}.", truncation=False
    ) -> Iterator[dict]:
        for pair in super().preprocess(inputs, candidate_labels, hypothesis_template):
            if not truncation:
                texts = (pair["sequence"], hypothesis_template.format(pair["candidate_label"]))
                self.refuse_cut(pair["input_ids"].shape[1], "shorten it", *texts)
            yield pair
