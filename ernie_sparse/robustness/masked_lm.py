# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Masked language models, on text: the masks are drawn once, by the seed."""

from collections.abc import Mapping

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..checkpoints import load_model
from ..configuration_ernie_sparse import ErnieSparseConfig
from ..errors import InputError
from ..modeling_ernie_sparse import ErnieSparseForMaskedLM
from ..pretraining.corpus import Corpus, parts_of_files
from ..pretraining.documents import Reading
from ..pretraining.masking import Masking, MaskingCollator, mask_once
from ..pretraining.packing import Packer
from ..pretraining.rows import written_rows
from ..saor import IGNORE_INDEX, categorical_divergence
from ..tables import longest_first, subset
from .arguments import RobustnessArguments
from .subject import Subject

KIND = "masked_lm"


def load_subject(
    args: RobustnessArguments, config: ErnieSparseConfig, tokenizer, files: list[str] | None, model=None, is_test=False
) -> Subject:
    """The model and the rows of text it reads, masked; arguments as of `finetuned.load_subject`."""
    if files is None:
        raise InputError(f"--task {args.task}: {args.model} is a masked language model, which reads --validation-file")
    if args.unlabelled or args.metric not in (None, "accuracy"):
        flag = "--unlabelled" if args.unlabelled else f"--metric {args.metric}"
        raise InputError(f"{flag}: a masked language model predicts the text itself, and is scored by accuracy")
    limit = min(tokenizer.model_max_length, config.max_position_embeddings)
    max_length = args.max_length or limit
    if max_length > config.max_position_embeddings:
        raise InputError(
            f"--max-length {max_length} is more than max_position_embeddings={config.max_position_embeddings}"
        )
    masking = Masking(tokenizer, args.mlm_probability, seed=args.seed)
    reading = Reading.for_rows_of(max_length, args.text_column or "text", args.sample_by)
    packed, _ = written_rows(Corpus(parts_of_files(files), reading), Packer(tokenizer, max_length, "concatenate"))
    packed = packed if is_test else subset(packed, args.max_documents, args.seed)
    rows = mask_once(packed, masking)
    counts = [sum(label != IGNORE_INDEX for label in labels) for labels in rows["labels"]]
    if not sum(counts):
        raise InputError(f"{', '.join(files)}: there is too little text to mask any of it")
    rows = rows.add_column("length", [len(ids) for ids in rows["input_ids"]])
    rows = rows.add_column("number", np.arange(len(rows)))
    model = load_model(ErnieSparseForMaskedLM, args.model, config) if model is None else model
    settings = {"max_length": max_length, "mlm_probability": args.mlm_probability, "sample_by": args.sample_by}
    return subject_of(model.eval(), tokenizer, rows, np.array(counts), args, settings)


def subject_of(model, tokenizer, rows, counts: np.ndarray, args: RobustnessArguments, settings: dict) -> Subject:
    features = longest_first(rows)
    pad = MaskingCollator(Masking(tokenizer))
    expected = [[label for label in labels if label != IGNORE_INDEX] for labels in rows["labels"]]

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        return pad([{name: row[name] for name in ("input_ids", "labels")} for row in batch])

    def forward(inputs: Mapping[str, torch.Tensor], pattern) -> dict[str, torch.Tensor]:
        states = model.base_model(inputs["input_ids"], inputs["attention_mask"], pattern=pattern).last_hidden_state
        # Of all tokens, logits would be by far the widest tensor.
        return {"logits": model.cls(states[inputs["labels"] != IGNORE_INDEX])}

    def read(calls) -> list:
        answers = []
        for inputs in DataLoader(features, args.batch_size, collate_fn=collate):
            inputs = {name: value.to(model.device) for name, value in inputs.items()}
            chosen = calls(**inputs)["logits"].argmax(-1)
            answers += chosen.split((inputs["labels"] != IGNORE_INDEX).sum(1).tolist())
        # In the order of the rows.
        return [answers[place].tolist() for place in np.argsort(features["number"])]

    def score(answers, numbers, only: str = "accuracy") -> dict[str, float]:
        right = sum(
            one == other
            for row, i in zip(answers, numbers, strict=True)
            for one, other in zip(row, expected[i], strict=True)
        )
        return {only: right / max(1, int(counts[numbers].sum()))}

    def flips(answers, others) -> float:
        return float(np.mean(np.concatenate(answers) != np.concatenate(others)))

    return Subject(
        kind=KIND,
        model=model,
        rows=rows,
        features=features,
        collate=collate,
        batch_size=args.batch_size,
        forward=forward,
        divergence=lambda inputs, output, other: categorical_divergence(output["logits"], other["logits"]),
        read=read,
        flips=flips,
        score=score,
        metric="accuracy",
        points=100.0,
        weights=lambda metric: counts.astype(float),
        settings=settings,
    )
