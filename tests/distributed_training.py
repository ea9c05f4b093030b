# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Small SaorTrainer runs, in this process or, as a script under torchrun, in several: weights and logs of each run."""

import sys
import tempfile

import torch
from datasets import Dataset
from transformers import TrainingArguments, set_seed

from ernie_sparse import (
    ErnieSparseConfig,
    ErnieSparseForCandidateChoice,
    ErnieSparseForMaskedLM,
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
)
from ernie_sparse.trainer import SaorArguments, SaorTrainer

NUM_TOKENS = 24
# transformers before 5.23 has the older name alone.
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)
HEADS = {
    "masked_lm": (ErnieSparseForMaskedLM, {}),
    "single_label": (ErnieSparseForSequenceClassification, {"num_labels": 3}),
    "multi_label": (
        ErnieSparseForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "regression": (ErnieSparseForSequenceClassification, {"num_labels": 1}),
    "token_classification": (ErnieSparseForTokenClassification, {"num_labels": 5}),
    "question_answering": (ErnieSparseForQuestionAnswering, {}),
    "candidate_choice": (ErnieSparseForCandidateChoice, {}),
}
DISTRIBUTED_RUNS = {
    "masked_lm": {"head": "masked_lm"},
    "masked_lm, checkpointed": {"head": "masked_lm", CHECKPOINTING: True},
    "question_answering": {"head": "question_answering"},
    "question_answering, checkpointed": {"head": "question_answering", CHECKPOINTING: True},
    "hierarchy off in the second pass": {"head": "masked_lm", "patterns": ["hierarchy"]},
    "hierarchy on in the second pass": {"head": "masked_lm", "hierarchical": False, "patterns": ["hierarchy"]},
    "no hierarchy": {"head": "masked_lm", "hierarchical": False, "patterns": ["shift"]},
    "no hierarchy, checkpointed": {
        "head": "masked_lm",
        "hierarchical": False,
        "patterns": ["shift"],
        CHECKPOINTING: True,
    },
    "alignment": {"head": "masked_lm", "saor": {"regularization": "alignment"}},
    "alignment, checkpointed": {
        "head": "question_answering",
        "saor": {"regularization": "alignment"},
        CHECKPOINTING: True,
    },
    "every second step": {"head": "masked_lm", "saor": {"saor_every": 2}},
    "both without hierarchy": {
        "head": "masked_lm",
        "patterns": [f"hierarchical=false,block_size={size}" for size in range(2, 8)],
        "saor": {"saor_perturb": "both"},
    },
}


def build_model(head: str, **overrides):
    """The same weights at every call, and large enough for patterns to matter."""
    model_class, head_config = HEADS[head]
    set_seed(0)
    sizes = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 32,
        "block_size": 4,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
    }
    return model_class(ErnieSparseConfig(**{**sizes, **head_config, **overrides}))


def build_dataset(head: str, size: int) -> list[dict]:
    """Documents of different lengths with different numbers of labels, in some of them none."""
    draw = torch.Generator().manual_seed(1)
    rows = []
    for i in range(size):
        length = NUM_TOKENS - 2 * (i % 5)
        ids = torch.randint(1, 99, (NUM_TOKENS,), generator=draw)
        is_real = torch.arange(NUM_TOKENS) < length
        row = {"input_ids": ids * is_real, "attention_mask": is_real.long()}
        if head == "masked_lm":
            # None in the fourth document, up to eight in others.
            is_masked = (torch.arange(NUM_TOKENS) < (5 * i + 1) % 16) & is_real
            row["labels"] = torch.where(is_masked, ids, -100)
        elif head == "token_classification":
            row["labels"] = torch.where(torch.arange(NUM_TOKENS) < length - (3 * i) % 7, ids % 5, -100)
        elif head == "question_answering":
            row["start_positions"] = i % 12 if i != 2 else NUM_TOKENS + 3
            row["end_positions"] = i % 12 + 2 if i != 2 else NUM_TOKENS + 5
        elif head == "candidate_choice":
            row["candidate_positions"] = torch.tensor([1, 4, 9, -1 if i % 2 else 11])
            row["labels"] = -100 if i == 2 else i % 3
        elif head == "multi_label":
            row["labels"] = torch.tensor([i % 2, i // 2 % 2, i // 4 % 2]).float()
        else:
            row["labels"] = i % 3 if head != "regression" else float("nan") if i == 2 else i / 4 - 1.0
        rows.append(row)
    return rows


def build_trainer(
    head: str,
    output_dir: str,
    *,
    batch_size: int = 8,
    accumulation: int = 1,
    dataset_size: int = 12,
    alpha: float = 2.0,
    patterns: list[str] | None = None,
    saor_seed: int = 0,
    saor: dict | None = None,
    model_config: dict | None = None,
    model=None,
    eval_dataset=None,
    **arguments,
) -> SaorTrainer:
    """Without gradient clipping, which would hide a gradient of the wrong size."""
    more = {**({"saor_patterns": patterns} if patterns else {}), **(saor or {})}
    saor = SaorArguments(saor_alpha=alpha, saor_seed=saor_seed, **more)
    defaults = {
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return SaorTrainer(
        model=model or build_model(head, **(model_config or {})),
        args=TrainingArguments(
            output_dir,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            **{**defaults, **arguments},
        ),
        train_dataset=build_dataset(head, dataset_size),
        eval_dataset=eval_dataset,
        saor=saor,
    )


def result_of(trainer: SaorTrainer) -> dict:
    """The final weights, and the losses and parts of losses logged."""
    parts = ("loss", "task_loss", "consistency_loss", "alignment_loss")
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {
        "weights": {name: weight.detach().clone() for name, weight in model.state_dict().items()},
        "losses": [{k: log[k] for k in parts if k in log} for log in trainer.state.log_history if "loss" in log],
    }


def distributed_run(run: dict, batch_size: int, output_dir: str) -> dict:
    run = dict(run)
    model_config = {"hierarchical": run.pop("hierarchical", True)}
    # Two full steps: processes that run out of examples would be given the first ones again.
    sizes = {"batch_size": batch_size, "dataset_size": 16}
    trainer = build_trainer(**run, **sizes, output_dir=output_dir, model_config=model_config)
    trainer.train()
    return result_of(trainer)


def evaluation_loss(head: str, batch_size: int, output_dir: str) -> float:
    """Of eleven rows, which go evenly into no batches and processes."""
    trainer = build_trainer(head, output_dir, per_device_eval_batch_size=batch_size)
    return trainer.evaluate(build_dataset(head, size=11))["eval_loss"]


def rows_of_epochs(output_dir: str) -> list[int]:
    """The rows that this process is given in three epochs, in batches of rows of a length and with dropout."""
    model = build_model("single_label", hidden_dropout_prob=0.3)
    trainer = build_trainer(
        "single_label",
        output_dir,
        model=model,
        batch_size=4,
        num_train_epochs=3,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
    )
    seen = []

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        seen.extend(row["row"] for row in rows)
        # Dropout draws more for longer rows.
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
        return {"input_ids": ids, "labels": torch.tensor([row["row"] % 3 for row in rows])}

    lengths = [3 + i % 13 for i in range(32)]
    rows = [{"input_ids": [1 + i] * length, "length": length, "row": i} for i, length in enumerate(lengths)]
    trainer.train_dataset, trainer.data_collator = Dataset.from_list(rows), collate
    trainer.train()
    return seen


def main(path: str, batch_size: int):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as output_dir:
        results = {name: distributed_run(run, batch_size, output_dir) for name, run in DISTRIBUTED_RUNS.items()}
        losses = {head: [evaluation_loss(head, size, output_dir) for size in (1, 2, 8)] for head in HEADS}
        rows = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(rows, rows_of_epochs(output_dir))
    if torch.distributed.get_rank() == 0:
        torch.save({"num_processes": len(rows), "results": results, "rows": rows, "losses": losses}, path)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
