# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Batches of symbols, masked or with labels, and masked modelling of a task's own documents."""

import json
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainingArguments,
)
from transformers.trainer_utils import EvalPrediction

from ernie_sparse.errors import input_errors
from ernie_sparse.pretraining.masking import MaskAnew, Masking, MaskingCollator
from ernie_sparse.results import environments, write_json
from ernie_sparse.run import Run
from ernie_sparse.trainer import SaorArguments, SaorTrainer
from ernie_sparse.training_checkpoints import last_checkpoint

from .models import LraModel
from .tasks import MASK_TOKEN_ID, NUM_SPECIAL_TOKENS, PAD_TOKEN_ID, LraTask

# Lengths of batches are multiples of a block, where padding costs nothing that the block does not cost anyway.
MULTIPLE = 64
# What is left of a self-pretraining that came to its end, in its folder.
FACTS = "facts.json"


def token_ids(document: bytes) -> np.ndarray:
    """The ids of a document's symbols."""
    return np.frombuffer(document, dtype=np.uint8).astype(np.int64) + NUM_SPECIAL_TOKENS


def symbol_tokenizer(task: LraTask) -> PreTrainedTokenizerFast:
    """The vocabulary of a task in the form that transformers' masking wants."""
    vocabulary = {"[PAD]": PAD_TOKEN_ID, "[MASK]": MASK_TOKEN_ID}
    vocabulary |= {str(code): code + NUM_SPECIAL_TOKENS for code in range(task.num_symbols)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="[PAD]")), pad_token="[PAD]", mask_token="[MASK]"
    )


class DocumentCollator:
    """
    Rows with labels to a batch of shape `(batch_size, num_documents, sequence_length)`.

    Args:
        task ([`LraTask`])
        min_length (`int`): The shortest batch.
    """

    def __init__(self, task: LraTask, min_length: int = 1):
        self.limit = task.max_length
        self.min_length = min_length

    def pad(self, sequences: list, filler: int) -> torch.Tensor:
        """Sequences as one tensor, the shorter ones filled up."""
        length = max(self.min_length, *map(len, sequences))
        length = max(length, min(-(-length // MULTIPLE) * MULTIPLE, self.limit))
        padded = np.full((len(sequences), length), filler, dtype=np.int64)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: len(sequence)] = sequence
        return torch.from_numpy(padded)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        documents = [token_ids(document) for row in rows for document in row["documents"]]
        input_ids = self.pad(documents, PAD_TOKEN_ID).view(len(rows), len(rows[0]["documents"]), -1)
        return {
            "input_ids": input_ids,
            "attention_mask": (input_ids != PAD_TOKEN_ID).long(),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }


class MaskedDocumentCollator(DocumentCollator):
    """
    The documents of rows, each masked on its own, as a function of `(seed, epoch, row)`.

    Args:
        task, min_length: As for [`DocumentCollator`].
        seed (`int`): Of the masks.
    """

    def __init__(self, task: LraTask, min_length: int, seed: int):
        super().__init__(task, min_length)
        self.masking = MaskingCollator(Masking(symbol_tokenizer(task), task.mlm_probability, seed=seed))

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        masked = []
        for row in rows:
            for number, document in enumerate(row["documents"]):
                named = {"input_ids": token_ids(document), "row": f"{row['row']}/{number}"}
                masked.append(self.masking.masking(named, self.masking.epoch))
        input_ids = self.pad([row["input_ids"] for row in masked], PAD_TOKEN_ID)
        return {
            "input_ids": input_ids,
            # A masked symbol may have been replaced by that of padding.
            "attention_mask": self.pad([[1] * len(row["input_ids"]) for row in masked], 0),
            "labels": self.pad([row["labels"] for row in masked], -100),
        }


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of rows whose highest logit is that of their label."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def has_begun(folder: Path) -> bool:
    """Whether a self-pretraining has left anything to take up in its folder."""
    return (folder / FACTS).is_file() or last_checkpoint(folder) is not None


def self_pretrained(
    config: PreTrainedConfig,
    task: LraTask,
    model: LraModel,
    train_set: Dataset,
    training: TrainingArguments,
    run: Run,
) -> tuple[PreTrainedModel, dict]:
    """
    A model for masked modelling, trained on the training set's documents, with SAOR where it has HST; and the facts of that
    training, which is a part of `run`. What was left in its own output folder earlier, done or half done, is taken up.
    """
    folder = Path(training.output_dir)
    facts = folder / FACTS
    if not facts.is_file():
        collator = MaskedDocumentCollator(task, model.min_length, training.seed)
        masked_lm = AutoModelForMaskedLM.from_config(config)
        with input_errors():
            trainer = SaorTrainer(
                model=masked_lm,
                args=training,
                saor=SaorArguments(
                    saor_alpha=1.0 if getattr(config, "hierarchical", False) else 0.0, saor_seed=training.seed
                ),
                train_dataset=train_set.add_column("row", np.arange(len(train_set))),
                data_collator=collator,
                callbacks=[MaskAnew(collator.masking)],
            )
        run.train(trainer, last_checkpoint(folder))
        trainer.save_model()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        content = {
            "steps": trainer.state.global_step,
            "learning_rate": training.learning_rate,
            "mlm_probability": task.mlm_probability,
            "saor_alpha": trainer.saor.saor_alpha,
            "last_loss": losses[-1] if losses else None,
            "environments": environments(trainer.state.log_history),
        }
        if trainer.is_world_process_zero():
            write_json(facts, content)
        trainer.accelerator.wait_for_everyone()
    return AutoModelForMaskedLM.from_pretrained(folder), json.loads(facts.read_text())
