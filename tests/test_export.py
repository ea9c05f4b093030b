# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Exported files give the model's answers at any length; int8 says what it costs; a failure leaves nothing behind."""

import copy
import importlib.util
import itertools
import json
import shutil

import onnx_ir
import onnxruntime
import pytest
import torch
from test_finetune_predict import WORDS, make_rows, make_tokenizer, write_jsonl
from test_modeling_ernie_sparse import HEADS, randomise
from transformers import AutoConfig, AutoTokenizer

from ernie_sparse import (
    ErnieSparseConfig,
    ErnieSparseForCandidateChoice,
    ErnieSparseForSequenceClassification,
    ErnieSparseModel,
    SparsePattern,
    cli,
)
from ernie_sparse import export as export_module
from ernie_sparse.errors import InputError
from ernie_sparse.finetune.agreement import RowsOfFile
from ernie_sparse.finetune.settings import Settings
from ernie_sparse.finetune.task_types import TASK_TYPES
from ernie_sparse.finetune.tasks import OWN_FILES
from ernie_sparse.onnx_files import Session, make_inputs, save, trace

NAMES = ["input_ids", "attention_mask", "token_type_ids"]
CLASSES = {
    "single_label": ["north", "south"],
    "multi_label": ["north", "south", "windy"],
    "token_classification": ["B-SIDE", "O"],
}


def run(*argv) -> int:
    return cli.main(["export", *map(str, argv)])


def build(model_class=ErnieSparseForSequenceClassification, pattern=None, **overrides):
    sizes = {
        "vocab_size": 5 + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "block_size": 8,
    }
    config = ErnieSparseConfig(**{**sizes, **overrides})
    # Short documents have fewer blocks than are global: these are padded inside.
    config.pattern = pattern or SparsePattern(8, 3, 3, block_shift=5)
    return randomise(model_class(config)).eval()


def write_model(folder, task_type="single_label"):
    """A folder as `ernie-sparse finetune` leaves it, of a model that has learned nothing."""
    names = CLASSES.get(task_type, [])
    labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}} if names else {}
    if task_type == "regression":
        labels = {"num_labels": 1}
    model = build(TASK_TYPES[task_type].model_class, problem_type=TASK_TYPES[task_type].problem_type, **labels)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    settings = Settings.of(model.config, 64, task_type=task_type, columns=dict(OWN_FILES[task_type].columns), stride=16)
    settings.save(folder)
    return model


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A classifier and rows with labels."""
    folder = tmp_path_factory.mktemp("export")
    write_model(folder / "classifier")
    write_jsonl(folder / "rows.jsonl", make_rows("single_label", 12, 0))
    return folder


@pytest.fixture(scope="module")
def workspace(given):
    """And what the command makes of them, which takes long."""
    flags = ("--int8", "--data-file", given / "rows.jsonl")
    assert run(given / "classifier", given / "out", *flags) == 0
    return given


@pytest.fixture
def traced(workspace, monkeypatch):
    """Exporting is reading the graph that is there: tracing takes seconds."""

    def read(model, names):
        return onnx_ir.load(workspace / "out" / "onnx" / "model.onnx"), make_inputs(model, names, 3, 30)

    monkeypatch.setattr(export_module, "trace", read)


def load(folder):
    return ErnieSparseForSequenceClassification.from_pretrained(folder).eval()


def compare_with_pytorch(session, model, names, lengths=(1, 2, 7, 8, 9, 33, 64)):
    """At lengths that fill their blocks and others, alone and in batches with padding on either side."""
    for num_rows, length in itertools.product((1, 3), lengths):
        inputs = make_inputs(model, names, num_rows, length, seed=length)
        with torch.no_grad():
            expected, actual = model(**inputs), session(**inputs)
        for name in session.outputs:
            torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_file_gives_the_models_answers_at_any_length(workspace):
    session = Session(workspace / "out" / "onnx" / "model.onnx")
    assert session.inputs == NAMES and session.outputs == ["logits"]
    assert [value.shape for value in session.session.get_inputs()] == [["batch_size", "sequence_length"]] * 3
    compare_with_pytorch(session, load(workspace / "classifier"), NAMES)
    with pytest.raises(Exception, match="out of data bounds"):
        session(**make_inputs(load(workspace / "classifier"), NAMES, 1, 65))


@pytest.mark.slow
def test_a_text_goes_from_the_folders_own_tokenizer_through_onnx_runtime(workspace):
    out = workspace / "out"
    inputs = AutoTokenizer.from_pretrained(out)(["north wind", "south"], padding=True, return_tensors="np")
    (logits,) = onnxruntime.InferenceSession(out / "onnx" / "model.onnx").run(None, dict(inputs))
    expected = load(workspace / "classifier")(**{name: torch.tensor(value) for name, value in inputs.items()}).logits
    torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-5)
    assert AutoConfig.from_pretrained(out).id2label == {0: "north", 1: "south"}


@pytest.mark.slow
def test_int8_runs_near_the_model_and_its_weights_are_int8(workspace):
    path = workspace / "out" / "onnx" / "model_quantized.onnx"
    weights = onnx_ir.load(path).graph.initializers.values()
    assert sum(value.const_value.dtype == onnx_ir.DataType.INT8 for value in weights) >= 8
    model, session = load(workspace / "classifier"), Session(path)
    inputs = make_inputs(model, NAMES, 3, 50)
    with torch.no_grad():
        difference = (session(**inputs).logits - model(**inputs).logits).abs().max()
    assert 0 < difference < 0.2


@pytest.mark.slow
def test_the_report_says_what_was_found_and_what_was_written(workspace):
    out = workspace / "out"
    report = json.loads((out / "export.json").read_text())
    assert report["command"].startswith("ernie-sparse export") and report["versions"]["onnxruntime"]
    assert set(report["differences"]) == {"1", "16", "64"} and 0 < report["largest_difference"] < 1e-5
    assert set(report["int8"]["seconds"]["64"]) == {"fp32", "int8", "ratio"}
    sizes = [(out / "onnx" / name).stat().st_size / 1e6 for name in ("model.onnx", "model_quantized.onnx")]
    assert list(report["megabytes"].values()) == pytest.approx(sizes, abs=1e-3)
    data = report["data_file"]
    assert data["rows"] == data["scored_rows"] == 12 and 0 < data["symmetric_kl"] < 0.01
    assert data["scores"]["fp32"].keys() == data["scores"]["int8"].keys() == {"accuracy", "f1"}
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == {*report["files"], "export.json"} >= {"finetune.json", "tokenizer.json", "config.json"}
    # Nothing tells where it was traced.
    assert b"site-packages" not in (out / "onnx" / "model.onnx").read_bytes()


@pytest.mark.slow
def test_an_earlier_export_is_replaced_and_anything_else_is_kept(workspace, traced, tmp_path, capsys):
    out = shutil.copytree(workspace / "out", tmp_path / "out")
    assert run(workspace / "classifier", out) == 0
    assert not (out / "onnx" / "model_quantized.onnx").exists() and (out / "onnx" / "model.onnx").exists()
    (out / "notes.txt").write_text("mine")
    assert run(workspace / "classifier", out) == 2
    assert "not all in it is of an earlier export (notes.txt)" in capsys.readouterr().err
    (out / "export.json").write_text("{}")
    assert run(workspace / "classifier", out) == 2
    assert (out / "notes.txt").exists() and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_file_that_differs_from_the_model_is_refused_and_leaves_what_was_there(workspace, traced, tmp_path, capsys):
    out = shutil.copytree(workspace / "out", tmp_path / "out")
    before = (out / "export.json").read_bytes()
    model = load(workspace / "classifier")
    model.ernie_sparse.encoder.layer[0].output.dense.bias.data[0] += 0.01
    shutil.copytree(workspace / "classifier", tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    for target in (out, tmp_path / "new"):
        assert run(tmp_path / "other", target) == 2
        error = capsys.readouterr().err
        assert "the file differs from PyTorch by up to" in error and "--tolerance 0.0001" in error
    assert (out / "export.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


@pytest.mark.slow
def test_a_fault_half_way_keeps_its_traceback_and_leaves_nothing(workspace, traced, tmp_path, monkeypatch):
    def fails(graph, inputs):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(export_module, "quantize", fails)
    with pytest.raises(RuntimeError, match="no such operator"):
        run(workspace / "classifier", tmp_path / "out", "--int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", export_module.PACKAGES)
def test_a_missing_extra_is_named(missing, given, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == missing else find(name, *more))
    assert run(given / "classifier", tmp_path / "out") == 2
    assert f"--format onnx needs {missing}: pip install {missing}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sentence_transformers_own_files_go_along(workspace, traced, tmp_path):
    model = shutil.copytree(workspace / "classifier", tmp_path / "model")
    modules = [{"idx": 0, "name": "0", "path": ""}, {"idx": 1, "name": "1", "path": "1_Pooling"}]
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text("{}")
    assert run(model, tmp_path / "out") == 0
    assert (tmp_path / "out" / "1_Pooling" / "config.json").exists() and (tmp_path / "out" / "modules.json").exists()


MODELS = {
    "base": (ErnieSparseModel, {}),
    "candidate_choice": (ErnieSparseForCandidateChoice, {}),
    **{name: (head.model, head.config) for name, head in HEADS.items()},
}


# The second has more global and random blocks than short documents have: these are padded inside.
PATTERNS = [
    SparsePattern(8),
    SparsePattern(8, 3, 3, 4, 5, seed=3),
    SparsePattern(8, 1, 0, hierarchical=False),
    SparsePattern(128, 9),
    SparsePattern.full(8),
]
CASES = [*itertools.product(MODELS, PATTERNS[:2]), *(("base", pattern) for pattern in PATTERNS[2:])]


@pytest.mark.slow
@pytest.mark.parametrize("name, pattern", CASES, ids=str)
def test_every_head_and_every_pattern(name, pattern, tmp_path):
    model_class, config = MODELS[name]
    model = build(model_class, pattern, **config)
    names = [*NAMES, "candidate_positions"] if name == "candidate_choice" else NAMES
    save(trace(model, names)[0], tmp_path / "model.onnx")
    compare_with_pytorch(Session(tmp_path / "model.onnx"), model, names)


@pytest.mark.slow
def test_weights_that_one_file_cannot_hold_lie_beside_it(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr("ernie_sparse.onnx_files.MAX_FILE_BYTES", 100)
    save(onnx_ir.load(workspace / "out" / "onnx" / "model.onnx"), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx_data").stat().st_size > (tmp_path / "model.onnx").stat().st_size / 10
    compare_with_pytorch(Session(tmp_path / "model.onnx"), load(workspace / "classifier"), NAMES, (16,))


def agreement(task_type, folder, change, rows=None):
    model = write_model(folder / "model", task_type)
    file = write_jsonl(folder / "rows.jsonl", make_rows(task_type, 9, 0) if rows is None else rows)
    other = copy.deepcopy(model)
    change(other)
    return RowsOfFile(str(file), str(folder / "model"), model, make_tokenizer()).compare(model, other), model, other


def test_agreement_counts_flips_distances_and_scores_of_labelled_rows(tmp_path):
    def reverse(model):
        model.classifier.weight.data = model.classifier.weight.data.flip(0)
        model.classifier.bias.data = model.classifier.bias.data.flip(0)

    rows = make_rows("single_label", 9, 0)
    rows[0]["label"], rows[1]["label"], rows[2]["text"] = None, "west", ""
    found, model, other = agreement("single_label", tmp_path, reverse, rows)
    assert (found["rows"], found["refused"], found["scored_rows"], found["flipped"]) == (8, 1, 6, 1.0)
    assert found["scores"]["fp32"]["accuracy"] + found["scores"]["int8"]["accuracy"] == pytest.approx(1.0)
    divergences = []
    for row in (*rows[:2], *rows[3:]):
        inputs = make_tokenizer()(row["text"], truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            p, q = (form(**inputs).logits.double().softmax(-1) for form in (model, other))
        divergences.append(0.5 * ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()).item())
    assert found["symmetric_kl"] == pytest.approx(sum(divergences) / 8, rel=1e-3)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_a_model_agrees_with_itself_on_every_type_of_rows(task_type, tmp_path):
    found, *_ = agreement(task_type, tmp_path, lambda model: None)
    assert found["rows"] == found["scored_rows"] == 9 and found["symmetric_kl"] == 0.0
    assert found["flipped"] == (None if task_type == "regression" else 0.0)
    assert found["scores"]["fp32"] == found["scores"]["int8"] != {}


def test_rows_without_labels_have_no_scores(tmp_path):
    rows = [{"text": "north wind"}, {"text": "south"}]
    found, *_ = agreement("single_label", tmp_path, lambda model: None, rows)
    assert found["rows"] == 2 and found["scored_rows"] == 0 and found["scores"] == {}


def test_rows_of_which_none_can_be_predicted_are_refused(tmp_path):
    with pytest.raises(InputError, match="column 'text'"):
        agreement("single_label", tmp_path, lambda model: None, [{"body": "north"}])
