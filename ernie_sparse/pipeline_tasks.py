# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
What transformers' `pipeline` is told of our pipelines, and when.

Importing `transformers.pipelines` takes as long as importing `ernie_sparse`, so it is told when somebody else imports it, and
the classes are loaded when one of them is used.
"""

import importlib
from types import ModuleType

PIPELINES = "transformers.pipelines"
QUESTION_ANSWERING = "question-answering"
# What transformers' own pipelines truncate unasked, ours for models of our type do not.
UNCUT = {
    "token-classification": "UncutTokenClassificationPipeline",
    "zero-shot-classification": "UncutZeroShotClassificationPipeline",
}


class _PipelineClass:
    """
    Stands for a class of pipelines in transformers' registry.

    Args:
        module, name (`str`): Of the class.
        other (`type` or `str`, *optional*): The class for models of another type than ours, or its path.
    """

    def __init__(self, module: str, name: str, other: type | str | None = None):
        self.module, self.__name__, self.other = module, name, other

    def __getattr__(self, attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self._load(is_ours=self.other is None), attribute)

    def __call__(self, *, model, **kwargs):
        is_ours = self.other is None or model.config.model_type == "ernie_sparse"
        return self._load(is_ours)(model=model, **kwargs)

    def _load(self, is_ours: bool) -> type:
        if is_ours:
            return getattr(importlib.import_module(self.module, __package__), self.__name__)
        if isinstance(self.other, str):
            module, _, name = self.other.rpartition(".")
            return getattr(importlib.import_module(module), name)
        return self.other


def register(pipelines: ModuleType):
    """
    Enter our pipelines into the registry of `transformers.pipelines`. "question-answering", which transformers 5 removed, is
    left alone if a later version has it again, and so is a task that it has no more.
    """
    registry = pipelines.PIPELINE_REGISTRY
    for task in UNCUT.keys() & registry.supported_tasks.keys():
        entry = registry.supported_tasks[task]
        # Not by `register_pipeline`, which warns of what it overwrites: for other models nothing changes.
        registry.supported_tasks[task] = {
            **entry,
            "impl": _PipelineClass(".uncut_pipelines", UNCUT[task], entry["impl"]),
        }
    if QUESTION_ANSWERING not in registry.supported_tasks:
        # `pipeline` looks here first, and would not see what is registered.
        getattr(pipelines, "REMOVED_TASKS", {}).pop(QUESTION_ANSWERING, None)
        # Not at the top: our import alone loads nothing.
        from transformers import AutoModelForQuestionAnswering

        registry.register_pipeline(
            QUESTION_ANSWERING,
            pipeline_class=_PipelineClass(".pipelines", "QuestionAnsweringPipeline"),
            pt_model=AutoModelForQuestionAnswering,
            default={"model": ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")},
            type="text",
        )
