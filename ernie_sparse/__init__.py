# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
ERNIE-Sparse for Hugging Face Transformers: a long-document encoder with hierarchical sparse attention.

Importing the package registers its classes, so that `AutoConfig`, `AutoModel` and `AutoModelFor…` know `ernie_sparse`,
`pipeline` the task "question-answering", and peft what to adapt: each as soon as somebody imports it. The import alone loads
neither torch nor transformers.
"""

import importlib
from typing import TYPE_CHECKING

from . import auto_classes, peft_targets, pipeline_tasks
from .late_imports import when_imported

if TYPE_CHECKING:
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
    from .pipelines import QuestionAnsweringPipeline
    from .sparse_pattern import SparsePattern
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

_MODULES = {
    "ErnieSparseConfig": "configuration_ernie_sparse",
    "QuestionAnsweringPipeline": "pipelines",
    "SaorArguments": "trainer",
    "SaorTrainer": "trainer",
    "SparsePattern": "sparse_pattern",
}

when_imported(auto_classes.CONFIGS, auto_classes.register_config)
when_imported(auto_classes.MODELS, auto_classes.register_models)
when_imported(auto_classes.OWN_MODELS, auto_classes.replace_models)
when_imported(pipeline_tasks.PIPELINES, pipeline_tasks.register)
when_imported(peft_targets.TABLES, peft_targets.register)


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_MODULES.get(name, 'modeling_ernie_sparse')}", __name__)
    return getattr(module, name)
