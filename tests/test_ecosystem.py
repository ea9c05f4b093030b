# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""peft, accelerate, evaluate, optuna, safetensors and torch.compile, as those who know them from BERT use them."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import optuna
import peft
import pytest
import torch
from accelerate import disk_offload, infer_auto_device_map
from distributed_training import build_dataset, build_model, build_trainer
from peft.utils import constants
from transformers import AutoModelForSequenceClassification

from ernie_sparse import peft_targets
from ernie_sparse.late_imports import when_imported

REPOSITORY = Path(__file__).parents[1]
HEADS = {
    "SEQ_CLS": ("single_label", {"labels": torch.tensor([0, 2])}),
    "TOKEN_CLS": ("token_classification", {"labels": torch.ones(2, 24, dtype=torch.long)}),
    "QUESTION_ANS": (
        "question_answering",
        {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])},
    ),
    None: ("masked_lm", {"labels": torch.ones(2, 24, dtype=torch.long)}),
}


def batch_of(head: str) -> dict[str, torch.Tensor]:
    """Two rows with padding, without labels."""
    rows = build_dataset(head, 3)[1:]
    return {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "attention_mask")}


@pytest.mark.slow
def test_the_loop_of_the_example_learns(tmp_path):
    words = ["--output-dir", str(tmp_path / "out"), "--epochs", "2"]
    loop = [sys.executable, REPOSITORY / "examples" / "accelerate_loop.py", *words, "--mixed-precision", "bf16"]
    run = subprocess.run(loop, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr[-3000:]
    assert float(run.stdout.split()[-1]) > 0.9
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_a_library_is_told_when_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "some_library").mkdir()
    (tmp_path / "some_library" / "__init__.py").write_text("from .constants import TABLE\n")
    (tmp_path / "some_library" / "constants.py").write_text("TABLE = {'bert': ['query']}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    told = []
    for _ in range(2):
        when_imported("some_library.constants", lambda tables: told.append(tables.TABLE))
        library = importlib.import_module("some_library")
    assert told == [library.TABLE] * 2


def test_peft_has_targets_wherever_it_has_some_for_bert():
    tables = [values for name, values in vars(constants).items() if name.startswith("TRANSFORMERS_MODELS_TO_")]
    assert len(tables) > 5
    assert all(values.get("ernie_sparse") == values.get("bert") for values in tables)
    own = SimpleNamespace(TRANSFORMERS_MODELS_TO_X_MAPPING={"bert": ["query"], "ernie_sparse": ["dense"]})
    peft_targets.register(own)
    assert own.TRANSFORMERS_MODELS_TO_X_MAPPING["ernie_sparse"] == ["dense"]


@pytest.mark.parametrize("config", [peft.LoraConfig(r=4), peft.IA3Config()], ids=["lora", "ia3"])
@pytest.mark.parametrize("task_type", HEADS)
def test_adapters_without_named_targets_train_merge_and_load(task_type, config, tmp_path):
    head, labels = HEADS[task_type]
    batch = batch_of(head)
    config = type(config)(**{**config.to_dict(), "task_type": task_type})
    model = peft.get_peft_model(build_model(head), config)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.SGD([w for w in model.parameters() if w.requires_grad], lr=1.0)
    for _ in range(2):
        model(**batch, **labels, consistency_pattern="block_size=4,block_shift=1").loss.backward()
        # The first pass leaves no gradient on one side of each pair of new matrices but zero.
        assert all(w.grad is not None for w in model.parameters() if w.requires_grad)
        optimizer.step()
    model.eval()
    expected = model(**batch)[0]
    with model.disable_adapter():
        assert not torch.allclose(model(**batch)[0], expected)
    model.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(**batch)[0], expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = type(merged).from_pretrained(tmp_path / "merged").eval()
    again = peft.PeftModel.from_pretrained(build_model(head), tmp_path / "adapter").eval()
    for other in (loaded, again):
        torch.testing.assert_close(other(**batch)[0], expected, rtol=1e-4, atol=1e-4)
    assert trained and set(merged.state_dict()) == set(build_model(head).state_dict())


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
def test_shards_load_onto_devices(device_map, tmp_path):
    model, batch = build_model("single_label").eval(), batch_of("single_label")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, device_map=device_map)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_layers_are_spread_whole():
    model = build_model("single_label")
    layer = sum(w.nbytes for w in model.ernie_sparse.encoder.layer[0].parameters())
    embeddings = sum(w.nbytes for w in model.ernie_sparse.embeddings.parameters())
    # Half of a layer has room beside the first one.
    memory = {0: embeddings + 2 * layer, 1: embeddings + 2 * layer, "cpu": 10 * embeddings}
    places = infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules)
    assert len(set(places.values())) > 1
    assert {name for name in places if "layer" in name} <= {f"ernie_sparse.encoder.layer.{i}" for i in range(2)}


def test_weights_may_wait_on_a_disk(tmp_path):
    """As where the devices of a `device_map` are too small: a weight is there while its module is called, and no longer."""
    model, batch = build_model("single_label").eval(), batch_of("single_label")
    expected = model(**batch).logits
    model = disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert torch.equal(model(**batch).logits, expected)


@pytest.mark.slow
def test_a_compiled_model_takes_a_padded_batch():
    model, batch = build_model("single_label").eval(), batch_of("single_label")
    assert (batch["attention_mask"] == 0).any()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)


def test_optuna_searches_with_the_trainer(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = build_dataset("single_label", 8)
    trainer = build_trainer("single_label", tmp_path, eval_dataset=rows, max_steps=2)
    trainer.model_init = lambda trial: build_model("single_label")
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-9, 0.1])},
        compute_objective=lambda metrics: metrics["eval_loss"],
        backend="optuna",
        n_trials=2,
        sampler=optuna.samplers.GridSampler({"learning_rate": [1e-9, 0.1]}),
    )
    assert best.hyperparameters == {"learning_rate": 0.1}
