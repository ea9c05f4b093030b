# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What transformers' Auto classes hear of when they are imported: the config, and the models by name, which are loaded when one is used."""

import importlib
import sys
from types import ModuleType

CONFIGS = "transformers.models.auto.configuration_auto"
MODELS = "transformers.models.auto.modeling_auto"
OWN_MODELS = f"{__package__}.modeling_ernie_sparse"

AUTO_CLASSES = {
    "AutoModel": "ErnieSparseModel",
    "AutoModelForMaskedLM": "ErnieSparseForMaskedLM",
    "AutoModelForMultipleChoice": "ErnieSparseForMultipleChoice",
    "AutoModelForQuestionAnswering": "ErnieSparseForQuestionAnswering",
    "AutoModelForSequenceClassification": "ErnieSparseForSequenceClassification",
    "AutoModelForTokenClassification": "ErnieSparseForTokenClassification",
}


def register_config(configs: ModuleType):
    configs.AutoConfig.register("ernie_sparse", _config_class())


def register_models(auto_classes: ModuleType):
    """Enter the models, or what stands for them until one is used."""
    models = sys.modules.get(OWN_MODELS)
    for auto_class, name in AUTO_CLASSES.items():
        # They may be half imported, and have brought these classes.
        model_class = getattr(models, name, None) or _ModelClass(name)
        getattr(auto_classes, auto_class).register(_config_class(), model_class, exist_ok=True)


def replace_models(models: ModuleType):
    """Our models have been imported."""
    if MODELS in sys.modules:
        register_models(sys.modules[MODELS])


class _ModelClass:
    """Stands for a model class in transformers' registry."""

    def __init__(self, name: str):
        self.__name__, self.config_class = name, _config_class()

    def __getattr__(self, attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(getattr(importlib.import_module(OWN_MODELS), self.__name__), attribute)


def _config_class() -> type:
    return importlib.import_module(".configuration_ernie_sparse", __package__).ErnieSparseConfig
