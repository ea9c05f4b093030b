# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What conversion refuses: bad sources, options and targets, in one line, and nothing is left behind."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_conversion import FIXED_GELU, WORDS, add_weights, build, contents, run, save_tokenizer, with_config
from torch import nn
from transformers import BertTokenizer, GPT2Config, GPT2LMHeadModel

from ernie_sparse import conversion
from ernie_sparse.conversion import convert
from ernie_sparse.errors import InputError


def saved(folder: Path, family: str = "Bert", head: str = "ForMaskedLM", **settings) -> Path:
    build(family, head, **settings).save_pretrained(folder / "source")
    return folder / "source"


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path.parent


def gpt2(folder: Path):
    config = GPT2Config(vocab_size=99, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder / "source")
    return folder / "source"


def without(folder: Path, name: str) -> Path:
    (saved(folder) / name).unlink()
    return folder / "source"


def file_as_source(folder: Path) -> Path:
    return saved(folder) / "config.json"


def config_that_is_a_list(folder: Path) -> Path:
    (saved(folder) / "config.json").write_text("[1]")
    return folder / "source"


def lacking_weight(folder: Path) -> Path:
    path = saved(folder) / "model.safetensors"
    weights = load_file(path)
    del weights["bert.encoder.layer.1.output.dense.bias"]
    save_file(weights, path, metadata={"format": "pt"})
    return folder / "source"


def additional_layer(folder: Path) -> Path:
    return with_config(saved(folder, num_hidden_layers=3), num_hidden_layers=2)


def misshapen_weight(folder: Path) -> Path:
    add_weights(saved(folder), {"bert.encoder.layer.0.intermediate.dense.bias": torch.zeros(38)})
    return folder / "source"


def weight_of_nan(folder: Path) -> Path:
    add_weights(saved(folder), {"bert.encoder.layer.1.output.dense.bias": torch.full((32,), torch.nan)})
    return folder / "source"


def old_weights(folder: Path, content: bytes | None) -> Path:
    """Weights as PyTorch writes them, or a file of that name."""
    path = saved(folder) / "model.safetensors"
    old = path.with_name("pytorch_model.bin")
    torch.save(load_file(path), old) if content is None else old.write_bytes(content)
    path.unlink()
    return folder / "source"


def torn_tokenizer(folder: Path) -> Path:
    saved(folder)
    save_tokenizer(folder / "source")
    return cut_short(folder / "source" / "tokenizer.json")


def other_tokenizer(folder: Path) -> Path:
    save_tokenizer(saved(folder))
    (folder / "source" / "tokenizer.json").write_text("{}")
    return folder / "source"


def tokenizer_without_words(folder: Path) -> Path:
    save_tokenizer(saved(folder))
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / "source" / name).unlink()
    return folder / "source"


def large_tokenizer(folder: Path) -> Path:
    saved(folder)
    save_tokenizer(folder / "source", [*WORDS, *(f"word{i}" for i in range(89))])
    return folder / "source"


BAD_SOURCES = {
    "a norm that divides by zero": (
        lambda folder: saved(folder, layer_norm_eps=0.0),
        "layer_norm_eps=0.0 is not allowed",
    ),
    "another family": (gpt2, "is a gpt2 checkpoint: bert, big_bird, "),
    "an unknown family": (
        lambda folder: with_config(saved(folder), model_type="barometer"),
        "is a barometer checkpoint: bert, big_bird, ",
    ),
    "a config without a family": (
        lambda folder: with_config(saved(folder), model_type=None),
        "checkpoint: bert, big_bird, ",
    ),
    "no config": (lambda folder: without(folder, "config.json"), "there is no config.json in this folder"),
    "no such folder": (lambda folder: folder / "nothing", "there is no such folder"),
    "a file": (file_as_source, "is a file: a checkpoint is a folder"),
    "torn weights": (
        lambda folder: cut_short(saved(folder) / "model.safetensors"),
        "source cannot be loaded as BertForMaskedLM: ",
    ),
    "old weights, torn": (
        lambda folder: cut_short(old_weights(folder, None) / "pytorch_model.bin"),
        "source cannot be loaded as BertForMaskedLM: ",
    ),
    "old weights, empty": (
        lambda folder: old_weights(folder, b""),
        "source cannot be loaded as BertForMaskedLM:",
    ),
    "old weights that are none": (
        lambda folder: old_weights(folder, b"weights"),
        "source/pytorch_model.bin is damaged (File is not a zip file)",
    ),
    "no weights": (lambda folder: without(folder, "model.safetensors"), "source cannot be loaded as BertForMaskedLM: "),
    "torn config": (lambda folder: cut_short(saved(folder) / "config.json"), "config.json"),
    "a config that is a list": (config_that_is_a_list, "config.json"),
    "a width that its heads do not divide": (
        lambda folder: with_config(saved(folder), hidden_size=33),
        "source cannot be loaded as BertForMaskedLM: The hidden size (33) is not a multiple",
    ),
    "a vocabulary of no size": (
        lambda folder: with_config(saved(folder), vocab_size=None),
        "source/config.json: Field 'vocab_size' expected int",
    ),
    "a label of no number": (
        lambda folder: with_config(saved(folder), id2label={"north": "south"}),
        "source/config.json: invalid literal for int()",
    ),
    "a vocabulary below nothing": (
        lambda folder: with_config(saved(folder), vocab_size=-1),
        "source cannot be loaded as BertForMaskedLM: Trying to create tensor with negative dimension",
    ),
    "a lacking weight": (
        lacking_weight,
        "source lacks weights of BertForMaskedLM: bert.encoder.layer.1.output.dense.bias",
    ),
    "a layer too many": (
        additional_layer,
        "holds weights that BertForMaskedLM does not know: bert.encoder.layer.2.attention.output.LayerNorm.bias, ",
    ),
    "a weight that is no number": (
        weight_of_nan,
        "source holds weights that are not finite: bert.encoder.layer.1.output.dense.bias",
    ),
    "a misshapen weight": (misshapen_weight, "bert.encoder.layer.0.intermediate.dense.bias"),
    "a decoder": (lambda folder: saved(folder, is_decoder=True), "is a decoder: ErnieSparse is an encoder"),
    "rescaled embeddings": (
        lambda folder: saved(folder, "BigBird", rescale_embeddings=True),
        "has rescale_embeddings=True, which ErnieSparse does not know",
    ),
    "a head of gelu beside relu": (
        lambda folder: with_config(saved(folder, "Roberta"), hidden_act="relu"),
        "the ForMaskedLM head of roberta uses gelu",
    ),
    "a summary of the last token": (
        lambda folder: saved(folder, "Electra", "ForMultipleChoice", summary_type="last"),
        "has summary_type='last', which ErnieSparse does not know",
    ),
    "a summary of one number": (
        lambda folder: saved(folder, "Electra", "ForMultipleChoice", summary_proj_to_labels=True, num_labels=1),
        "pooler.dense",
    ),
    "three answers' ends": (
        lambda folder: saved(folder, head="ForQuestionAnswering", num_labels=3),
        "qa_outputs",
    ),
    "a torn tokenizer": (torn_tokenizer, "source cannot be read: "),
    "a tokenizer of other JSON": (other_tokenizer, "source cannot be read: "),
    # transformers makes one of five special tokens of it.
    "a tokenizer without its words": (tokenizer_without_words, "the tokenizer of "),
    "a tokenizer too large": (large_tokenizer, "the tokenizer has 100 tokens, "),
}


def assert_refused(capsys, folder: Path, message: str, source: Path, out: Path, **options):
    """In Python an `InputError`, on the command line one line; and nothing has changed below `folder`."""
    before = contents(folder)
    with pytest.raises(InputError) as refusal:
        convert(source, **options).save(out)
    assert message in str(refusal.value)
    assert contents(folder) == before
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    capsys.readouterr()
    assert run(source, out, *flags) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ernie-sparse convert: error: "), printed.err
    assert message in lines[0] and printed.out == ""
    assert contents(folder) == before


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_bad_source_is_refused_in_one_line_and_nothing_is_left(case, tmp_path, capsys):
    make, message = BAD_SOURCES[case]
    assert_refused(capsys, tmp_path, message, make(tmp_path), tmp_path / "out", max_length=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 63}, "max_length=63 is below the 64 tokens that "),
        ({"max_length": 0}, "max_length=0 is below the 64 tokens that "),
        ({"max_length": 10**12}, "max_length: max_position_embeddings=1000000000000 is not allowed"),
        ({"pattern": "num_window_blocks=2"}, "num_window_blocks=2 is not allowed: it must be odd"),
        ({"pattern": "blocksize=2"}, "'blocksize' is not a field of a sparse pattern"),
        ({"tokenizer": "./no/such/tokenizer"}, "there is no tokenizer in ./no/such/tokenizer: there is no such folder"),
    ],
)
def test_bad_options_are_refused_in_one_line_and_nothing_is_left(options, message, tmp_path, capsys):
    assert_refused(capsys, tmp_path, message, saved(tmp_path), tmp_path / "out", **options)


def test_a_folder_without_a_tokenizer_is_refused_where_one_is_asked_for(tmp_path, capsys):
    source = saved(tmp_path)
    assert_refused(capsys, tmp_path, "tokenizer", source, tmp_path / "out", tokenizer=str(source))


@pytest.mark.parametrize(
    ("existing", "out", "message"),
    [
        ("out/.hidden", "out", "is not empty: name another folder, or remove it first"),
        ("out", "out", "is a file: name a folder"),
        ("file", "file/out", "is a file"),
        ("file", "file/deep/out", "is a file"),
    ],
)
def test_a_bad_target_is_refused_in_one_line_and_left_as_it_was(existing, out, message, tmp_path, capsys):
    (tmp_path / existing).parent.mkdir(exist_ok=True)
    (tmp_path / existing).write_text("kept")
    assert_refused(capsys, tmp_path, message, saved(tmp_path), tmp_path / out, max_length=100)
    assert (tmp_path / existing).read_text() == "kept"


def test_a_target_in_a_folder_that_is_read_only_is_refused(tmp_path, monkeypatch, capsys):
    # Root, which tests may run as, may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_refused(
        capsys, tmp_path, f"cannot be written: {tmp_path} is read-only", saved(tmp_path), tmp_path / "a" / "b"
    )


def test_a_bad_target_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "out").touch()
    assert run(tmp_path / "nothing", tmp_path / "out") == 2
    assert "out is a file" in capsys.readouterr().err


def test_an_unknown_hub_id_is_refused_in_one_line(tmp_path, capsys):
    assert run("no-such-checkpoint", tmp_path / "out") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not contents(tmp_path)


@pytest.mark.parametrize(
    ("family", "head", "settings", "message"),
    [
        ("Bert", "ForQuestionAnswering", {"num_labels": 3}, "qa_outputs"),
        ("Electra", "ForMultipleChoice", {"summary_proj_to_labels": True, "num_labels": 1}, "pooler.dense"),
        ("Bert", "Model", {"is_decoder": True}, "the BertModel is a decoder"),
        ("BigBird", "Model", {"rescale_embeddings": True}, "the BigBirdModel has rescale_embeddings=True"),
    ],
)
def test_a_model_in_memory_that_does_not_fit_is_refused(family, head, settings, message):
    with pytest.raises(InputError, match=message):
        convert(build(family, head, **settings))


@pytest.mark.parametrize("family", FIXED_GELU)
def test_a_head_that_always_uses_gelu_is_refused_beside_another_activation(family):
    source = build(family, "ForMaskedLM")
    source.config.hidden_act = "gelu_new"
    with pytest.raises(InputError, match="uses gelu, whatever its hidden_act='gelu_new' says"):
        convert(source)
    assert convert(source, base_model=True).model.config.hidden_act == "gelu_new"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda model: model.encoder.register_module("adapter", nn.Linear(2, 2)), "encoder.adapter.bias"),
        (lambda model: model.encoder.layer[1].output.dense.register_parameter("bias", None), "1.output.dense.bias"),
    ],
    ids=["a weight more", "a weight less"],
)
def test_a_changed_model_in_memory_is_refused(change, name):
    source = build("Bert")
    change(source)
    with pytest.raises(InputError, match=name):
        convert(source)


def test_a_model_in_memory_of_another_family_is_refused():
    with pytest.raises(InputError, match="the GPT2LMHeadModel is a gpt2 checkpoint"):
        convert(GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2)))


@pytest.mark.parametrize("error", [ValueError, TypeError])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (conversion, "_find_tokenizer"),
        (conversion, "_read_weights"),
        (conversion, "_place"),
        (transformers.PreTrainedModel, "save_pretrained"),
    ],
)
def test_a_fault_of_ours_keeps_its_traceback(owner, name, error, tmp_path, monkeypatch):
    source = saved(tmp_path)

    def fail(*args, **kwargs):
        raise error("ours")

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(error, match="ours") as fault:
        run(source, tmp_path / "out")
    assert fault.type is error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("failing", "target"),
    [("model", "new"), ("tokenizer", "new"), ("record", "new"), ("record", "empty"), ("record", "below a new folder")],
)
def test_where_saving_fails_nothing_is_left(failing, target, tmp_path, monkeypatch, capsys):
    source, out = saved(tmp_path), tmp_path / ("new/deep/out" if "below" in target else "out")
    save_tokenizer(source)
    if target == "empty":
        out.mkdir()
    before = contents(tmp_path)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if failing == "model":
            # As on a full disk, safetensors raises an error of its own.
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        elif failing == "tokenizer":
            patch.setattr(BertTokenizer, "save_pretrained", fail)
        else:
            patch.setattr(conversion, "write_json", fail)
        try:
            assert run(source, out, "--max-length", 100) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ernie-sparse convert: error: ")
    assert (f"{out} cannot be written: " in line) if failing == "model" else "No space left on device" in line
    assert contents(tmp_path) == before
    assert run(source, out, "--max-length", 100) == 0
    assert "conversion.json" in contents(out) and set(contents(tmp_path)) > set(before)
