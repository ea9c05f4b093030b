# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse robustness`: every head, what the report says, going on after a stop, the dial, and what is refused."""

import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image
from safetensors.torch import load_file
from test_export import build, write_model
from test_finetune_predict import make_rows, make_tokenizer, read_jsonl, write_jsonl
from test_resuming import killed
from transformers import AutoConfig, set_seed

from ernie_sparse import (
    ErnieSparseForMaskedLM,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    SparsePattern,
    cli,
)
from ernie_sparse.finetune.task_types import TASK_TYPES
from ernie_sparse.robustness import measures, report, runner, subject
from ernie_sparse.saor import categorical_divergence

DRAW = report.draw
MEASURED = {"seconds_per_document", "relative_time", "peak_memory_mib", "relative_memory"}
FEW = ("--patterns", "block_size=4,block_shift=0", "hierarchical=false")


def run(*argv) -> int:
    return cli.main(["robustness", *map(str, argv)])


def read(folder: Path) -> dict:
    return json.loads((folder / "robustness.json").read_text())


def lasting(results: dict) -> list[dict]:
    """The patterns without what a clock has measured."""
    return [{name: value for name, value in entry.items() if name not in MEASURED} for entry in results["patterns"]]


def forget_attention(folder: Path):
    """Make the saved model one whose outputs cannot depend on what is attended to: all values are 0."""
    model = ErnieSparseForSequenceClassification.from_pretrained(folder)
    for layer in model.ernie_sparse.encoder.layer:
        torch.nn.init.zeros_(layer.attention.self.value.weight)
        torch.nn.init.zeros_(layer.attention.self.value.bias)
    model.save_pretrained(folder)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Most of the time would go into the bootstrap, the clock and pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "MANY_DRAWS", 80)
        patch.setattr(measures, "TIMED_RUNS", 1)
        patch.setattr(report, "draw", lambda results, path: False)
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A model and rows of every type of task, a masked language model and a text, and a classifier that attends to nothing."""
    root = tmp_path_factory.mktemp("robustness")
    set_seed(0)
    for task_type in TASK_TYPES:
        write_model(root / task_type, task_type)
        write_jsonl(root / f"{task_type}.jsonl", make_rows(task_type, 12, 0))
    build(ErnieSparseForMaskedLM).save_pretrained(root / "masked_lm")
    make_tokenizer().save_pretrained(root / "masked_lm")
    (root / "masked_lm.txt").write_text("north snow ice lemon bee wind . " * 30)
    write_model(root / "steady")
    forget_attention(root / "steady")
    return root


def reported(workspace, out: Path, kind="single_label", *more) -> dict:
    rows = workspace / (f"{kind}.txt" if kind == "masked_lm" else f"{kind}.jsonl")
    assert run("--model", workspace / kind, "--validation-file", rows, "--output-dir", out, *FEW, *more) == 0
    return read(out)


def test_time_and_memory_are_left_out_where_they_are_not_asked_for(workspace, tmp_path, monkeypatch):
    def never(*args):
        raise AssertionError

    monkeypatch.setattr(runner, "seconds_beside", never)
    monkeypatch.setattr(runner, "peak_memory", never)
    results = reported(workspace, tmp_path / "out", "single_label", "--timing", "false")
    assert all(entry[name] is None for entry in results["patterns"] for name in MEASURED)
    assert "**time** and **memory** were not measured here." in (tmp_path / "out" / "robustness.md").read_text()


@pytest.mark.parametrize(
    "kind",
    ["masked_lm", *(pytest.param(name, marks=[pytest.mark.slow] * (name != "single_label")) for name in TASK_TYPES)],
)
def test_every_head_has_a_report(kind, workspace, tmp_path):
    results = reported(workspace, tmp_path / "out", kind)
    own, *others = results["patterns"]
    assert [entry["name"] for entry in results["patterns"]][1:] == ["block_size=4,block_shift=0", "hierarchical=false"]
    assert own["mean_kl"] == 0 and own["relative_cost"] == own["relative_time"] == 1
    assert own["retention"] == (100 if own["score"] > 0 else None)
    for entry in others:
        assert 0 < entry["mean_kl"] < 5 and entry["pattern"] == str(SparsePattern.parse(entry["pattern"]))
        assert entry["interval"][0] <= entry["score"] <= entry["interval"][1] or kind == "regression"
        assert entry["seconds_per_document"] > 0 and entry["keys_per_query"] > 0
        assert entry["flips"] is None if kind == "regression" else 0 <= entry["flips"] <= 1
    assert others[1]["relative_cost"] < 1 and results["kind"] == kind
    names = {"robustness.json", "robustness.md", "run.json", "patterns"}
    assert {path.name for path in (tmp_path / "out").iterdir()} - {".lock"} == names


@torch.no_grad()
def test_the_divergence_of_words_is_of_words_alone(workspace, tmp_path):
    results = reported(workspace, tmp_path / "out", "token_classification")
    model = ErnieSparseForTokenClassification.from_pretrained(workspace / "token_classification").eval()
    tokenizer, found = make_tokenizer(), []
    for row in make_rows("token_classification", 12, 0):
        inputs = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        own, other = (model(**inputs, pattern=results["patterns"][i]["pattern"]).logits for i in (0, 2))
        # Each word is a token, and [CLS] and [SEP] are none.
        found.append(categorical_divergence(own[0, 1:-1], other[0, 1:-1]))
    assert results["patterns"][2]["mean_kl"] == pytest.approx(torch.cat(found).mean().item(), rel=1e-3)


@pytest.fixture(scope="module")
def whole(workspace, tmp_path_factory):
    """A report over the default patterns."""
    out = tmp_path_factory.mktemp("whole") / "out"
    rows = workspace / "question_answering.jsonl"
    assert run("--model", workspace / "question_answering", "--validation-file", rows, "--output-dir", out) == 0
    return out


def test_the_report_says_what_was_measured_and_how(whole, workspace):
    results = read(whole)
    assert (
        results["metric"] == "f1"
        and results["documents"] == 12
        and results["own_pattern"] == results["patterns"][0]["pattern"]
    )
    assert results["command"].startswith("ernie-sparse robustness --model") and results["versions"]["torch"]
    assert (
        results["hardware"]["threads"] == 1 and len(results["environments"]) == 1 and results["arguments"]["seed"] == 42
    )
    assert len(results["patterns"]) == 11 and results["attention"] == {"documents": 8, "tokens": 64}
    by_name = {entry["name"]: entry for entry in results["patterns"]}
    dropped = {name: entry["dropped_attention"] for name, entry in by_name.items()}
    assert (
        dropped["full attention"]
        == 0
        < dropped["num_window_blocks=5"]
        < dropped["own"]
        < dropped["num_global_blocks=0"]
        < 1
    )
    text = (whole / "robustness.md").read_text()
    assert text.count("\n| ") == 13 and results["command"] in text and "question_answering under other" in text
    assert re.search(r"At most \d+\.\d % of the predictions flip, under ", text)


@pytest.mark.slow
def test_pictures_have_a_place_for_every_pattern(whole, tmp_path):
    results = read(whole)
    assert DRAW(results, tmp_path / "scored.png") and DRAW({**results, "metric": None}, tmp_path / "unscored.png")
    sizes = [image.imread(tmp_path / f"{name}.png").shape[1] for name in ("scored", "unscored")]
    assert sizes[0] > sizes[1] > 500


def test_predictions_under_the_own_pattern_are_those_of_predict(whole, workspace, tmp_path):
    source = workspace / "question_answering.jsonl"
    words = ("predict", "--model", workspace / "question_answering", "--input-file", source)
    own = read(whole)["own_pattern"]
    assert cli.main([*map(str, words), "--output-file", str(tmp_path / "own.jsonl")]) == 0
    changed = str(SparsePattern.parse(own).changed_by("num_global_blocks=0"))
    assert cli.main([*map(str, words), "--output-file", str(tmp_path / "other.jsonl"), "--pattern", changed]) == 0
    answers = [[row["answer"] for row in read_jsonl(tmp_path / f"{name}.jsonl")] for name in ("own", "other")]
    kept = [json.loads((whole / "patterns" / f"{pattern}.json").read_text()) for pattern in (own, changed)]
    assert [entry["answers"] for entry in kept] == answers
    assert kept[1]["flips"] == np.mean([one != other for one, other in zip(*answers, strict=True)]) > 0


def test_a_model_that_cannot_depend_on_the_pattern_keeps_everything(workspace, tmp_path):
    rows = workspace / "single_label.jsonl"
    assert run("--model", workspace / "steady", "--validation-file", rows, "--output-dir", tmp_path / "out") == 0
    for entry in read(tmp_path / "out")["patterns"]:
        assert entry["flips"] == 0 and entry["mean_kl"] < 1e-12 and entry["retention"] == 100


@pytest.mark.slow
def test_it_is_deterministic_and_a_finished_report_is_not_measured_again(workspace, tmp_path, monkeypatch):
    first = reported(workspace, tmp_path / "out", "single_label", "--max-documents", 7)
    assert first["documents"] == 7
    assert lasting(reported(workspace, tmp_path / "other", "single_label", "--max-documents", 7)) == lasting(first)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "seconds_beside", None)
        again = reported(workspace, tmp_path / "out", "single_label", "--max-documents", 7)
        assert again["patterns"] == first["patterns"]
    # Other patterns may be asked for: what is there stays.
    more = reported(
        workspace, tmp_path / "out", "single_label", "--max-documents", 7, "--patterns", "num_window_blocks=1", "full"
    )
    assert len(more["patterns"]) == 3 and more["patterns"][0] == first["patterns"][0]


def test_a_report_that_was_stopped_goes_on_behind_its_finished_patterns(workspace, tmp_path, monkeypatch, capsys):
    expected, measured, write = reported(workspace, tmp_path / "unbroken"), [], runner.write_json
    words = ("--model", workspace / "single_label", "--validation-file", workspace / "single_label.jsonl")

    def stopped(path, *rest, **options):
        write(path, *rest, **options)
        measured.append(path.name)
        if len(measured) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_json", stopped)
        assert run(*words, "--output-dir", tmp_path / "out", *FEW) == 130
    assert "2 of 3 patterns are kept: the same command resumes after them" in capsys.readouterr().err
    assert not (tmp_path / "out" / "robustness.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(
            runner, "write_json", lambda path, *rest, **more: [write(path, *rest, **more), measured.append(path.name)]
        )
        assert lasting(reported(workspace, tmp_path / "out")) == lasting(expected)
    assert len(measured) == 3
    # Another run is none to go on with.
    other = ("--model", workspace / "steady", "--validation-file", workspace / "single_label.jsonl")
    assert run(*other, "--output-dir", tmp_path / "out", *FEW) == 2
    assert "holds another run, with model" in capsys.readouterr().err
    rows = write_jsonl(tmp_path / "rows.jsonl", read_jsonl(workspace / "single_label.jsonl")[1:])
    assert run(*words[:2], "--validation-file", rows, "--output-dir", tmp_path / "out", *FEW) == 2
    assert "holds a run on other data: validation has other rows now" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_report_that_was_killed_goes_on(when, workspace, tmp_path):
    words = ("--model", workspace / "single_label", "--validation-file", workspace / "single_label.jsonl")
    argv = ("robustness", *words, "--output-dir", tmp_path / "out", *FEW)
    assert killed("ernie_sparse.robustness.runner:write_json", 3, when, argv) == -signal.SIGKILL
    assert len(list((tmp_path / "out" / "patterns").glob("*.json"))) == (2 if when == "before" else 3)
    found, expected = (lasting(reported(workspace, tmp_path / name)) for name in ("out", "unbroken"))
    # The other process draws as often as users do.
    assert [{**entry, "interval": None} for entry in found] == [{**entry, "interval": None} for entry in expected]
    assert found[0]["interval"] != expected[0]["interval"] and (when == "before") == (
        found[2]["interval"] == expected[2]["interval"]
    )


@pytest.mark.parametrize(
    "kind",
    [
        "single_label",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("token_classification", "question_answering")),
    ],
)
def test_rows_without_labels_have_a_report_without_scores(kind, workspace, tmp_path):
    names = ("label", "labels", "answers")
    rows = [{name: value for name, value in row.items() if name not in names} for row in make_rows(kind, 12, 0)]
    source, out = write_jsonl(tmp_path / f"{kind}.jsonl", rows), tmp_path / kind
    words = ("--model", workspace / kind, "--validation-file", source, "--output-dir", out, *FEW)
    assert run(*words) == 2 and not out.exists()
    assert run(*words, "--unlabelled") == 0
    labelled = reported(workspace, tmp_path / f"{kind}-labelled", kind)
    for entry, other in zip(read(out)["patterns"], labelled["patterns"], strict=True):
        assert "score" not in entry and "retention" not in entry
        assert entry["flips"] == other["flips"] and entry["mean_kl"] == pytest.approx(other["mean_kl"])
    assert "none, for there are no labels" in (out / "robustness.md").read_text()


def test_a_task_of_the_list_brings_its_validation_set(workspace, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    for file in (workspace / "single_label").iterdir():
        shutil.copy(file, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["id2label"] = {"0": "neg", "1": "pos"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    rows = [{"text": row["text"], "label": number % 2} for number, row in enumerate(make_rows("single_label", 40, 1))]
    write_jsonl(tmp_path / "data" / "imdb" / "train.jsonl", rows)
    words = ("--model", tmp_path / "model", "--data-dir", tmp_path / "data", "--output-dir", tmp_path / "out", *FEW)
    # IMDb has no validation set: a tenth of its training set is held out.
    assert run(*words, "--task", "imdb") == 0
    assert read(tmp_path / "out")["documents"] == 4 and read(tmp_path / "out")["task"] == "imdb"
    assert run(*words, "--task", "squad") == 2
    assert "--task squad is question answering, and" in capsys.readouterr().err
    pairs = [{"sentence": row["text"], "label": row["label"], "idx": 7} for row in rows]
    write_jsonl(tmp_path / "data" / "glue" / "cola" / "validation.jsonl", pairs)
    assert run(*words, "--task", "cola") == 2
    assert "the label 'unacceptable' is none of" in capsys.readouterr().err


@pytest.mark.slow
def test_the_dial_saves_the_cheapest_pattern_and_says_what_it_costs(workspace, tmp_path, capsys):
    rows, out, saved = workspace / "single_label.jsonl", tmp_path / "out", tmp_path / "saved" / "model"
    test = write_jsonl(tmp_path / "test.jsonl", make_rows("single_label", 9, 5))
    model = shutil.copytree(workspace / "steady", tmp_path / "model")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    words = ("--model", model, "--validation-file", rows, "--output-dir", out, "--choose")
    assert run(*words, "--epsilon", "0.1", "--save", saved, "--test-file", test) == 0
    results, said = read(out), capsys.readouterr().out
    costs = {entry["name"]: entry["relative_cost"] for entry in results["patterns"]}
    choice = results["choice"]
    assert choice["name"] == min(costs, key=costs.get) == "hierarchical=false" and choice["saved_in"] == str(saved)
    assert (
        choice["losses"]["hierarchical=false"]["at_most"]
        == choice["test"]["loss"]
        == choice["test"]["loss_at_most"]
        == 0
    )
    assert choice["test"]["documents"] == 9 and choice["test"]["flips"] == 0
    assert (
        "The cheapest pattern that loses at most 0.1 points of accuracy with 95 % confidence is hierarchical=false"
        in said
    )
    assert "On 9 test documents accuracy is" in said and choice["pattern"] in (out / "robustness.md").read_text()
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    assert str(AutoConfig.from_pretrained(saved).pattern) == choice["pattern"]
    own, copied = load_file(model / "model.safetensors"), load_file(saved / "model.safetensors")
    assert own.keys() == copied.keys() and all(torch.equal(weight, copied[name]) for name, weight in own.items())
    assert (
        cli.main(
            ["predict", "--model", str(saved), "--input-file", str(rows), "--output-file", str(tmp_path / "p.csv")]
        )
        == 0
    )
    # Into the model's own folder: its config changes, and nothing else.
    assert run(*words, "--save", model) == 0
    after = {path.name: path.read_bytes() for path in model.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {
        "config.json"
    } and after.keys() == before.keys()
    assert json.loads(after["config.json"])["hierarchical"] is False


def test_the_dial_says_plainly_when_nothing_qualifies(workspace, tmp_path, capsys):
    # What the model itself answers is right: whatever flips is lost.
    own = reported(workspace, tmp_path / "own")["own_pattern"]
    answers = json.loads((tmp_path / "own" / "patterns" / f"{own}.json").read_text())["answers"]
    rows = [{**row, "label": answer} for row, answer in zip(make_rows("single_label", 12, 0), answers, strict=True)]
    source, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    words = ("--model", workspace / "single_label", "--validation-file", source, "--output-dir", out, "--choose")
    assert run(*words, "--save", tmp_path / "saved", "--test-file", source, *FEW) == 0
    said, results = capsys.readouterr().out, read(out)
    lost = results["choice"]["losses"]["hierarchical=false"]
    flips = results["patterns"][2]["flips"]
    assert results["patterns"][0]["score"] == 1 and lost["points"] == pytest.approx(100 * flips) and flips > 0
    assert (
        "Nothing was chosen: of no cheaper pattern can it be said with 95 % confidence that it loses at most 0.5"
        in said
    )
    assert f"The nearest is hierarchical=false: it loses {lost['points']:.2f} points here, and at most " in said
    assert results["choice"]["pattern"] is None and not (tmp_path / "saved").exists()
    assert run(*words, "--patterns", "block_size=4,block_shift=0") == 0
    assert "Nothing was chosen: none of the patterns is cheaper than the own one." in capsys.readouterr().out


def test_answers_that_are_missing_are_named(workspace, tmp_path, capsys):
    rows = [{"question": "who ?", "context": "anna snow"}]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    words = ("--model", workspace / "question_answering", "--validation-file", source, "--output-dir", tmp_path / "out")
    assert run(*words) == 2
    assert "there are no answers to score with: the columns 'answers' and 'aliases'" in capsys.readouterr().err
