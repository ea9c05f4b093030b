# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""SaorTrainer for rows of any task type: padding to blocks, class weights, outputs reduced where they are made."""

from dataclasses import dataclass

import torch

from ..errors import InputError
from ..trainer import SaorTrainer, check_label_smoothing
from .settings import Settings
from .task_types import TASK_TYPES

# What a feature's places beyond its own length hold; the length is that of the input.
PER_TOKEN = {"attention_mask": 0, "token_type_ids": 0, "is_context": 0}
# So too, but the length is that of the longest list in the batch. A negative position is none.
PER_LIST = {"start_positions": -1, "end_positions": -1, "candidate_positions": -1}


@dataclass(frozen=True)
class FeatureCollator:
    """
    Features to a padded batch. Beyond one block the length is a multiple of the block, where padding costs nothing that the
    block does not cost anyway; below it a multiple of 8.

    Args:
        pad_token_id (`int`)
        settings ([`Settings`]): Of which the task type and the block size count.
        limit (`int`): The model's `max_position_embeddings`.
    """

    pad_token_id: int
    settings: Settings
    limit: int

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(feature["input_ids"]) for feature in features)
        multiple = self.settings.block_size if longest > self.settings.block_size else min(8, self.settings.block_size)
        length = max(longest, min(-(-longest // multiple) * multiple, self.limit))
        fillers = {"input_ids": self.pad_token_id, **PER_TOKEN}
        if self.settings.task_type == "token_classification":
            fillers["labels"] = -100
        batch = {}
        for name in (*fillers, *PER_LIST):
            if name in features[0]:
                size = length if name in fillers else max(1, *(len(feature[name]) for feature in features))
                filler = fillers[name] if name in fillers else PER_LIST[name]
                batch[name] = torch.tensor([[*f[name], *[filler] * (size - len(f[name]))] for f in features])
        if "labels" in features[0] and "labels" not in batch:
            batch["labels"] = torch.tensor([feature["labels"] for feature in features])
        return batch


class FinetuneTrainer(SaorTrainer):
    """
    Args:
        settings ([`Settings`]): The type of task and how outputs become predictions.
        class_weights (`torch.Tensor` of shape `(num_labels,)`, *optional*): Factors on the task loss, in training.
        args, kwargs: As for [`SaorTrainer`].

    Raises:
        [`InputError`]: Class weights that are negative or not finite, or with smoothed labels, which know none.
    """

    def __init__(self, *args, settings: Settings, class_weights: torch.Tensor | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.class_weights = class_weights
        if class_weights is not None:
            check_label_smoothing(self.args.label_smoothing_factor, self.saor, type(self.model), has_class_weights=True)
            if not ((class_weights >= 0) & class_weights.isfinite()).all():
                raise InputError(f"class weights {class_weights.tolist()}: each must be a finite number of at least 0")

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.class_weights is not None and model.training:
            # DataParallel shares out every tensor along its first axis: each GPU gets all of them.
            weights = self.class_weights.repeat(max(1, self.args.n_gpu))
            inputs = {**inputs, "class_weights": weights.to(self.accelerator.device)}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def create_model_card(self, **kwargs):
        """Nothing: the card, with its metrics, is written when they are known (`report.write_card`)."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        for_model = {name: value for name, value in inputs.items() if name != "is_context"}
        loss, outputs, labels = super().prediction_step(model, for_model, prediction_loss_only, ignore_keys)
        reduce = TASK_TYPES[self.settings.task_type].reduce
        if reduce is not None and outputs is not None:
            outputs = reduce(outputs, inputs, self.settings)
        return loss, outputs, labels
