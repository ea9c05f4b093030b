# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Long Range Arena from end to end on toy problems: what is learnt, what a run leaves, how it goes on and what it repeats."""

import atexit
import csv
import functools
import itertools
import json
import random
import shutil
import tempfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from benchmarks.lra import PROG, report, runner
from benchmarks.lra.data import load_task
from benchmarks.lra.listops import ListOpsShape, generate
from benchmarks.lra.make import make_pathfinder
from benchmarks.lra.models import MODELS, UNSEEN_PATTERNS, LraClassifier, build_config, encoder_of
from benchmarks.lra.pathfinder import PathfinderShape
from benchmarks.lra.tasks import TASKS
from ernie_sparse import SparsePattern
from ernie_sparse import results as results_module
from ernie_sparse import run as run_module
from ernie_sparse.cli import run_command
from ernie_sparse.trainer import SaorTrainer

datasets.disable_progress_bars()

# The documents here are short; those of the tasks go through the block form.
pytestmark = pytest.mark.usefixtures("block_form")

lra = functools.partial(run_command, PROG, runner.main)

# Updates and rows per update, few where a row has 1,024 symbols; and the updates between two looks at the validation set.
BUDGETS = {
    "listops": (48, 32, 24),
    "text": (36, 8, 18),
    "retrieval": (40, 8, 20),
    "image": (12, 4, 6),
    "pathfinder": (20, 4, 5),
}
OTHER_PATTERNS = ("block_size=2,num_window_blocks=1,num_global_blocks=0", "hierarchical=false")
HST = SparsePattern(block_size=64)


plot_history = run_module.plot_history


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than the updates that they show; one run has them nevertheless."""
    monkeypatch.setattr(run_module, "plot_history", lambda history, path: False)


@pytest.fixture
def trainers(monkeypatch) -> list[SaorTrainer]:
    """Those of the runs."""
    made = []

    class Spied(SaorTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(runner, "SaorTrainer", Spied)
    return made


# Toy problems, in the files of the task.


def write_listops(folder: Path):
    """The largest of two or three digits."""
    shape = ListOpsShape(max_depth=2, max_args=3, operator_probability=1, min_length=2, max_length=7)
    rows = [(text, target) for text, target in itertools.islice(generate(0, shape), 4000) if "[MAX" in text][:920]
    for name, start, end in (("train", 0, 760), ("val", 760, 800), ("test", 800, 920)):
        lines = "".join(f"{text}\t{target}\n" for text, target in rows[start:end])
        (folder / f"basic_{name}.tsv").write_text("Source\tTarget\n" + lines)


def write_text(folder: Path):
    """One telling word among others."""
    draw = random.Random(0)
    for split, number in (("train", 200), ("test", 80)):
        with open(folder / f"{split}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for label in [0, 1] * (number // 2):
                words = draw.choices("the film plot and scene a role".split(), k=draw.randint(3, 8))
                words.insert(draw.randrange(len(words)), ("dreadful", "superb")[label])
                rows.writerow([" ".join(words), label])


def write_retrieval(folder: Path):
    """Papers of two kinds, of which those of one kind cite each other."""
    draw, kinds = random.Random(0), ("parsing syntax tree".split(), "vowel phone mouth".split())
    papers = [
        {"id": f"p{number}", "text": " ".join(draw.choices(kinds[number % 2], k=draw.randint(3, 8)))}
        for number in range(60)
    ]
    Dataset.from_list(papers).to_parquet(folder / "docs.parquet")
    for split, number in (("train", 240), ("eval", 30), ("test", 80)):
        lines = ["label\tid1\tid2"]
        for label in [0, 1] * (number // 2):
            first, second = draw.randrange(60), 2 * draw.randrange(30)
            lines.append(f"{label}\tp{first}\tp{second + (first + label + 1) % 2}")
        (folder / f"aan_pairs.{split}.tsv").write_text("\n".join(lines) + "\n")


def write_image(folder: Path):
    """Dark, medium and bright noise."""
    draw, arrays = np.random.default_rng(0), {}
    for name, number in (("train", 96), ("test", 30)):
        labels = np.arange(number) % 3
        noise = draw.integers(0, 40, (number, 32, 32))
        arrays |= {f"x_{name}": (80 * labels[:, None, None] + noise).astype(np.uint8), f"y_{name}": labels}
    np.savez(folder / "gray.npz", **arrays)


def write_pathfinder(folder: Path):
    """Curves of one dash: markers on the same one lie on each other. The labels take turns, so that a few rows per update
    are enough."""
    shape = PathfinderShape(contour_length=1, paddle_length=1, marker_radius=7, seed_distance=8, num_distractors=0)
    (path,) = make_pathfinder(folder, sizes={"train": 140, "val": 30, "test": 60}, shape=shape, processes=1)
    with np.load(path) as file:
        arrays = dict(file)
    for name, number in (("train", 50), ("val", 6), ("test", 20)):
        rows = np.stack([np.flatnonzero(arrays[f"y_{name}"] == label)[:number] for label in (0, 1)]).T.flatten()
        arrays |= {key: arrays[key][rows] for key in (f"x_{name}", f"y_{name}")}
    np.savez(path, **arrays)
    (folder / "SHA256SUMS").unlink()


@functools.cache
def workspace() -> Path:
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def data_of(task: str) -> Path:
    """The folder of a task's toy problem; one for all tests of a session."""
    folder = workspace() / "data" / task
    folder.mkdir(parents=True)
    globals()[f"write_{task}"](folder)
    return folder


def arguments(task: str, output_dir: Path, *more, model: str = "hst") -> list[str]:
    """A command line; of a flag given twice the last counts."""
    steps, rows, interval = BUDGETS[task]
    words = [
        *("--task", task, "--model", model, "--data-dir", data_of(task), "--output-dir", output_dir),
        *("--max-steps", steps, "--per-device-train-batch-size", rows, "--learning-rate", 3e-3, "--warmup-steps", 0.1),
        *("--eval-steps", interval, "--save-steps", interval, "--logging-steps", 4, "--eval-patterns", "none"),
        *("--report-to", "none", "--disable-tqdm", "true", *more),
    ]
    return [str(word) for word in words]


def run(task: str, output_dir: Path, *more, model: str = "hst") -> dict:
    assert lra(arguments(task, output_dir, *more, model=model)) == 0
    return read_results(output_dir)


def short(output_dir: Path, *more, model: str = "hst") -> dict:
    """A run of a few updates, of which nothing but its course is asked."""
    more = ("--max-steps", 6, "--eval-steps", 3, "--save-steps", 3, "--logging-steps", 1, *more)
    return run("text", output_dir, *more, model=model)


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@functools.cache
def trained(task: str) -> Path:
    """`hst`, trained until it knows its toy problem; not to be written to."""
    out = workspace() / "trained" / task
    more = {
        "text": ("--eval-patterns", *OTHER_PATTERNS),
        "pathfinder": ("--train-sampling-strategy", "sequential"),
    }.get(task, ())
    run(task, out, *more)
    return out


def are_equal(left: Path, right: Path) -> bool:
    left, right = load_file(left / "model.safetensors"), load_file(right / "model.safetensors")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def answers(folder: Path, task: str, split: str, pattern: SparsePattern = HST) -> tuple[np.ndarray, np.ndarray]:
    """What a saved model answers, row by row and without padding; and the labels."""
    config = build_config("hst", TASKS[task], pattern)
    encoder = encoder_of(AutoModelForMaskedLM.from_config(config))
    model = LraClassifier(encoder, TASKS[task].num_documents, TASKS[task].num_labels).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    rows, found = load_task(task, data_of(task))[split], []
    for row in rows:
        (document,) = row["documents"]
        ids = torch.tensor([[[code + 2 for code in document]]])
        with torch.no_grad():
            found.append(model(ids, torch.ones_like(ids)).logits.argmax().item())
    return np.array(found), np.array(rows["labels"])


# The others take seconds; what they have of their own, their data and their numbers of classes, the next test sees.
QUICK = ("text", "retrieval")


@pytest.mark.slow
@pytest.mark.parametrize("task", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in TASKS if n not in QUICK)])
def test_hst_learns_every_task(task):
    results = read_results(trained(task))
    assert_rows_and_guesses(results, task)
    chance, constant = results["chance"], results["constant_guess"]
    error = (chance * (1 - chance) / results["rows"]["test"]) ** 0.5
    assert results["accuracy"] > chance + 4 * error and results["accuracy"] > constant + 0.15
    assert results["validation_accuracy"] > constant + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("task", [task for task in TASKS if task not in QUICK])
def test_every_task_runs(task, tmp_path):
    flags = ("--max-steps", 1, "--eval-steps", 1, "--save-steps", 1, "--per-device-eval-batch-size", 16)
    results = run(task, tmp_path, *flags, "--validation-size", 4)
    assert_rows_and_guesses(results, task, validation=4)
    answered = load_file(tmp_path / "model.safetensors")["classifier.3.weight"].shape[0]
    assert answered == TASKS[task].num_labels == round(1 / results["chance"])


def assert_rows_and_guesses(results: dict, task: str, **limits: int):
    rows = load_task(task, data_of(task))
    labels = rows["test"]["labels"][:]
    assert results["constant_guess"] == max(labels.count(label) for label in set(labels)) / len(labels)
    assert results["chance"] == {"listops": 0.1, "image": 0.1}.get(task, 0.5)
    assert results["rows"] == {split: len(rows[split]) for split in rows} | limits


@pytest.mark.parametrize("task", ["text", pytest.param("listops", marks=pytest.mark.slow)])
def test_what_a_run_says_is_true_of_the_model_it_leaves(task):
    out, results = trained(task), read_results(trained(task))
    for split, name in (("test", "accuracy"), ("validation", "validation_accuracy")):
        found, labels = answers(out, task, split)
        assert results[name] == pytest.approx((found == labels).mean())
    steps, rows, interval = BUDGETS[task]
    assert set(report.KEYS) < set(results)
    expected = {
        "task": task,
        "model": "hst",
        "self_pretraining": None,
        "seed": 0,
        "steps": steps,
        "batch_size": rows,
        "learning_rate": 3e-3,
        "warmup_steps": {"text": 4, "listops": 5}[task],
        "changed": {"eval_steps": interval},
        "saor": None,
        "limits": {},
        "pattern": str(HST),
        "parameters": sum(weight.numel() for weight in load_file(out / "model.safetensors").values()),
    }
    assert {name: results[name] for name in expected} == expected
    assert results["command"].startswith(f"{PROG} --task {task} --model hst --data-dir {data_of(task)}")
    assert set(results["hardware"]) >= {"cpu", "threads", "gpu"} and "transformers" in results["versions"]
    logged = [entry["step"] for entry in results["history"] if "eval_accuracy" in entry]
    assert logged == list(range(interval, steps + 1, interval))
    assert all("consistency_loss" not in entry for entry in results["history"])


def test_other_patterns_are_asked_of_the_same_model(tmp_path, trainers):
    own, labels = answers(trained("text"), "text", "test")
    results = read_results(trained("text"))
    assert list(results["other_patterns"]) == list(OTHER_PATTERNS)
    for text, other in results["other_patterns"].items():
        found, _ = answers(trained("text"), "text", "test", HST.changed_by(text))
        assert other == pytest.approx({"accuracy": (found == labels).mean(), "flipped": (found != own).mean()})
    assert results["other_patterns"][OTHER_PATTERNS[0]]["flipped"] > 0
    results = short(tmp_path, "--max-steps", 1, "--pattern", "block_size=32", "--eval-patterns", "block_size=8")
    assert trainers[0].model.config.pattern == HST.changed_by("block_size=32")
    assert results["pattern"] == str(HST.changed_by("block_size=32")) and set(results["other_patterns"]) == {
        "block_size=8"
    }


def test_the_checkpoint_that_was_best_is_tested_and_stays(tmp_path, monkeypatch):
    real, scripted = runner.accuracy, iter([0.2, 0.9, 0.4])

    def score(prediction):
        found = real(prediction)
        return {"accuracy": next(scripted, found["accuracy"])}

    monkeypatch.setattr(runner, "accuracy", score)
    flags = ("--max-steps", 9, "--save-total-limit", 5)
    results = short(tmp_path, *flags)
    assert [entry["eval_accuracy"] for entry in results["history"] if "eval_accuracy" in entry] == [0.2, 0.9, 0.4]
    assert are_equal(tmp_path, tmp_path / "checkpoint-6") and not are_equal(tmp_path, tmp_path / "checkpoint-9")
    found, labels = answers(tmp_path, "text", "test")
    assert results["accuracy"] == pytest.approx((found == labels).mean())


@pytest.mark.slow
def test_a_command_gives_the_same_cell_and_another_seed_another(tmp_path):
    runs = {name: short(tmp_path / name, "--seed", seed) for name, seed in (("a", 4), ("b", 4), ("c", 5))}
    assert are_equal(tmp_path / "a", tmp_path / "b") and not are_equal(tmp_path / "a", tmp_path / "c")
    losses = {name: [e["loss"] for e in run["history"] if "loss" in e] for name, run in runs.items()}
    assert losses["a"] == losses["b"] != losses["c"]
    assert runs["a"]["accuracy"] == runs["b"]["accuracy"] and [runs[name]["seed"] for name in "abc"] == [4, 4, 5]


class Killed(BaseException):
    """What nothing catches."""


def killed_at(monkeypatch, number: int):
    """Training breaks off before the update of that number, counted over all of a process's training."""
    step, count = SaorTrainer.training_step, itertools.count()

    def broken(*args, **kwargs):
        if next(count) == number:
            raise Killed
        return step(*args, **kwargs)

    monkeypatch.setattr(SaorTrainer, "training_step", broken)


def test_a_run_that_was_killed_ends_where_an_unbroken_one_does(tmp_path, monkeypatch, capsys):
    whole = short(tmp_path / "whole", model="hst-saor")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, 4)
        short(tmp_path / "killed", model="hst-saor")
    step, steps = SaorTrainer.training_step, []

    def counted(self, *args, **kwargs):
        steps.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SaorTrainer, "training_step", counted)
    here = results_module.hardware()
    monkeypatch.setattr(results_module, "hardware", lambda: here | {"gpu": "another machine's"})
    results = short(tmp_path / "killed", model="hst-saor")
    assert steps == [3, 4, 5]
    assert [(s["step"], s["hardware"]["gpu"]) for s in results["environments"]] == [
        (0, here["gpu"]),
        (3, "another machine's"),
    ]
    assert results["hardware"] == results["environments"][-1]["hardware"]
    monkeypatch.setattr(results_module, "hardware", lambda: here | {"gpu": "where it was only tested"})
    tested = short(tmp_path / "killed", model="hst-saor")
    assert (
        steps == [3, 4, 5]
        and tested["environments"] == results["environments"]
        and "tested" in tested["hardware"]["gpu"]
    )
    assert are_equal(tmp_path / "killed", tmp_path / "whole")
    same = ("accuracy", "validation_accuracy", "steps", "seed", "saor")
    assert {name: results[name] for name in same} == {name: whole[name] for name in same}
    assert whole["saor"] == {"alpha": 1.0, "patterns": ["shift", "block_size", "window", "random"]}
    consistency = [entry["consistency_loss"] for entry in whole["history"] if "loss" in entry]
    assert len(consistency) == 6 and all(value > 0 for value in consistency)


@pytest.mark.slow
def test_a_checkpoint_that_was_being_written_is_passed_over(tmp_path, monkeypatch):
    whole = short(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed" / "checkpoint-6" / "trainer_state.json").write_text("")
    step, steps = SaorTrainer.training_step, []
    monkeypatch.setattr(
        SaorTrainer, "training_step", lambda self, *a, **k: steps.append(self.state.global_step) or step(self, *a, **k)
    )
    results = short(tmp_path / "killed")
    assert steps == [3, 4, 5] and results["accuracy"] == whole["accuracy"]
    # On what it ran before: one environment.
    here = {name: whole[name] for name in ("commit", "versions", "hardware")}
    assert results["environments"] == whole["environments"] == [{"step": 0, **here}]
    assert results["history"][0].keys() == whole["history"][0].keys() and "loss" in whole["history"][0]
    assert are_equal(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_was_cut_off_is_named_and_the_one_before_it_used(name, tmp_path, caplog):
    whole = short(tmp_path)
    (tmp_path / "results.json").unlink()
    path = tmp_path / "checkpoint-6" / name
    path.write_bytes(path.read_bytes()[:1000])
    results = short(tmp_path)
    (line,) = (line for line in caplog.messages if "going on from" in line)
    assert f"checkpoint-6: {name} is damaged" in line and line.endswith(f"going on from {tmp_path / 'checkpoint-3'}")
    for facts in (whole, results):
        del facts["history"]
    assert results == whole


def test_a_folder_goes_on_with_no_other_run(tmp_path, capsys):
    flags = ("--max-steps", 6, "--eval-steps", 3, "--save-steps", 3, "--self-pretrain", "--self-pretrain-steps", 2)
    whole = short(tmp_path, *flags[6:])
    optim = json.loads((tmp_path / "run.json").read_text())["optim"]
    for more, message in (
        (("--model", "flat"), "model hst and not flat"),
        (("--seed", 9), "saor_seed 0 and not 9, seed 0 and not 9"),
        (("--pattern", "block_size=32"), "pattern None and not block_size=32"),
        (("--train-size", 9), "train_size None and not 9"),
        (("--max-steps", 9), "updates 6 and not 9"),
        (("--self-pretrain-steps", 4), "self_pretrain_steps 2 and not 4"),
        (("--saor-alpha", 1), "regularization none and not saor, saor_alpha 0.0 and not 1.0"),
        (
            ("--optim", "sgd", "--lr-scheduler-type", "cosine"),
            f"optim {optim} and not sgd, lr_scheduler_type linear and not cosine",
        ),
    ):
        capsys.readouterr()
        assert lra(arguments("text", tmp_path, *flags, *more)) == 2
        assert f"holds another run, with {message}: name another" in capsys.readouterr().err
    assert json.loads((tmp_path / "results.json").read_text()) == whole
    # What came to an end is tested again, and not trained again.
    weights = load_file(tmp_path / "model.safetensors")
    again = short(tmp_path, *flags[6:])
    assert all(torch.equal(weights[name], weight) for name, weight in load_file(tmp_path / "model.safetensors").items())
    for facts in (whole, again):
        del facts["history"]
    assert again == whole and whole["steps"] == 6 and "--resume" not in again["command"]


def test_self_pretraining_comes_first_and_a_kill_costs_nothing_of_it(tmp_path, monkeypatch):
    flags = ("--self-pretrain", "--self-pretrain-steps", 4, "--self-pretrain-learning-rate", 2e-3)
    whole = short(tmp_path / "whole", *flags)
    facts = whole["self_pretraining"]
    assert facts == json.loads((tmp_path / "whole" / "self-pretraining" / "facts.json").read_text())
    assert (facts["steps"], facts["learning_rate"], facts["saor_alpha"]) == (4, 2e-3, 1.0) and whole["steps"] == 6
    assert (facts["mlm_probability"], whole["learning_rate"], whole["saor"]) == (0.15, 3e-3, None)
    assert facts["environments"] == whole["environments"] and facts["environments"][0]["commit"] == whole["commit"]
    # As often as in the training that follows, by the share of all updates.
    saved = {path.name for path in (tmp_path / "whole" / "self-pretraining").glob("checkpoint-*")}
    assert saved == {"checkpoint-2", "checkpoint-4"}
    # Killed in the middle of the first training, then in the middle of the second before it has a checkpoint.
    for number in (3, 2):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_at(patch, number)
            short(tmp_path / "killed", *flags)
    # The folder that a checkpoint would be in has none.
    results = short(tmp_path / "killed", *flags)
    assert are_equal(tmp_path / "killed" / "self-pretraining", tmp_path / "whole" / "self-pretraining")
    assert are_equal(tmp_path / "killed", tmp_path / "whole") and results["self_pretraining"] == facts


def test_the_encoder_that_was_pretrained_is_the_one_that_is_trained(tmp_path):
    flags = ("--self-pretrain", "--max-steps", 2, "--learning-rate", 0)
    results = short(tmp_path, *flags, model="dense")
    assert results["self_pretraining"]["steps"] == 2 and results["self_pretraining"]["saor_alpha"] == 0
    assert results["self_pretraining"]["learning_rate"] == 5e-4
    encoder = load_file(tmp_path / "self-pretraining" / "model.safetensors")
    weights = load_file(tmp_path / "model.safetensors")
    names = [name.removeprefix("encoder.") for name in weights if name.startswith("encoder.")]
    assert len(names) > 30 and all(
        torch.equal(weights[f"encoder.{name}"], encoder[f"ernie_sparse.{name}"]) for name in names
    )


@pytest.mark.parametrize("name", ["bigbird", "longformer"])
def test_the_encoders_of_transformers_have_no_patterns_to_change(name, tmp_path, trainers):
    sizes = {"train": 2, "validation": 3, "test": 4}
    flags = [word for split, size in sizes.items() for word in (f"--{split}-size", size)]
    flags += ["--max-steps", 1, "--per-device-train-batch-size", 1, "--gradient-accumulation-steps", 2]
    results = short(tmp_path, *flags, "--eval-patterns", *UNSEEN_PATTERNS, model=name)
    # Batches are long enough for its sparse attention.
    assert name == "longformer" or trainers[0].model.encoder.attention_type == "block_sparse"
    assert results["pattern"] is None and results["other_patterns"] == {} and results["saor"] is None
    assert results["rows"] == results["limits"] == sizes and results["batch_size"] == 2
    assert (len(trainers[0].train_dataset), len(trainers[0].eval_dataset)) == (2, 3)


def test_a_run_has_a_folder_of_its_names_where_none_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "plot_history", plot_history)
    words = arguments(
        "text",
        Path("unused"),
        "--max-steps",
        1,
        "--pattern",
        "num_global_blocks=2",
        "--eval-patterns",
        "num_global_blocks=0",
        "--seed",
        3,
        model="flat",
    )
    at = words.index("--output-dir")
    del words[at : at + 2]
    assert lra(words) == 0
    folder = Path("runs/lra/text/flat-num_global_blocks=2-seed-3")
    results = read_results(folder)
    assert [str(path) for path in Path("runs").rglob("results.json")] == [str(folder / "results.json")]
    assert (folder / "training.png").stat().st_size > 5000
    # What else the pattern is stays.
    assert results["pattern"] == str(HST.changed_by("hierarchical=false,num_global_blocks=2"))
    assert results["other_patterns"] == {} and results["seed"] == 3
    names = [
        runner.read_arguments(["--task", "image", "--model", "hst", *more])[2].output_dir
        for more in ([], ["--self-pretrain", "--seed", "7"])
    ]
    assert names == ["runs/lra/image/hst-seed-0", "runs/lra/image/hst-self-pretrained-seed-7"]


@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_stands_in_for_what_is_not_given(task):
    recipe = TASKS[task].recipe
    for model in ("hst", "hst-saor", "hst-rdrop"):
        args, saor, training = runner.read_arguments(["--task", task, "--model", model, "--seed", "9"])
        assert (training.max_steps, training.learning_rate) == (recipe.max_steps, recipe.learning_rate)
        assert training.per_device_train_batch_size == training.per_device_eval_batch_size == recipe.batch_size
        assert (
            training.get_warmup_steps(recipe.max_steps)
            == recipe.warmup_steps
            == {"listops": 1000, "text": 8000, "retrieval": 800, "image": 175, "pathfinder": 312}[task]
        )
        assert training.load_best_model_at_end and training.metric_for_best_model == "accuracy"
        assert training.greater_is_better and training.eval_steps == training.save_steps == recipe.max_steps // 10
        assert training.seed == saor.saor_seed == 9 and args.eval_patterns == list(UNSEEN_PATTERNS)
        assert saor.saor_alpha == (0.0 if model == "hst" else 1.0)
        assert (saor.saor_patterns == ["none"]) == (model == "hst-rdrop")
        assert not args.self_pretrain and args.limits() == {}
    words = (
        "--max-steps 7 --learning-rate 0.1 --warmup-steps 3 --per-device-train-batch-size 2 --saor-alpha 0.5".split()
    )
    _, saor, training = runner.read_arguments(["--task", task, "--model", "hst", *words, "--saor-seed", "2"])
    assert (training.max_steps, training.learning_rate, training.warmup_steps) == (7, 0.1, 3)
    assert (training.per_device_train_batch_size, saor.saor_alpha, saor.saor_seed) == (2, 0.5, 2)


CHANGES = {
    "optim": "sgd",
    "optim_args": "foreach=true",
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "max_grad_norm": 2.0,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": {"last_epoch": -1},
    "label_smoothing_factor": 0.1,
    "bf16": True,
    "train_sampling_strategy": "random",
    "load_best_model_at_end": False,
    "metric_for_best_model": "loss",
}


def test_what_a_run_does_otherwise_than_the_harness_is_named():
    def changed(*words):
        training = runner.read_arguments(["--task", "text", "--model", "hst", *map(str, words)])[2]
        return json.loads(json.dumps(runner.changed_settings(training)))

    for name, value in CHANGES.items():
        assert changed(f"--{name}", json.dumps(value) if isinstance(value, dict) else value) == {name: value}
    own_saving = ("--load-best-model-at-end", "false", "--eval-strategy")
    assert changed(*own_saving, "no") == {"eval_strategy": "no", "load_best_model_at_end": False}
    assert changed("--eval-steps", 0.2, "--save-steps", 0.2) == {"eval_steps": 4_000}
    assert changed("--eval-steps", 2_000, "--save-steps", 2_000) == {}
    # Those of the recipe stand in the results as they are, and these bear on no result.
    assert changed("--max-steps", 7, "--learning-rate", 0.1, "--warmup-steps", 3, "--seed", 3) == {}
    assert changed("--per-device-eval-batch-size", 7, "--disable-tqdm", "true", "--logging-steps", 1) == {}
    assert {*CHANGES, "eval_strategy", "eval_steps", "fp16"} == set(runner.COMPARED)


def test_list_prints_tasks_and_models(capsys):
    assert lra(["--list"]) == 0
    printed = capsys.readouterr().out
    assert {line.split()[0] for line in printed.splitlines() if line.strip()} >= {*TASKS, *MODELS}
    assert "2 x 4,096 symbols, 2 classes; 30,000 updates of 32 rows" in printed
    assert all(model.what in printed for model in MODELS.values())


def test_make_writes_the_files_that_are_read(tmp_path):
    sizes = ["--train-size", "3", "--validation-size", "2", "--test-size", "1", "--seed", "4"]
    for task in ("listops", "pathfinder"):
        assert lra(["--make", task, "--out", str(tmp_path / task), *sizes]) == 0
        rows = load_task(task, tmp_path / task)
        assert {split: len(rows[split]) for split in rows} == {"train": 3, "validation": 2, "test": 1}
    targets = [
        label
        for split in ("train", "validation", "test")
        for label in load_task("listops", tmp_path / "listops")[split]["labels"]
    ]
    assert targets == [target for _, target in itertools.islice(generate(4), 6)]


def errors(folder: Path):
    """Changes of a command line that cannot work, each with a part of what must be said."""
    yield ("--task", "chess"), "--task 'chess' is not one of listops, text, retrieval, image, pathfinder"
    yield ("--model", "bert"), "--model 'bert' is not one of hst, hst-saor,"
    yield ("--pattern", "blocks=2"), "'blocks' is not a field of a sparse pattern"
    yield ("--pattern", "block_size=0"), "block_size=0 is not allowed"
    yield ("--model", "bigbird", "--pattern", "num_global_blocks=2"), "bigbird is transformers' own and has no pattern"
    yield ("--eval-patterns", "num_global_blocks=2", "wide"), "'wide' in pattern 'wide' is not name=value"
    yield ("--max-steps", "0"), "--max-steps 0: it must be at least 1"
    yield ("--max-steps", "-1"), "--max-steps -1: at least 1, and no epochs"
    yield ("--train-size", "0"), "--train-size 0: at least 1 row is needed"
    yield ("--self-pretrain-steps", "5"), "--self-pretrain-steps 5: at least 1, and beside --self-pretrain"
    yield ("--self-pretrain", "--self-pretrain-steps", "0"), "--self-pretrain-steps 0"
    yield ("--data-dir", str(folder / "nowhere")), "nowhere: there is no such folder. The data of text:"
    yield ("--num-train-epochs", "2"), "runs are counted in updates"
    yield ("--metric-for-best-model", "f1"), "--metric-for-best-model f1: it is accuracy or loss"
    yield ("--push-to-hub", "true"), "--push-to-hub: these models are for comparison"
    yield ("--resume-from-checkpoint", str(folder)), "its trainer_state.json is missing or cut off"
    yield (
        ("--model", "longformer", "--saor-alpha", "1"),
        "--saor-alpha 1.0: longformer is transformers' own and has no pattern",
    )
    yield ("--colour", "red"), "unrecognized arguments: --colour ("
    yield ("--learning-rate", "nan"), "--learning-rate nan: it must be a finite number"
    yield ("--train-size", "many"), "invalid int value: 'many'"


def test_what_cannot_be_run_is_said_in_one_line_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    lines = [(arguments("text", place / "out", *more), message) for more, message in errors(tmp_path)]
    words = arguments("text", place / "out")
    lines.append((words[2:], "the following arguments are required: --task"))
    lines.append((["--make", "text", "--out", "made"], "listops and pathfinder can be made"))
    lines.append((["--make", "listops"], "required: --out"))
    for argv, message in lines:
        capsys.readouterr()
        assert lra(argv) == 2, argv
        printed = capsys.readouterr().err.splitlines()
        assert len(printed) == 1 and printed[0].startswith(f"{PROG}: error: "), printed
        assert message in printed[0]
        assert list(place.iterdir()) == [], argv


def test_an_output_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert lra(arguments("text", tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize("more", [("--saor-alpha", "1"), ("--self-pretrain",)], ids=["training", "self-pretraining"])
def test_what_the_trainer_refuses_is_said_in_one_line_too(more, tmp_path, capsys):
    assert lra(arguments("text", tmp_path, "--label-smoothing-factor", "0.1", *more)) == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(f"{PROG}: error: ") and "--label-smoothing-factor" in printed
