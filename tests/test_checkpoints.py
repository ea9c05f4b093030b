# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Which weights a command starts from: all of them, finite, in fp32; and what may be new."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ernie_sparse import (
    ErnieSparseForMaskedLM,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    ErnieSparseModel,
)
from ernie_sparse.checkpoints import load_config, load_model, load_tokenizer, logger
from ernie_sparse.errors import InputError

BASE = "ernie_sparse."


def saved(folder, model, change=None):
    """A folder with a model, whose weights `change` has changed."""
    model.save_pretrained(folder)
    if change is not None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def load(model_class, name: str, **changes):
    config = load_config(name, None)
    for field, value in changes.items():
        if field != "new_head":
            setattr(config, field, value)
    return load_model(model_class, name, config, **{k: v for k, v in changes.items() if k == "new_head"})


def without(*prefixes):
    def change(weights):
        for name in [name for name in weights if name.startswith(prefixes)]:
            del weights[name]

    return change


def filled(name: str, value: float):
    return lambda weights: weights[name].view(-1)[:1].fill_(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_fp32_whatever_they_were_stored_as(dtype, tiny_config, tmp_path):
    source = ErnieSparseForSequenceClassification(tiny_config()).to(dtype)
    model = load(ErnieSparseForSequenceClassification, saved(tmp_path, source))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32} == {model.config.dtype}
    for name, weight in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.float())


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize(
    "change, message",
    [
        (without("ernie_sparse.encoder.layer.1."), r"lacks: ernie_sparse\.encoder\.layer\.1\..* \(16 in all\)"),
        (without(BASE + "embeddings.word_embeddings"), r"lacks: ernie_sparse\.embeddings\.word_embeddings\.weight"),
        (without("classifier.", BASE + "pooler"), r"lacks: classifier\.bias, classifier\.weight, ernie_sparse\.pooler"),
        (filled("classifier.bias", torch.nan), "has weights that are not finite: classifier.bias"),
        (
            filled(BASE + "encoder.layer.0.output.dense.weight", -torch.inf),
            "has weights that are not finite: ernie_sparse.encoder",
        ),
    ],
)
def test_weights_that_should_be_there_are_missed(change, message, new_head, tiny_config, tmp_path):
    name = saved(tmp_path, ErnieSparseForSequenceClassification(tiny_config()), change)
    with pytest.raises(InputError, match=f"--model {name} {message}"):
        load(ErnieSparseForSequenceClassification, name, new_head=new_head)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_position_embeddings": 64}, "has shapes that do not fit .*: ernie_sparse.embeddings.position_embeddings"),
        ({"num_hidden_layers": 1}, "has more than its config.json says: .*encoder.layer.1."),
        ({"num_hidden_layers": 3}, "lacks: .*ernie_sparse.encoder.layer.2."),
    ],
)
def test_a_config_that_is_not_the_weights_own_is_refused(changes, message, tiny_config, tmp_path):
    name = saved(tmp_path, ErnieSparseForMaskedLM(tiny_config()))
    with pytest.raises(InputError, match=message):
        load(ErnieSparseForSequenceClassification, name, new_head=True, **changes)


@pytest.mark.parametrize(
    "source, model_class, changes, new, unused",
    [
        (ErnieSparseForMaskedLM, ErnieSparseForSequenceClassification, {}, "classifier.bias", ["cls.predictions.bias"]),
        (ErnieSparseModel, ErnieSparseForMaskedLM, {}, "cls.predictions", ["pooler.dense.bias, pooler.dense.weight"]),
        (ErnieSparseForTokenClassification,) * 2 + ({"num_labels": 7}, "classifier.bias", []),
        (ErnieSparseForMaskedLM,) * 2 + ({"representatives": None}, "representative_embeddings.weight", []),
    ],
)
def test_what_is_new_or_without_use_is_named(
    source, model_class, changes, new, unused, tiny_config, tmp_path, monkeypatch
):
    said = []
    monkeypatch.setattr(logger, "warning_once", said.append)
    representatives = BASE + "embeddings.representative_embeddings"
    change = without(representatives) if changes.pop("representatives", 0) is None else None
    name = saved(tmp_path, source(tiny_config()), change)
    with pytest.raises(InputError, match=f"--model {name} (lacks|has shapes)"):
        load(model_class, name, **changes)
    load(model_class, name, new_head=True, **changes)
    assert said[0].startswith("new weights, which") and new in said[0]
    assert len(said[1:]) == len(unused)
    for line, names in zip(said[1:], unused, strict=True):
        assert f"that {model_class.__name__} has no use for: {names}" in line
    del said[:]
    load(source, saved(tmp_path / "whole", source(tiny_config())))
    assert not said


def test_code_beside_a_tokenizer_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    (tmp_path / "strange.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nTokenizer = None\n"
    )
    config = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": ["strange.Tokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"tokenizer_config\.json: .*custom code"):
        load_tokenizer(str(tmp_path))
    assert not (tmp_path / "ran").exists()
