# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
ERNIE-Sparse for Hugging Face Transformers: a long-document encoder with hierarchical sparse attention.

Importing the package registers its classes, so that `AutoConfig`, `AutoModel` and `AutoModelFor…` know `ernie_sparse`,
`pipeline` the task "question-answering", and peft what to adapt. Models, pipelines and the trainer are loaded when they are first
used: the import alone takes no longer than that of the Auto classes.
"""

import importlib
from typing import TYPE_CHECKING

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from . import peft_targets, pipeline_tasks
from .configuration_ernie_sparse import ErnieSparseConfig
from .late_imports import when_imported
from .sparse_pattern import SparsePattern

if TYPE_CHECKING:
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
    from .pipelines import QuestionAnsweringPipeline
    from .trainer import SaorArguments, SaorTrainer

__version__ = "0.1.0"

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
    "QuestionAnsweringPipeline",
    "SaorArguments",
    "SaorTrainer",
    "SparsePattern",
]

_AUTO_CLASSES = {
    "ErnieSparseModel": AutoModel,
    "ErnieSparseForMaskedLM": AutoModelForMaskedLM,
    "ErnieSparseForMultipleChoice": AutoModelForMultipleChoice,
    "ErnieSparseForQuestionAnswering": AutoModelForQuestionAnswering,
    "ErnieSparseForSequenceClassification": AutoModelForSequenceClassification,
    "ErnieSparseForTokenClassification": AutoModelForTokenClassification,
}


class _ModelClass:
    """Stands for a model class in transformers' registry until one of them is used."""

    config_class = ErnieSparseConfig

    def __init__(self, name: str):
        self.__name__ = name

    def __getattr__(self, attribute: str):
        return getattr(__getattr__(self.__name__), attribute)


AutoConfig.register("ernie_sparse", ErnieSparseConfig)
for _name, _auto_class in _AUTO_CLASSES.items():
    _auto_class.register(ErnieSparseConfig, _ModelClass(_name))
when_imported(pipeline_tasks.PIPELINES, pipeline_tasks.register)
when_imported(peft_targets.TABLES, peft_targets.register)


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.startswith("Saor"):
        return getattr(importlib.import_module(".trainer", __name__), name)
    if name == "QuestionAnsweringPipeline":
        return getattr(importlib.import_module(".pipelines", __name__), name)
    modeling = importlib.import_module(".modeling_ernie_sparse", __name__)
    for model_name, auto_class in _AUTO_CLASSES.items():
        auto_class.register(ErnieSparseConfig, getattr(modeling, model_name), exist_ok=True)
    return getattr(modeling, name)
