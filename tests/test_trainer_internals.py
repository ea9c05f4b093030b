# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Each private method of Trainer that is overridden: what happens with it, and that without it something else still does."""

import pytest
import torch
from datasets import Dataset
from distributed_training import build_dataset, build_model
from transformers import Trainer, TrainingArguments

from ernie_sparse.trainer_internals import PatchedTrainer


def build(trainer_class, output_dir, **arguments) -> Trainer:
    rows = [{**row, "length": i % 5} for i, row in enumerate(build_dataset("single_label", size=12))]
    arguments = {"per_device_train_batch_size": 4, "report_to": "none", "disable_tqdm": True, **arguments}
    args = TrainingArguments(str(output_dir), use_cpu=True, **arguments)
    return trainer_class(model=build_model("single_label"), args=args, train_dataset=Dataset.from_list(rows))


@pytest.mark.parametrize("trainer_class, keeps_order", [(PatchedTrainer, True), (Trainer, False)])
def test_evaluation_keeps_the_order_of_the_rows(trainer_class, keeps_order, tmp_path):
    trainer = build(trainer_class, tmp_path, train_sampling_strategy="group_by_length")
    rows = trainer.train_dataset
    labels = trainer.predict(rows).label_ids.tolist()
    assert sorted(labels) == sorted(rows["labels"]) and len(set(labels)) > 1
    assert (labels == rows["labels"][:]) == keeps_order


@pytest.mark.parametrize("trainer_class, more_updates", [(PatchedTrainer, 0), (Trainer, 1)])
def test_a_run_at_its_end_makes_no_further_update(trainer_class, more_updates, tmp_path):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    build(PatchedTrainer, tmp_path, **options).train()
    trainer = build(trainer_class, tmp_path, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    saved = build_model("single_label").from_pretrained(tmp_path / "checkpoint-2").state_dict()
    is_same = all(torch.equal(weight, saved[name]) for name, weight in trainer.model.state_dict().items())
    assert trainer.state.global_step == 2 + more_updates and is_same == (more_updates == 0)
