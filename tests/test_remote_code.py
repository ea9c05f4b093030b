# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What is saved loads where the package is not installed, and gives the same outputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import remote_code
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    TrainingArguments,
)

import ernie_sparse
from ernie_sparse import ErnieSparseForSequenceClassification, SaorTrainer
from ernie_sparse.auto_classes import AUTO_CLASSES
from ernie_sparse.configuration_ernie_sparse import AUTO_MAP
from ernie_sparse.conversion import convert

PACKAGE = Path(ernie_sparse.__file__).parent
CODE = {
    *("block_attention.py", "block_kernel.py", "block_plan.py", "configuration_ernie_sparse.py", "head_outputs.py"),
    *(
        "hst_attention.py",
        "hst_layer.py",
        "input_checks.py",
        "layer_alignment.py",
        "modeling_ernie_sparse.py",
        "saor.py",
        "sparse_pattern.py",
    ),
}
CLASSIFIER = "AutoModelForSequenceClassification"


def write_others(root: Path, model):
    """Folders that come about on other ways."""
    (root / "sharded").mkdir()
    model.save_pretrained(root / "sharded", max_shard_size="20KB")
    remote_code.note(root / "sharded", CLASSIFIER, model)
    assert len(list((root / "sharded").glob("*.safetensors"))) > 2
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    merged = peft.get_peft_model(model, config).merge_and_unload()
    merged.save_pretrained(root / "merged")
    remote_code.note(root / "merged", CLASSIFIER, merged)
    rows = [{"input_ids": list(range(2, 40)), "labels": number % 3} for number in range(2)]
    arguments = TrainingArguments(root / "run", max_steps=1, save_steps=1, report_to=[], use_cpu=True)
    merged.requires_grad_(True)
    trainer = SaorTrainer(merged, arguments, train_dataset=rows)
    trainer.train()
    (root / "run" / "checkpoint-1").rename(root / "checkpoint")
    remote_code.note(root / "checkpoint", CLASSIFIER, trainer.model)
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    bert = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=37, max_position_embeddings=128))
    converted = convert(bert).model
    converted.save_pretrained(root / "converted")
    remote_code.note(root / "converted", CLASSIFIER, converted)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    remote_code.write(root)
    write_others(root, ErnieSparseForSequenceClassification.from_pretrained(root / CLASSIFIER))
    return root


@pytest.mark.slow
def test_every_folder_loads_without_the_package_and_once_more_when_saved_there(folders, tmp_path):
    script = Path(remote_code.__file__)
    environment = {"PATH": "", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), "read", str(folders)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    read = [line.split()[1] for line in result.stdout.splitlines()]
    assert read == sorted([*remote_code.AUTO_CLASSES, "sharded", "merged", "checkpoint", "converted"])


def test_the_code_is_the_packages_and_no_file_too_many(folders):
    for config in folders.glob("*/config.json"):
        assert json.loads(config.read_text())["auto_map"] == AUTO_MAP
        assert {file.name for file in config.parent.glob("*.py")} == CODE
        for name in CODE:
            assert (config.parent / name).read_bytes() == (PACKAGE / name).read_bytes()


def test_the_auto_map_names_what_the_package_registers():
    registered = {"AutoConfig": "ErnieSparseConfig", **AUTO_CLASSES}
    assert {name: path.split(".")[1] for name, path in AUTO_MAP.items()} == registered


def test_where_the_package_is_it_wins_and_needs_no_trust(folders):
    for options in ({}, {"trust_remote_code": True}):
        assert type(AutoConfig.from_pretrained(folders / CLASSIFIER, **options)).__module__.startswith("ernie_sparse.")
        model = AutoModelForSequenceClassification.from_pretrained(folders / CLASSIFIER, **options)
        assert type(model) is ErnieSparseForSequenceClassification


def test_a_config_alone_is_saved_with_the_code(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path / "config")
    assert {file.name for file in (tmp_path / "config").iterdir()} == {*CODE, "config.json"}
