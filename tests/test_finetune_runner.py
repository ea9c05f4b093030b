# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning from end to end on toy problems: what it learns, what it leaves, how it goes on and what it repeats."""

import dataclasses
import json
import random
import shutil
import statistics
import warnings
from pathlib import Path

import datasets
import evaluate
import pytest
import torch
from filelock import FileLock
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from test_finetune_predict import (
    FILLER,
    SIZES,
    arguments,
    finetune,
    finetuned,
    make_tokenizer,
    read_jsonl,
    read_results,
    workspace,
    write_jsonl,
)
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from ernie_sparse import ErnieSparseForCandidateChoice, cli
from ernie_sparse.configuration_ernie_sparse import code_files
from ernie_sparse.errors import InputError
from ernie_sparse.finetune import evaluate_modules, preparation, runner
from ernie_sparse.finetune.prediction_files import SAME_ID
from ernie_sparse.finetune.settings import Settings
from ernie_sparse.finetune.task_types import TASK_TYPES
from ernie_sparse.finetune.tasks import GLUE, OWN_FILES, TASKS

AUTO_CLASSES = {
    **dict.fromkeys(("single_label", "multi_label", "regression"), AutoModelForSequenceClassification),
    "token_classification": AutoModelForTokenClassification,
    "question_answering": AutoModelForQuestionAnswering,
    "candidate_choice": ErnieSparseForCandidateChoice,
}


def read_arguments(words: list[str]) -> tuple:
    parser = runner.make_parser()
    return runner.fill_arguments(parser, parser.given(words))


def prepare(*more, **choices) -> preparation.Job:
    """What stands before the training."""
    name, task, args, _, training = read_arguments(arguments(Path("unused"), *more, **choices)[1:])
    return preparation.prepare(name, task, args, training)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def are_equal(left: Path, right: Path) -> bool:
    left, right = state_of(left), state_of(right)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "task_type",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("single_label", "question_answering")))
        for name in TASK_TYPES
    ],
)
def test_every_task_type_learns_its_toy_problem_and_leaves_what_is_promised(task_type):
    out = finetuned(task_type)
    results, rows = read_results(out), read_jsonl(workspace() / f"{task_type}-test.jsonl")
    expected = {
        "single_label": {"accuracy": 1.0, "f1": 1.0},
        "multi_label": {"f1": 1.0, "f1_macro": 1.0, "exact_match": 1.0},
        "question_answering": {"exact_match": 100.0, "f1": 100.0},
        "candidate_choice": {"accuracy": 1.0},
    }
    if task_type == "regression":
        assert results["pearson"] > 0.8 and results["mse"] < 0.25 and results["spearmanr"] > 0.8
    elif task_type == "token_classification":
        assert min(results[name] for name in ("accuracy", "f1", "precision", "recall")) > 0.85
    else:
        assert {name: results[name] for name in expected[task_type]} == expected[task_type]
    assert results["evaluated_on"] == "test" and results["rows"] == SIZES
    assert {name: results[name] for name in results["splits"]["test"]} == results["splits"]["test"]
    assert set(results["splits"]) == {"validation", "test"}
    assert set(results["features"]) == set(SIZES) and set(results["notes"]) == set(SIZES)
    assert results["largest_class"] == (4 / 7 if task_type == "single_label" else None)
    assert results["command"].startswith(f"ernie-sparse finetune --model {workspace()}")
    assert results["seed"] == 42 and results["steps"] > 0 and "transformers" in results["versions"]
    # SAOR was asked for.
    assert all(entry["consistency_loss"] > 0 for entry in results["history"] if "loss" in entry)
    assert any("consistency_loss" in entry for entry in results["history"])
    for split in ("validation", "test"):
        predictions = read_jsonl(out / f"predictions-{split}.jsonl")
        ids = [row["id"] for row in read_jsonl(workspace() / f"{task_type}-{split}.jsonl")]
        assert [row["id"] for row in predictions] == ids
        assert (out / f"answers-{split}.json").exists() == (task_type == "question_answering")
    assert (out / "predictions.png").exists() == (task_type in ("single_label", "regression"))
    assert (out / "training.png").stat().st_size > 5000
    settings = Settings.load(out, AutoConfig.from_pretrained(out), AutoTokenizer.from_pretrained(out))
    settings = dataclasses.replace(settings, metrics=OWN_FILES[task_type].metrics)
    score = TASK_TYPES[task_type].score(predictions, datasets.Dataset.from_list(rows), settings)
    assert score == pytest.approx({name: results["splits"]["test"][name] for name in score})
    card = ModelCard.load(out / "README.md").data
    reported = {entry.metric_type: entry.metric_value for entry in card.eval_results}
    assert reported == pytest.approx({name: round(value, 6) for name, value in score.items()})
    assert card.library_name == "transformers" and card.eval_results[0].dataset_split == "test"


@pytest.mark.slow
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_a_fine_tuned_model_reloads_as_it_was(task_type):
    out = finetuned(task_type)
    model = AUTO_CLASSES[task_type].from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("snow north")["input_ids"] == make_tokenizer()("snow north")["input_ids"]
    assert isinstance(model, TASK_TYPES[task_type].model_class)
    names = {
        "single_label": {0: "north", 1: "south"},
        "multi_label": {0: "north", 1: "south", 2: "windy"},
        "token_classification": {0: "B-SIDE", 1: "O"},
    }
    if task_type in names:
        assert model.config.id2label == names[task_type]
        assert model.config.label2id == {name: number for number, name in names[task_type].items()}
    assert getattr(model.config, "problem_type", None) == TASK_TYPES[task_type].problem_type
    if task_type == "single_label":
        with torch.no_grad():
            logits = model.eval()(**tokenizer("south south snow snow", return_tensors="pt")).logits
        assert logits.argmax().item() == 1
    if task_type == "question_answering":
        answers = json.loads((out / "answers-test.json").read_text())
        assert answers == {row["id"]: row["answer"] for row in read_jsonl(out / "predictions-test.jsonl")}


def test_a_model_keeps_the_length_that_it_was_trained_on(tmp_path):
    assert finetune(tmp_path / "out", "--max-length", 16, "--num-train-epochs", 1)["max_length"] == 16
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 16
    source = write_jsonl(tmp_path / "long.jsonl", [{"text": " ".join(["north"] * 9 + FILLER * 5 + ["south"] * 9)}])
    words = ["predict", "--model", tmp_path / "out", "--input-file", source, "--output-file", tmp_path / "out.jsonl"]
    assert cli.main([str(word) for word in words]) == 0
    (predicted,), (row,) = read_jsonl(tmp_path / "out.jsonl"), read_jsonl(source)
    scores = pipeline("text-classification", str(tmp_path / "out"))(row["text"], truncation=True, top_k=None)
    assert {entry["label"]: entry["score"] for entry in scores} == pytest.approx(predicted["scores"], abs=1e-6)


def test_long_questions_are_read_in_windows_and_long_texts_are_counted(tmp_path):
    assert read_results(finetuned("question_answering"))["features"]["test"] > SIZES["test"]
    job = prepare("--max-length", 16)
    long = job.notes["train"]["longer than the limit"]
    lengths = [len(row["text"].split()) + 2 for row in read_jsonl(workspace() / "single_label-train.jsonl")]
    assert 0 < len(long) < 32 and len(long) == sum(length > 16 for length in lengths)
    results = finetune(tmp_path, "--max-length", 16, "--longer-than", 20, "--max-steps", 1)
    rows = read_jsonl(workspace() / "single_label-test.jsonl")
    is_long = [len(row["text"].split()) + 2 > 20 for row in rows]
    part = results["splits"]["test"]["longer_than_20"]
    predicted = read_jsonl(tmp_path / "predictions-test.jsonl")
    right = [p["label"] == row["label"] for p, row, long in zip(predicted, rows, is_long, strict=True) if long]
    assert 0 < part["documents"] == sum(is_long) < 7 and part["accuracy"] == statistics.fmean(right)
    noted = results["notes"]["test"]["longer than the limit"]
    assert noted["count"] == sum(len(row["text"].split()) + 2 > 16 for row in rows) == len(noted["first"])


@pytest.mark.slow
def test_seeds_are_runs_of_their_own_and_a_kill_costs_only_the_one_that_ran(tmp_path):
    flags = ("--seeds", 0, 1, "--num-train-epochs", 2)
    results = finetune(tmp_path, *flags)
    runs = [read_results(tmp_path / f"seed-{seed}") for seed in (0, 1)]
    assert [run["seed"] for run in runs] == [0, 1] and not are_equal(tmp_path / "seed-0", tmp_path / "seed-1")
    losses = [run["splits"]["test"]["loss"] for run in runs]
    assert results["mean"]["loss"] == pytest.approx(statistics.fmean(losses))
    assert results["std"]["loss"] == pytest.approx(statistics.stdev(losses)) and results["std"]["loss"] > 0
    assert results["accuracy"] == results["mean"]["accuracy"] and set(results["seeds"]) == {"0", "1"}
    assert cli.main(arguments(tmp_path, *flags)) == 2
    before = (tmp_path / "seed-0" / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "seed-1")
    again = finetune(tmp_path, *flags)
    assert (tmp_path / "seed-0" / "model.safetensors").stat().st_mtime_ns == before
    assert again["mean"] == pytest.approx(results["mean"]) and again["std"] == pytest.approx(results["std"])
    for split in ("validation", "test"):
        losses = [run["splits"][split]["loss"] for run in runs]
        assert again["splits"][split]["mean"]["loss"] == pytest.approx(statistics.fmean(losses))


@pytest.mark.slow
def test_what_another_run_has_left_is_not_taken_for_this_ones(tmp_path, capsys):
    flags = ("--seeds", 0, "--max-steps", 1)
    # A seed that is done is gone on from though it has left no checkpoint.
    finetune(tmp_path / "seeds", *flags, "--save-strategy", "no")
    finetune(tmp_path / "one", *flags[2:], "--save-strategy", "steps", "--eval-strategy", "no", "--save-steps", 1)
    for folder, words in (("seeds", flags), ("one", flags[2:])):
        for more, message in (
            (("--learning-rate", "1e-4"), "learning_rate 0.003 and not 0.0001"),
            (
                ("--max-length", 32, "--saor-alpha", 1),
                "max_length 64 and not 32, stride 16 and not 8, regularization none and not saor, saor_alpha 0.0 and not 1.0",
            ),
        ):
            capsys.readouterr()
            assert cli.main(arguments(tmp_path / folder, *words, *more)) == 2
            assert f"{tmp_path / folder} holds another run, with {message}" in capsys.readouterr().err
    # No flag asks for SAOR.
    assert not any("consistency_loss" in entry for entry in read_results(tmp_path / "one")["history"])
    # What stands in for a flag may be spelt out.
    spelt = ("--text-column", "text", "--max-length", 64, "--stride", 16, "--tokenizer", workspace() / "model")
    results = (tmp_path / "one" / "results.json").read_bytes()
    words = ("--save-strategy", "steps", "--eval-strategy", "no", "--save-steps", 1)
    finetune(tmp_path / "one", *flags[2:], *words, *spelt, "--pattern", read_results(tmp_path / "one")["pattern"])
    assert (tmp_path / "one" / "results.json").read_bytes() == results
    # Another seed more is still the same comparison.
    flags = (*flags[2:], "--save-strategy", "no")
    assert set(finetune(tmp_path / "seeds", "--seeds", 0, 1, *flags)["seeds"]) == {"0", "1"}


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    flags = ("--num-train-epochs", 2)
    finetune(tmp_path / "whole", *flags)
    finetune(tmp_path / "killed", *flags)
    shutil.rmtree(tmp_path / "killed" / "checkpoint-8")
    for name in ("model.safetensors", "results.json"):
        (tmp_path / "killed" / name).unlink()
    assert cli.main(arguments(tmp_path / "killed", *flags)) == 2
    results = finetune(tmp_path / "killed", *flags)
    assert are_equal(tmp_path / "killed", tmp_path / "whole")
    assert results["splits"] == read_results(tmp_path / "whole")["splits"]


def test_the_best_checkpoint_is_the_one_that_stays_and_patience_ends_early(tmp_path, monkeypatch):
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.8])
    scripted = TASK_TYPES["single_label"]._replace(score=lambda *_: {"accuracy": next(scores, 0.0)})
    monkeypatch.setitem(TASK_TYPES, "single_label", scripted)
    results = finetune(tmp_path, "--early-stopping-patience", 2, "--save-total-limit", 5)
    evaluations = [entry["eval_accuracy"] for entry in results["history"] if "eval_accuracy" in entry]
    assert evaluations == [0.1, 0.9, 0.3, 0.2] and results["steps"] == 16
    assert are_equal(tmp_path, tmp_path / "checkpoint-8") and not are_equal(tmp_path, tmp_path / "checkpoint-16")


@pytest.mark.slow
def test_class_weights_are_inverse_to_counts_and_reach_the_training(tmp_path):
    rows = read_jsonl(workspace() / "single_label-train.jsonl")
    rare = write_jsonl(tmp_path / "rare.jsonl", [*rows[0:16:2], *rows[1:4:2]])
    flags = ("--train-file", rare, "--max-steps", 2)
    weights = prepare(*flags, "--class-weights", "balanced").class_weights
    torch.testing.assert_close(weights, torch.tensor([10 / (2 * 8), 10 / (2 * 2)]))
    assert prepare(*flags).class_weights is None
    for name, more in (("none", ()), ("balanced", ("--class-weights", "balanced"))):
        finetune(tmp_path / name, *flags, *more)
    assert not are_equal(tmp_path / "none", tmp_path / "balanced")
    of_tokens = prepare("--class-weights", "balanced", task_type="token_classification")
    labels = [label for row in read_jsonl(workspace() / "token_classification-train.jsonl") for label in row["labels"]]
    expected = torch.tensor([len(labels) / 2 / labels.count(name) for name in ("B-SIDE", "O")])
    torch.testing.assert_close(of_tokens.class_weights, expected)


def test_adapters_are_merged_into_an_ordinary_checkpoint(tmp_path):
    pytest.importorskip("peft")
    results = finetune(tmp_path, "--lora-rank", 4, "--max-steps", 4)
    tuned, base = state_of(tmp_path), state_of(workspace() / "model")
    assert tuned.keys() == state_of(finetuned("single_label")).keys()
    changed = {name for name in tuned.keys() & base.keys() if not torch.equal(tuned[name], base[name])}
    projections = {name for name in base if name.endswith((".query.weight", ".value.weight"))}
    assert projections and projections <= changed
    assert not {name for name in changed if "intermediate" in name or ".key." in name or "word_embeddings" in name}
    # What was evaluated is what was saved.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows, predictions = (
        read_jsonl(workspace() / "single_label-test.jsonl"),
        read_jsonl(tmp_path / "predictions-test.jsonl"),
    )
    for row, found in zip(rows, predictions, strict=True):
        with torch.no_grad():
            probabilities = model(**tokenizer(row["text"], return_tensors="pt")).logits.softmax(-1)[0]
        assert list(found["scores"].values()) == pytest.approx(probabilities.tolist(), abs=1e-5)
    right = [row["label"] == found["label"] for row, found in zip(rows, predictions, strict=True)]
    assert results["splits"]["test"]["accuracy"] == statistics.fmean(right)


@pytest.mark.slow
def test_a_search_takes_the_best_of_its_trials(tmp_path, capsys):
    pytest.importorskip("optuna")
    flags = ("--search-trials", 2, "--num-train-epochs", 3, "--max-train-documents", 8)
    results = finetune(tmp_path, *flags)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    searched = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")
    chosen = {line[0]: float(line[-1]) for line in lines if line and line[0] in searched}
    assert 3e-3 / 4 <= chosen["learning_rate"] <= 3e-3 * 4 and chosen["num_train_epochs"] in range(1, 7)
    steps = -(-8 // int(chosen["per_device_train_batch_size"])) * int(chosen["num_train_epochs"])
    assert results["steps"] == steps
    used = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert all(getattr(used, name) == pytest.approx(value, rel=1e-4) for name, value in chosen.items())
    first = next(entry for entry in results["history"] if "eval_accuracy" in entry)
    assert first["epoch"] == 1 and (tmp_path / "model.safetensors").is_file()
    kept = json.loads((tmp_path / "search.json").read_text())
    assert kept["trials"] == 2 and 0 <= kept["accuracy"] <= 1
    assert {name: results["arguments"][name] for name in searched} == kept["best"] == pytest.approx(chosen, rel=1e-4)
    # The same seed finds the same; what goes on does not look again.
    finetune(tmp_path / "again", *flags)
    assert json.loads((tmp_path / "again" / "search.json").read_text()) == kept
    (tmp_path / "search.json").write_text(json.dumps({**kept, "best": {**kept["best"], "learning_rate": 1e-5}}))
    shutil.rmtree(tmp_path / "search")
    (tmp_path / "results.json").unlink()
    resumed = finetune(tmp_path, *flags)
    assert resumed["arguments"]["learning_rate"] == 1e-5 and not (tmp_path / "search").exists()


def test_rows_that_cannot_be_trained_on_are_named_and_the_run_goes_on(tmp_path):
    rows = read_jsonl(workspace() / "question_answering-train.jsonl")
    rows[3]["answers"] = {"text": ["oslo"], "answer_start": [0]}
    test = read_jsonl(workspace() / "question_answering-test.jsonl")
    test[1]["answers"], test[2]["context"] = rows[3]["answers"], ""
    files = ("--train-file", write_jsonl(tmp_path / "train.jsonl", rows))
    files += ("--test-file", write_jsonl(tmp_path / "test.jsonl", test))
    results = finetune(tmp_path / "out", *files, "--max-steps", 1, task_type="question_answering")
    assert results["notes"]["train"] == {"answer not in the context": {"count": 1, "first": ["q3"]}}
    assert results["notes"]["test"] == {
        "answer not in the context": {"count": 1, "first": ["q1"]},
        "answer, but an empty context": {"count": 1, "first": ["q2"]},
    }
    # In evaluation they stay, and count as wrong.
    assert results["rows"]["test"] == 7 and results["exact_match"] <= 100 * 5 / 7
    predictions = read_jsonl(tmp_path / "out" / "predictions-test.jsonl")
    assert [row["id"] for row in predictions] == [row["id"] for row in test] and predictions[2]["answer"] == ""


def test_numbers_among_words_in_csv_are_classes_like_others(tmp_path):
    rows = "".join(f"{'north south'.split()[n % 2]} snow,{['1', 'a'][n % 2]}\n" for n in range(12))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    job = prepare("--train-file", tmp_path / "train.csv", splits=("train",))
    assert job.settings.label_names == ("1", "a") and job.config.id2label == {0: "1", 1: "a"}


def test_what_is_trained_and_evaluated_on_can_be_less(tmp_path):
    rows = read_jsonl(workspace() / "single_label-train.jsonl")
    test = write_jsonl(tmp_path / "test.jsonl", [*rows[3:5], {"id": "new", "text": "grass", "label": "north"}])
    job = prepare("--test-file", test)
    assert job.repeated == {"validation": 0, "test": 2} and len(job.rows["train"]) == 32
    job = prepare("--test-file", test, "--drop-repeated", "true")
    assert job.repeated["test"] == 2 and job.rows["train"]["id"][:] == [row["id"] for row in rows[:3] + rows[5:]]
    job = prepare("--max-train-documents", 5, "--max-validation-documents", 3, "--max-test-documents", 3, "--seed", 1)
    assert {split: len(part) for split, part in job.rows.items()} == {"train": 5, "validation": 3, "test": 3}
    assert job.rows["train"]["id"] != prepare("--max-train-documents", 5, "--seed", 2).rows["train"]["id"]
    job = prepare("--validation-fraction", 0.25, splits=("train", "test"))
    assert len(job.rows["validation"]) == 8 and len(job.rows["train"]) == 24 and job.last == "test"
    # Long rows first, each still beside its number.
    lengths = job.features["validation"]["length"][:]
    assert lengths == sorted(lengths, reverse=True) and sorted(job.features["validation"]["document"]) == list(range(8))


@pytest.mark.slow
def test_glue_is_every_task_with_data_and_their_average(tmp_path, monkeypatch):
    draw = random.Random(0)
    pairs = [
        {"premise": "north", "hypothesis": draw.choice(FILLER), "label": n % 3, "idx": n, "sentence": "snow"}
        for n in range(9)
    ]
    for name in ("train", "validation_matched", "validation_mismatched"):
        rows = pairs[: 4 if name == "validation_mismatched" else 9]
        write_jsonl(tmp_path / "data" / "glue" / "mnli" / f"{name}.jsonl", rows)
    for name in ("train", "validation"):
        rows = [{**row, "label": row["label"] % 2} for row in pairs]
        write_jsonl(tmp_path / "data" / "glue" / "cola" / f"{name}.jsonl", rows)
    out = tmp_path / "out"
    words = ["finetune", "--model", workspace() / "model", "--task", "glue", "--data-dir", tmp_path / "data"]
    words += ["--output-dir", out, "--max-steps", 1, "--report-to", "none", "--disable-tqdm", "true"]
    assert cli.main([str(word) for word in words]) == 0
    results = read_results(out)
    mnli, cola = read_results(out / "mnli"), read_results(out / "cola")
    assert set(mnli["splits"]) == {"validation", "validation_mismatched"} and mnli["rows"]["validation_mismatched"] == 4
    matched, mismatched = (mnli["splits"][name]["accuracy"] for name in ("validation", "validation_mismatched"))
    assert results["tasks"]["mnli"] == {"accuracy": matched}
    assert results["tasks"]["mnli_mismatched"] == {"accuracy": mismatched}
    assert results["tasks"]["cola"] == {"matthews_correlation": cola["matthews_correlation"]}
    assert results["average"] == pytest.approx(((matched + mismatched) / 2 + cola["matthews_correlation"]) / 2)
    assert results["missing"] == [name for name in GLUE if name not in ("mnli", "cola")]
    assert cola["task"] == "cola" and cola["max_length"] == 64
    # As a kill in the middle would leave it: one task done, the other without a checkpoint.
    (out / "mnli" / "results.json").write_text(json.dumps({**mnli, "kept": True}))
    shutil.rmtree(out / "cola")
    assert cli.main([*map(str, words)]) == 0
    assert read_results(out / "mnli")["kept"] and read_results(out)["average"] == pytest.approx(results["average"])
    # Several seeds, and metrics of long texts and of the hub: the average is of the tasks' own metrics.
    monkeypatch.setattr(evaluate, "load", lambda *_, **__: evaluate_modules.load("accuracy"))
    more = ["--seeds", "0", "1", "--longer-than", "3", "--hub-metrics", "owner/own", "--output-dir", tmp_path / "seeds"]
    assert cli.main([str(word) for word in [*words, *more]]) == 0
    results = read_results(tmp_path / "seeds")
    runs = [read_results(tmp_path / "seeds" / "mnli" / f"seed-{seed}")["splits"] for seed in (0, 1)]
    for name, split in (("mnli", "validation"), ("mnli_mismatched", "validation_mismatched")):
        assert all(run[split]["hub_accuracy"] == run[split]["accuracy"] for run in runs)
        expected = statistics.fmean(run[split]["accuracy"] for run in runs)
        assert results["tasks"][name] == {"accuracy": pytest.approx(expected)}
    assert set(results["tasks"]["cola"]) == {"matthews_correlation"}
    with pytest.raises(InputError, match="no GLUE task was found"):
        runner.main([str(word) for word in [*words[1:], "--data-dir", out]])


def test_nothing_of_the_libraries_below_is_used_that_is_about_to_go():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        prepare("--max-length", 27)  # a length of its own: nothing comes from a cache


@pytest.mark.slow
@pytest.mark.parametrize(
    "labels, shown", [("ab", "a, b"), ("abcdef", "a, b, c, d, e, f"), ("abcdefg", "a, b, c, d, e, f, … (7 in all)")]
)
def test_the_table_names_the_classes(labels, shown, tmp_path, capsys):
    rows = [{"text": "snow", "label": label} for label in labels]
    train = write_jsonl(tmp_path / "train.jsonl", rows)
    finetune(tmp_path / "out", "--train-file", train, "--validation-file", train, "--max-steps", 1, splits=("train",))
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["classes", shown] in lines


def test_a_recipe_stands_in_for_what_is_not_given(tmp_path):
    words = ["--model", "m", "--task", "hyperpartisan", "--output-dir", str(tmp_path)]
    recipe = TASKS["hyperpartisan"].recipe
    _, task, args, saor, training = read_arguments(words)
    assert task.columns == TASKS["hyperpartisan"].columns
    assert training.learning_rate == recipe.learning_rate and training.num_train_epochs == recipe.num_train_epochs
    assert training.per_device_train_batch_size == training.per_device_eval_batch_size == recipe.batch_size
    assert saor.saor_alpha == 0 and args.max_length is None
    assert training.metric_for_best_model == "accuracy" and training.load_best_model_at_end
    flags = ["--learning-rate", "1e-3", "--num-train-epochs", "2", "--per-device-train-batch-size", "3"]
    flags += ["--saor-alpha", "2", "--eval_strategy", "no", "--text-column", "body"]
    _, task, _, saor, training = read_arguments([*words, *flags])
    assert (training.learning_rate, training.num_train_epochs, training.per_device_train_batch_size) == (1e-3, 2, 3)
    assert saor.saor_alpha == 2 and not training.load_best_model_at_end and task.columns["text"] == "body"
    for more, arm in (
        ([], ("none", 0.0)),
        (["--saor-alpha", "2"], ("saor", 2.0)),
        (["--saor-alpha", "0"], ("none", 0.0)),
        (["--regularization", "saor"], ("saor", 5.0)),
        (["--regularization", "r-drop", "--saor-alpha", "3"], ("r-drop", 3.0)),
    ):
        saor = read_arguments([*words, *more])[3]
        assert (saor.regularization, saor.saor_alpha) == arm
    assert prepare().settings.max_length == 64
    assert prepare("--max-length", 40).settings.max_length == 40


@pytest.mark.parametrize(
    "flags, has_best",
    [
        ("", True),
        ("--eval-strategy steps", False),
        ("--eval-strategy steps --save-strategy steps", True),
        ("--eval-strategy steps --save-strategy steps --save-steps 75", False),
        ("--eval-strategy steps --save-strategy steps --save-steps 75 --eval-steps 25", True),
        ("--eval-strategy steps --save-strategy steps --save-steps 0.5 --eval-steps 0.1", True),
        ("--eval-strategy steps --save-strategy steps --save-steps 0.5", False),
        ("--eval-strategy steps --save-strategy best", True),
        ("--eval-strategy no", False),
        ("--save-strategy no", False),
        ("--save-strategy no --load-best-model-at-end false", None),
    ],
)
def test_the_best_model_is_kept_wherever_there_is_one_and_else_it_is_said(flags, has_best, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(runner.logger, "warning_once", said.append)
    words = ["--model", "m", "--train-file", "f.csv", "--output-dir", str(tmp_path), *flags.split()]
    assert read_arguments(words)[-1].load_best_model_at_end == bool(has_best)
    assert len(said) == (has_best is False) and all("the last one, not the best one" in line for line in said)


def test_rows_of_one_id_are_counted_where_they_share_a_place(tmp_path):
    rows = read_jsonl(workspace() / "question_answering-validation.jsonl")
    rows = [{**row, "id": "same" if number < 3 else row["id"]} for number, row in enumerate(rows)]
    choices = {"task_type": "question_answering", "splits": ("train",)}
    job = prepare("--validation-file", write_jsonl(tmp_path / "rows.jsonl", rows), **choices)
    assert job.notes["validation"][SAME_ID] == ["same", "same"] and SAME_ID not in job.notes["train"]


def test_a_recipe_widens_the_global_blocks_of_a_model_but_not_of_a_pattern_that_is_given():
    files = [f"--{split}-file {workspace() / f'candidate_choice-{split}.jsonl'}" for split in ("train", "validation")]
    words = f"--model {workspace() / 'model'} --task wikihop --output-dir unused {' '.join(files)}".split()
    blocks = []
    for more in ([], ["--pattern", "block_size=16,num_global_blocks=2"]):
        name, task, args, _, training = read_arguments([*words, *more])
        job = preparation.prepare(name, task, args, training)
        blocks.append((job.config.num_global_blocks, job.settings.num_global_tokens))
    # The model reads no more than four blocks.
    assert blocks == [(TASKS["wikihop"].recipe.num_global_blocks, 64), (2, 32)]


@pytest.mark.slow
def test_a_folder_of_several_runs_is_one_commands(tmp_path, capsys):
    out, flags = tmp_path / "out", ("--seeds", 0, 1, "--max-steps", 1)
    finetune(out, *flags)
    before = {path: path.read_bytes() for path in (out / "results.json", out / "run.json")}

    def refused(folder, *more) -> str:
        capsys.readouterr()
        assert cli.main(arguments(folder, *more)) == 2
        assert {path: path.read_bytes() for path in before} == before
        return capsys.readouterr().err

    assert "learning_rate" in refused(out, "--seeds", 2, "--max-steps", 1, "--learning-rate", 1)
    assert "holds results of seed 1 as well" in refused(out, "--seeds", 0, "--max-steps", 1)
    # One run and a run per seed are two commands.
    assert "folder_per seed and not None" in refused(out, "--max-steps", 1)
    finetune(out, *flags)
    # What is somebody else's stays, and so does what another process writes.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.json").write_text("mine")
    assert "it holds results.json" in refused(tmp_path / "mine", *flags)
    glue = ("--task", "glue", "--data-dir", tmp_path / "data")
    write_jsonl(
        tmp_path / "data" / "glue" / "rte" / "train.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 0}] * 4
    )
    words = ["finetune", "--model", workspace() / "model", *glue, "--output-dir", tmp_path / "mine"]
    assert cli.main([str(word) for word in words]) == 2
    assert "it holds results.json" in capsys.readouterr().err
    with FileLock(out / ".lock"):
        assert "another run is writing into this folder" in refused(out, *flags)


def test_list_prints_the_tasks(capsys):
    assert cli.main(["finetune", "--list"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()} >= set(TASKS)


def test_a_model_goes_to_the_hub_with_its_card_and_results(tmp_path, monkeypatch):
    pushed = []

    def create_repo(self, repo_id, **kwargs):
        pushed.append(("create", repo_id))
        return type("Url", (), {"repo_id": repo_id})()

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, ignore_patterns, **kwargs):
        (Path(folder_path) / "secret.txt").write_text("of the user's")
        names = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
        kept = filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        pushed.append((repo_id, str(folder_path), set(kept)))

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    flags = ("--push-to-hub", "true", "--hub-model-id", "you/toy", "--max-steps", 1, "--hub-token", "hf_s3cret")
    finetune(
        tmp_path / "out",
        *flags,
        "--eval-strategy",
        "no",
        "--save-strategy",
        "steps",
        "--save-steps",
        1,
        "--logging-steps",
        1,
    )
    monkeypatch.delenv("HF_TOKEN")
    assert pushed[0] == ("create", "you/toy")
    repo, folder, files = pushed[-1]
    assert repo == "you/toy" and folder == str(tmp_path / "out")
    assert files == {
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"),
        *("finetune.json", "training.png", "predictions.png"),
        *(file.name for file in code_files()),
    }
    # The card is ours, and not the one that transformers writes.
    assert "predictions.csv" in (tmp_path / "out" / "README.md").read_text()
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in left)
    assert not any(b"hf_s3cret" in path.read_bytes() for path in left)


def test_nothing_secret_is_left_or_said(tmp_path, capfd):
    url = "https://me:s3c@r/et@host/x?token=s3cret"
    finetune(tmp_path / "out", "--max-steps", 1, "--run-name", url, "--trackio-space-id", url, "--seeds", 0)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in left)
    for flags in (("--hub-tokn", "s3cret"), ("--hub-tokn=s3cret",), ("--train-file", url), ("--model", url)):
        assert cli.main(arguments(tmp_path / "other", *flags)) == 2
    shown = capfd.readouterr()
    assert "unrecognized arguments: --hub-tokn (" in shown.err and "there is no such" in shown.err
    for secret in ("s3c", "r/et@"):
        assert (
            not [path for path in left if secret.encode() in path.read_bytes()] and secret not in shown.out + shown.err
        )


def test_the_best_checkpoint_is_that_of_the_metric_asked_for(tmp_path):
    words = ["--model", "m", "--train-file", "f.csv", "--output-dir", str(tmp_path)]
    assert read_arguments(words)[-1].greater_is_better
    for name in ("loss", "mse", "eval_mse"):
        words[2:2] = ["--kind", "regression"]
        assert not read_arguments([*words, "--metric-for-best-model", name])[-1].greater_is_better
