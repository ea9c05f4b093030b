# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
ERNIE-Sparse for Hugging Face Transformers: a long-document encoder with hierarchical sparse attention.

Importing the package registers its classes, so that `AutoConfig`, `AutoModel` and `AutoModelFor…` know `ernie_sparse`.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_ernie_sparse import ErnieSparseConfig
from .modeling_ernie_sparse import (
    ErnieSparseForCandidateChoice,
    ErnieSparseForMaskedLM,
    ErnieSparseForMultipleChoice,
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    ErnieSparseModel,
    ErnieSparsePreTrainedModel,
)
from .sparse_pattern import SparsePattern

__version__ = "0.1.0"

AutoConfig.register("ernie_sparse", ErnieSparseConfig)
AutoModel.register(ErnieSparseConfig, ErnieSparseModel)
AutoModelForMaskedLM.register(ErnieSparseConfig, ErnieSparseForMaskedLM)
AutoModelForMultipleChoice.register(ErnieSparseConfig, ErnieSparseForMultipleChoice)
AutoModelForQuestionAnswering.register(ErnieSparseConfig, ErnieSparseForQuestionAnswering)
AutoModelForSequenceClassification.register(ErnieSparseConfig, ErnieSparseForSequenceClassification)
AutoModelForTokenClassification.register(ErnieSparseConfig, ErnieSparseForTokenClassification)


def __getattr__(name: str):
    # Trainer and all it brings are imported by those who train.
    if name in ("SaorArguments", "SaorTrainer"):
        from . import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ErnieSparseConfig",
    "ErnieSparseForCandidateChoice",
    "ErnieSparseForMaskedLM",
    "ErnieSparseForMultipleChoice",
    "ErnieSparseForQuestionAnswering",
    "ErnieSparseForSequenceClassification",
    "ErnieSparseForTokenClassification",
    "ErnieSparseModel",
    "ErnieSparsePreTrainedModel",
    "SaorArguments",
    "SaorTrainer",
    "SparsePattern",
]
