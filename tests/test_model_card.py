# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The model card, and what goes to the Hub with it: to a stand-in on the loopback address, and back from there."""

import json
import os
import subprocess
import sys

import hub_server
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from test_cli import write_jsonl
from transformers import BertConfig, BertModel, TrainingArguments

from ernie_sparse import ErnieSparseForMaskedLM, ErnieSparseForSequenceClassification, SaorTrainer
from ernie_sparse.conversion import convert
from ernie_sparse.finetune.metrics import accuracy, bootstrap
from ernie_sparse.model_card import PIPELINE_TAGS, CardFacts, Score, write_card

TOKEN = "hf_s3cret"


def test_a_card_says_what_a_stranger_needs(tiny_config, tmp_path):
    model = ErnieSparseForSequenceClassification(tiny_config())
    facts = CardFacts(
        about="Of the harbour.",
        facts={"trained on": "3 rows"},
        source="you/base",
        data="you/data",
        evaluated_on="you/data, test: 5 rows",
        split="test",
        scores=[Score("accuracy", 0.75, (0.5, 1.0)), Score("f1", 0.25)],
        limits=["No rivers."],
    )
    write_card(tmp_path, "you/toy", model, facts)
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "text-classification"
    assert data["base_model"] == "you/base" and data["datasets"] == ["you/data"] and data["license"] == "unknown"
    (entry,) = data["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "toy" and result["dataset"]["split"] == "test"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"accuracy": 0.75, "f1": 0.25}
    for text in (
        'AutoModelForSequenceClassification.from_pretrained("you/toy")',
        'AutoTokenizer.from_pretrained("you/toy", trust_remote_code=True)',
        'AutoModelForSequenceClassification.from_pretrained("you/toy", trust_remote_code=True)',
        "up to 128 tokens",
        f"`{model.config.pattern}`",
        "| trained on | 3 rows |",
        "On you/data, test: 5 rows",
        "| accuracy | 0.7500 | 0.5000 to 1.0000 |",
        "| f1 | 0.2500 |  |",
        "- No rivers.",
    ):
        assert text in card.content, text


def test_a_folder_is_never_named_but_what_its_card_says_is_handed_on(tiny_config, tmp_path):
    secret, child = tmp_path / "of-a-secret-customer", tmp_path / "child"
    model = ErnieSparseForMaskedLM(tiny_config())
    model.save_pretrained(secret)
    child.mkdir()
    write_card(child, "child", model, CardFacts(about="A.", source=str(secret)))
    assert "secret" not in (child / "README.md").read_text()
    write_card(secret, "parent", model, CardFacts(about="A.", source="you/base", license="mit"))
    write_card(child, "child", model, CardFacts(about="A.", source=str(secret)))
    data = ModelCard.load(child / "README.md").data
    assert data.base_model == "you/base" and data.license == "mit" and data.pipeline_tag == "fill-mask"
    (secret / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    for source in (None, "a model in memory", str(secret)):
        write_card(child, "child", model, CardFacts(about="A.", source=source))
        assert ModelCard.load(child / "README.md").data.base_model is None


def test_every_head_has_a_pipeline():
    import ernie_sparse

    heads = [name for name in ernie_sparse.__all__ if "For" in name or name.endswith("Model")]
    assert set(PIPELINE_TAGS) == set(heads) - {"ErnieSparsePreTrainedModel"}


def test_a_converted_model_has_a_card(tmp_path):
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    convert(BertModel(BertConfig(**sizes, intermediate_size=37, max_position_embeddings=64))).save(tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "feature-extraction" and "BertModel" in card.content


def test_the_trainer_writes_the_card_with_its_last_evaluation(tiny_config, tmp_path):
    rows = [{"input_ids": list(range(2, 40)), "labels": number % 2} for number in range(4)]
    model = ErnieSparseForSequenceClassification(tiny_config())
    arguments = TrainingArguments(tmp_path, max_steps=1, report_to=[], use_cpu=True)
    trainer = SaorTrainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    found = trainer.evaluate()
    trainer.create_model_card(license="mit")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and "| trained on | 4 rows, 1 steps, seed 42 |" in card.content
    (result,) = card.data.eval_results
    assert result.metric_type == "loss" and result.metric_value == pytest.approx(found["eval_loss"], abs=1e-6)


def test_intervals_are_those_of_the_bootstrap(every_draw):
    is_right = np.random.default_rng(0).random(400) < 0.8
    references = np.ones(400, dtype=int)
    predictions = np.where(is_right, 1, 0)
    found = bootstrap(lambda index: accuracy(predictions[index], references[index]), 400, seed=1)
    low, high = found["accuracy"]
    share = is_right.mean()
    # Of a share: 1.96 standard errors on both sides.
    error = 1.96 * (share * (1 - share) / 400) ** 0.5
    assert low == pytest.approx(share - error, abs=0.4 * error) and high == pytest.approx(
        share + error, abs=0.4 * error
    )
    assert bootstrap(lambda index: accuracy(predictions[index], references[index]), 400, seed=1) == found


LOAD = """
import json, sys
sys.modules["ernie_sparse"] = None
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("you/toy", trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained("you/toy", trust_remote_code=True).eval()
print(json.dumps([model.config.id2label, model(**tokenizer("the north wind", return_tensors="pt")).logits.tolist()]))
"""


@pytest.mark.slow
def test_a_model_goes_to_the_hub_and_comes_back_without_the_package(tmp_path):
    rows = [
        {"text": f"{number} the {label} wind", "label": label} for number in range(8) for label in ("north", "south")
    ]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    sizes = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
    flags = ["--max-steps", "1", "--report-to", "none", "--use-cpu", "true"]
    pretrain = [
        "pretrain",
        "--train-file",
        str(data),
        "--train-tokenizer",
        "300",
        "--config",
        sizes,
        "--max-length",
        "32",
    ]
    finetune = ["finetune", "--model", str(tmp_path / "base"), "--train-file", str(data), "--push-to-hub", "true"]
    with hub_server.hub() as (address, hub):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}

        def run(*command: str) -> str:
            result = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
            assert result.returncode == 0, result.stderr[-2000:]
            assert TOKEN not in result.stdout + result.stderr
            return result.stdout

        run("-m", "ernie_sparse", *pretrain, *flags, "--output-dir", str(tmp_path / "base"))
        to_hub = ["--hub-model-id", "you/toy", "--hub-token", TOKEN, "--output-dir", str(tmp_path / "out")]
        run("-m", "ernie_sparse", *finetune, *flags, *to_hub)
        label_names, logits = json.loads(run("-c", LOAD))
    assert set(hub["authorizations"]) == {f"Bearer {TOKEN}"}
    model = ErnieSparseForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert model(**tokenizer("the north wind", return_tensors="pt")).logits.tolist() == logits
    assert list(label_names.values()) == ["north", "south"]
    # The card has passed the Hub's check, and nothing that went there tells of this machine.
    assert hub["cards"] and "model-index" in hub["files"]["README.md"].decode()
    assert not {"run.json", "results.json", "training_args.bin"} & set(hub["files"])
    kept = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for content in (*hub["files"].values(), *kept):
        assert TOKEN.encode() not in content
    for name, content in hub["files"].items():
        assert str(tmp_path).encode() not in content, name
