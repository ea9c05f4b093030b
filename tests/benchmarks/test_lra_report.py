# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The page of Long Range Arena's results: each table from a few runs written by hand, and what is refused."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from benchmarks.lra import PROG, report
from benchmarks.lra.models import MODELS
from benchmarks.lra.runner import main
from benchmarks.lra.tasks import TASKS
from ernie_sparse import SaorArguments, SparsePattern
from ernie_sparse.cli import run_command
from ernie_sparse.errors import InputError

ROWS = {"train": 96_000, "validation": 2_000, "test": 2_000}
TABLES = ("accuracy", "losses", "shorter", "bottleneck", "patterns", "runs")
PAGE = "# Results\n\n" + "\n".join(f"## {name}\n\n<!-- begin {name} -->\nold\n<!-- end {name} -->\n" for name in TABLES)


DRAWN = ["shift", "block_size", "window", "random"]


def pretrained(steps: int, learning_rate: float = 5e-4) -> dict:
    return {"steps": steps, "learning_rate": learning_rate, "mlm_probability": 0.15}


def cell(model: str, accuracy: float, seed: int = 0, task: str = "listops", **more) -> dict:
    """A run of the whole recipe, as far as nothing else is said."""
    pattern = MODELS[model].pattern
    return {
        "task": task,
        "model": model,
        "self_pretraining": None,
        "seed": seed,
        "steps": TASKS[task].recipe.max_steps,
        "batch_size": TASKS[task].recipe.batch_size,
        "learning_rate": TASKS[task].recipe.learning_rate,
        "warmup_steps": TASKS[task].recipe.warmup_steps,
        "rows": ROWS,
        "limits": {},
        "accuracy": accuracy,
        "chance": 1 / TASKS[task].num_labels,
        "constant_guess": 0.175,
        "pattern": None if pattern is None else str(pattern),
        "other_patterns": {},
        "saor": {"alpha": 1.0, "patterns": list(MODELS[model].saor_patterns or DRAWN)}
        if MODELS[model].saor_alpha
        else None,
        "command": f"python -m benchmarks.lra --task {task} --model {model}",
        "hardware": {"cpu": "A CPU", "threads": 2, "gpu": None},
        "commit": "0123456789abcdef",
        **more,
    }


def write(folder: Path, cells: list[dict]) -> Path:
    """The cells in files, last first."""
    for number, content in enumerate(reversed(cells)):
        path = folder / str(number % 2) / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def test_accuracies_are_means_over_seeds_of_whole_runs_under_the_models_own_pattern():
    short = {"steps": 100}
    other = str(MODELS["hst"].pattern.changed_by("num_global_blocks=2"))
    cells = [
        cell("hst", 0.40, 0),
        cell("hst", 0.42, 1),
        cell("hst", 0.35, 0, "text", constant_guess=0.5),
        cell("hst-saor", 0.41, 0),
        cell("bigbird", 0.375, 0),
        cell("bigbird", 0.365, 1),
        cell("hst-saor", 0.70, 0, "text", constant_guess=0.5),
        cell("bigbird", 0.65, 0, "text", constant_guess=0.5),
        cell("bigbird", 0.9, 0, "image"),
        cell("hst", 0.5, self_pretraining=pretrained(5_000)),
        cell("dense", 0.45, self_pretraining=pretrained(5_000)),
        # Rows by another name: R-Drop's and the window's.
        cell("hst-saor", 0.38, 0, saor={"alpha": 1.0, "patterns": ["none"]}),
        cell("hst-rdrop", 0.36, 1),
        cell("flat", 0.35, 0, pattern=str(MODELS["window"].pattern)),
        # None of these belongs here.
        cell("hst", 0.01, **short),
        cell("hst", 0.02, limits={"train": 100}),
        cell("hst", 0.03, pattern=other),
        cell("hst", 0.05, learning_rate=1e-4),
        cell("hst", 0.06, batch_size=64),
        cell("hst", 0.14, warmup_steps=999),
        cell("hst", 0.15, changed={"weight_decay": 0.1}),
        cell("hst", 0.07, saor={"alpha": 0.5, "patterns": DRAWN}),
        cell("hst-saor", 0.08, saor={"alpha": 0.5, "patterns": DRAWN}),
        cell("hst-saor", 0.09, saor={"alpha": 1.0, "patterns": ["shift"]}),
        cell("hst", 0.10, rows={**ROWS, "train": 95_999}),
        cell("hst", 0.11, rows={**ROWS, "test": 1_999}),
        cell("hst", 0.12, self_pretraining=pretrained(10)),
        cell("hst", 0.13, self_pretraining=pretrained(5_000, 1e-4)),
        cell("flat", 0.04, pattern=other),
    ]
    assert report.accuracy_table(cells) == "\n".join(
        [
            "| model | listops | text | retrieval | image | pathfinder | average over tasks |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            "| training / test rows | 96,000 / 2,000 | 96,000 / 2,000 |  | 96,000 / 2,000 |  |  |",
            "| chance | 10.0 | 50.0 | 50.0 | 10.0 | 50.0 |  |",
            "| most frequent class | 17.5 | 50.0 |  | 17.5 |  |  |",
            "| `hst`: ERNIE-Sparse: HST | 41.0 ± 1.4 (2) | 35.0 (1) |  |  |  | 38.0 over 2 |",
            "| `hst-saor`: ERNIE-Sparse: HST and SAOR | 41.0 (1) | 70.0 (1) |  |  |  | 55.5 over 2 |",
            "| `hst-rdrop`: HST and R-Drop | 37.0 ± 1.4 (2) |  |  |  |  | 37.0 over 1 |",
            "| `flat`: the same pattern without HST |  |  |  |  |  |  |",
            "| `bigbird-like`: BigBird's pattern without HST |  |  |  |  |  |  |",
            "| `window`: window only | 35.0 (1) |  |  |  |  | 35.0 over 1 |",
            "| `dense`: full attention |  |  |  |  |  |  |",
            "| `bigbird`: BigBird of transformers | 37.0 ± 0.7 (2) | 65.0 (1) |  | 90.0 (1) |  | 64.0 over 3 |",
            "| `longformer`: Longformer of transformers |  |  |  |  |  |  |",
            "| `hst`: ERNIE-Sparse: HST, self-pretrained | 50.0 (1) |  |  |  |  | 50.0 over 1 |",
            "| `hst-saor`: ERNIE-Sparse: HST and SAOR, self-pretrained |  |  |  |  |  |  |",
            "| `dense`: full attention, self-pretrained | 45.0 (1) |  |  |  |  | 45.0 over 1 |",
            "",
            # (41 - 37 + 70 - 65) / 2
            "HST with SAOR minus BigBird, on average over listops, text: +4.5 points.",
        ]
    )


def test_the_average_over_one_task_is_that_tasks_mean():
    table = report.accuracy_table([cell("hst", 0.358, 0), cell("hst", 0.359, 1)])
    assert "| 35.8 ± 0.1 (2) |  |  |  |  | 35.8 over 1 |" in table


def test_patterns_that_saor_draws_are_its_defaults():
    assert SaorArguments().saor_patterns == DRAWN


def test_without_runs_the_tables_say_so():
    table = report.accuracy_table([])
    assert table.endswith("\n\nHST with SAOR and BigBird have no task in common yet.")
    assert "| most frequent class |  |  |  |  |  |  |" in table.splitlines()
    assert len(table.splitlines()) == 2 + 3 + len(MODELS) + 2 + 2
    for make in (
        report.loss_table,
        report.shorter_tables,
        report.bottleneck_tables,
        report.pattern_tables,
        report.runs_table,
    ):
        assert make([]) == "None yet."


def test_shorter_runs_stand_apart_by_updates_and_rows():
    few = {"steps": 5_000, "limits": {"train": 9_000}, "rows": {**ROWS, "train": 9_000}}
    cells = [
        cell("hst", 0.9),
        cell("hst", 0.4, changed={"optim": "sgd", "weight_decay": 0.1}),
        # The whole recipe on a smaller set of data.
        cell("flat", 0.25, 0, rows={**ROWS, "train": 9_000}),
        cell("hst", 0.30, 0, **few),
        cell("hst", 0.31, 0, steps=2_000),
        cell("hst", 0.33, 1, steps=2_000),
        cell("hst-saor", 0.305, 0, steps=2_000, self_pretraining=pretrained(2_000)),
        cell("bigbird", 0.28, 0, steps=2_000),
        cell("flat", 0.2, 0, steps=2_000, pattern=str(MODELS["flat"].pattern.changed_by("num_global_blocks=4"))),
    ]
    assert report.shorter_tables(cells) == "\n".join(
        [
            "| listops, 5,000 updates of 32 rows, learning rate 0.001 after a warm-up of 1,000, optim sgd, weight_decay 0.1, 96,000 training and 2,000 test rows | test accuracy |",
            "| --- | ---: |",
            "| chance, most frequent class | 10.0, 17.5 |",
            "| `hst`: ERNIE-Sparse: HST | 40.0 (1) |",
            "",
            "| listops, 5,000 updates of 32 rows, learning rate 0.001 after a warm-up of 1,000, 9,000 training and 2,000 test rows | test accuracy |",
            "| --- | ---: |",
            "| chance, most frequent class | 10.0, 17.5 |",
            "| `hst`: ERNIE-Sparse: HST | 30.0 (1) |",
            "| `flat`: the same pattern without HST | 25.0 (1) |",
            "",
            "| listops, 2,000 updates of 32 rows, learning rate 0.001 after a warm-up of 1,000, 96,000 training and 2,000 test rows | test accuracy |",
            "| --- | ---: |",
            "| chance, most frequent class | 10.0, 17.5 |",
            "| `hst`: ERNIE-Sparse: HST | 32.0 ± 1.4 (2) |",
            "| `bigbird`: BigBird of transformers | 28.0 (1) |",
            "| `hst-saor`: ERNIE-Sparse: HST and SAOR, self-pretrained | 30.5 (1) |",
        ]
    )


def with_losses(model: str, losses: list[float], seed: int = 0, **more) -> dict:
    """A run of which the validation losses of every tenth update are known."""
    evaluations = [{"step": 10 * (at + 1), "eval_loss": loss, "eval_accuracy": 0.3} for at, loss in enumerate(losses)]
    return cell(model, 0.3, seed, history=[{"step": 5, "loss": 9.0}, *evaluations, {"eval_loss": 0.1}], **more)


LOSSES = [
    with_losses("hst", [2.0, 1.5, 1.75]),
    with_losses("hst", [2.0, 1.7, 1.65], 1),
    with_losses("hst", [1.25], self_pretraining=pretrained(5_000)),
    with_losses("bigbird", [2.25, 1.875]),
    with_losses("bigbird", [0.5], task="text"),
    # Without any, and of other settings.
    cell("flat", 0.4),
    with_losses("dense", [1.0], steps=4_999),
    with_losses("dense", [1.0], changed={"optim": "sgd"}),
]


def test_losses_are_those_of_the_end_and_the_lowest():
    settings = [
        "listops, 5,000 updates of 32 rows, learning rate 0.001 after a warm-up of 1,000",
        "text, 20,000 updates of 32 rows, learning rate 0.0001 after a warm-up of 8,000",
    ]
    heads = [
        f"| {text}, 96,000 training and 2,000 test rows | validation loss at the end | lowest |" for text in settings
    ]
    assert report.loss_table(LOSSES) == "\n".join(
        [
            heads[0],
            "| --- | ---: | ---: |",
            "| `hst`: ERNIE-Sparse: HST | 1.700 ± 0.071 (2) | 1.575 ± 0.106 (2) |",
            "| `bigbird`: BigBird of transformers | 1.875 (1) | 1.875 (1) |",
            "| `hst`: ERNIE-Sparse: HST, self-pretrained | 1.250 (1) | 1.250 (1) |",
            "",
            heads[1],
            "| --- | ---: | ---: |",
            "| `bigbird`: BigBird of transformers | 0.500 (1) | 0.500 (1) |",
        ]
    )


def test_every_seed_has_its_curve_in_the_colour_of_its_model(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    assert report.draw(LOSSES, tmp_path) == [tmp_path / "lra_losses.png"]
    listops, text = figures[0].axes
    drawn = [([*map(float, line.get_xdata())], [*map(float, line.get_ydata())]) for line in listops.get_lines()]
    assert drawn == [
        ([10, 20, 30], [2.0, 1.5, 1.75]),
        ([10, 20, 30], [2.0, 1.7, 1.65]),
        ([10, 20], [2.25, 1.875]),
        ([10], [1.25]),
    ]
    first, second, bigbird, pretraining = listops.get_lines()
    assert first.get_color() == second.get_color() == pretraining.get_color() != bigbird.get_color()
    assert text.get_lines()[0].get_color() == bigbird.get_color()
    assert (first.get_linestyle(), pretraining.get_linestyle()) == ("-", "--")
    names = [name.get_text() for name in listops.get_legend().get_texts()]
    assert names == ["hst", "bigbird", "hst, self-pretrained"]


def with_blocks(model: str, number: int, accuracy: float, seed: int = 0, **more) -> dict:
    pattern = str(MODELS[model].pattern.changed_by(f"num_global_blocks={number}"))
    return cell(model, accuracy, seed, pattern=pattern, steps=2_000, **more)


BOTTLENECK = [
    with_blocks("hst", 0, 0.25),
    with_blocks("hst", 1, 0.27, 0),
    with_blocks("hst", 1, 0.28, 1),
    with_blocks("hst", 4, 0.29),
    with_blocks("flat", 0, 0.18),
    with_blocks("flat", 1, 0.2),
    # The same pattern by another name.
    cell("window", 0.2, 1, steps=2_000),
]
PATTERNS = [
    cell("hst", 0.40, 0, other_patterns={"block_size=16": {"accuracy": 0.3, "flipped": 0.2}}),
    cell("hst", 0.42, 1, other_patterns={"block_size=16": {"accuracy": 0.3, "flipped": 0.3}}),
    cell(
        "hst-saor",
        0.45,
        other_patterns={
            "block_size=16": {"accuracy": 0.44, "flipped": 0.025},
            "num_window_blocks=7": {"accuracy": 0.43, "flipped": 0.01},
        },
    ),
]


def test_the_bottleneck_counts_runs_by_their_pattern_alone():
    left_out = [
        with_blocks("hst-saor", 2, 0.9),
        with_blocks("hst", 2, 0.9, self_pretraining={"steps": 1}),
        cell("hst", 0.9, steps=2_000, pattern=str(SparsePattern(block_size=32, num_global_blocks=2))),
        cell("bigbird", 0.9, steps=2_000),
        # A number of blocks alone in its setting says nothing.
        cell("hst", 0.9, steps=300),
    ]
    assert report.bottleneck_tables([*BOTTLENECK, *left_out]) == "\n".join(
        [
            "| listops, 2,000 updates of 32 rows, learning rate 0.001 after a warm-up of 1,000, 96,000 training and 2,000 test rows | 0 global | 1 global | 2 global | 4 global |",
            "| --- | ---: | ---: | ---: | ---: |",
            "| with HST | 25.0 (1) | 27.5 ± 0.7 (2) |  | 29.0 (1) |",
            "| without HST | 19.0 ± 1.4 (2) | 20.0 (1) |  |  |",
        ]
    )


def test_the_bottleneck_has_the_losses_that_all_runs_of_a_cell_have():
    cells = [
        with_losses("hst", [1.9, 1.5]),
        with_losses("hst", [1.9, 1.7], 1),
        with_losses("hst", [1.75], pattern=str(MODELS["hst"].pattern.changed_by("num_global_blocks=2"))),
        with_losses("flat", [1.8]),
        cell("flat", 0.2, 1),
        with_losses("window", [2.0, 1.875, 1.9375]),
    ]
    assert report.bottleneck_tables(cells).splitlines()[4:] == [
        "| with HST: validation loss at the end |  | 1.600 ± 0.141 (2) | 1.750 (1) |  |",
        "| without HST: validation loss at the end | 1.938 (1) |  |  |  |",
    ]


def test_the_picture_of_the_bottleneck_shows_what_knowing_nothing_gives(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    report.draw(BOTTLENECK, tmp_path)
    (axes,) = figures[0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "most frequent class",
        "with HST",
        "without HST",
    ]
    (guess,) = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert list(guess.get_ydata()) == [17.5, 17.5] and axes.get_ylim()[0] < 17.5
    with_hst, without_hst = (list(container.lines[0].get_xydata().flat) for container in axes.containers)
    assert with_hst == pytest.approx([0, 25.0, 1, 27.5, 4, 29.0]) and without_hst == pytest.approx([0, 19.0, 1, 20.0])


def test_what_other_patterns_change_is_set_side_by_side():
    alone = cell("hst", 0.9, task="text", other_patterns={"block_size=16": {"accuracy": 0.3, "flipped": 0.2}})
    pretrained = cell("hst-rdrop", 0.9, self_pretraining={"steps": 1})
    untested = [cell("hst-saor", 0.9, task="text"), cell("hst-rdrop", 0.9)]
    assert report.pattern_tables([*PATTERNS, alone, pretrained, *untested]) == "\n".join(
        [
            "| listops, 5,000 updates of 32 rows, learning rate 0.001 after a warm-up of 1,000, 96,000 training and 2,000 test rows | neither: accuracy | neither: answers changed | "
            "SAOR: accuracy | SAOR: answers changed |",
            "| --- | ---: | ---: | ---: | ---: |",
            "| the model's own pattern | 41.0 ± 1.4 (2) | 0.0 ± 0.0 (2) | 45.0 (1) | 0.0 (1) |",
            "| `block_size=16` | 30.0 ± 0.0 (2) | 25.0 ± 7.1 (2) | 44.0 (1) | 2.5 (1) |",
            "| `num_window_blocks=7` |  |  | 43.0 (1) | 1.0 (1) |",
        ]
    )


def test_every_run_stands_with_what_it_needs_to_be_done_again():
    cells = [
        cell("hst", 0.41234, 3),
        cell(
            "dense",
            0.5,
            task="text",
            self_pretraining={"steps": 1_500},
            hardware={"cpu": "A CPU", "threads": 2, "gpu": "A GPU"},
            commit=None,
        ),
        cell("hst", 0.4, 4, commit="fedcba9876543210-dirty"),
        cell(
            "hst-saor",
            0.3,
            environments=[
                {"step": 0, "commit": "a" * 40, "hardware": {"cpu": "A CPU", "threads": 2, "gpu": "A GPU"}},
                {"step": 1_500, "commit": "b" * 40, "hardware": {"cpu": "A CPU", "threads": 2, "gpu": "A GPU"}},
                {"step": 2_000, "commit": "b" * 40, "hardware": {"cpu": "A CPU", "threads": 1, "gpu": None}},
            ],
        ),
        cell(
            "dense",
            0.1,
            self_pretraining={
                "steps": 1_500,
                "environments": [{"step": 0, "commit": "0123456789abcdef", "hardware": {"gpu": "A GPU"}}],
            },
        ),
        # What came before it was not noted.
        cell("bigbird", 0.2, environments=[{"step": 500, "commit": None, "hardware": {"gpu": "A GPU"}}]),
    ]
    assert report.runs_table(cells) == "\n".join(
        [
            "| command | test accuracy | seed | updates | training / test rows | commit | hardware |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            "| `python -m benchmarks.lra --task listops --model hst` | 41.23 | 3 | 5,000 | 96,000 / 2,000 | 012345678 | A CPU, 2 thread(s) |",
            "| `python -m benchmarks.lra --task text --model dense` | 50.00 | 0 | 1,500 + 20,000 | 96,000 / 2,000 |  | A GPU |",
            "| `python -m benchmarks.lra --task listops --model hst` | 40.00 | 4 | 5,000 | 96,000 / 2,000 | fedcba987-dirty | A CPU, 2 thread(s) |",
            "| `python -m benchmarks.lra --task listops --model hst-saor` | 30.00 | 0 | 5,000 | 96,000 / 2,000 | aaaaaaaaa; from update 1,500: bbbbbbbbb | A GPU; from update 2,000: A CPU, 1 thread(s) |",
            "| `python -m benchmarks.lra --task listops --model dense` | 10.00 | 0 | 1,500 + 5,000 | 96,000 / 2,000 | 012345678 | self-pretraining: A GPU; then: A CPU, 2 thread(s) |",
            "| `python -m benchmarks.lra --task listops --model bigbird` | 20.00 | 0 | 5,000 | 96,000 / 2,000 |  | from update 500: A GPU |",
        ]
    )


def test_runs_are_read_in_the_order_of_tasks_and_models(tmp_path):
    cells = [
        cell("hst", 0.1, 0),
        cell("hst", 0.2, 1),
        cell("hst", 0.3, 0, self_pretraining={"steps": 1}),
        cell("longformer", 0.4),
        cell("hst", 0.45, changed={"weight_decay": 0.1}),
        cell("hst", 0.5, steps=10),
        cell("hst", 0.6, task="pathfinder"),
    ]
    read = report.read_cells(write(tmp_path, cells))
    assert [found["accuracy"] for found in read] == [0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6] and read == cells
    # Without those that only some runs have.
    bare = {name: value for name, value in cells[0].items() if name in report.KEYS}
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.json").write_text(json.dumps(bare))
    assert report.read_cells(tmp_path / "bare") == [bare]


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"task": "listops"', "is not a result of `python -m benchmarks.lra`: Expecting"),
        (
            '{"task": "listops", "model": "hst"}',
            "is not a result of `python -m benchmarks.lra`: it has no seed, steps, batch_size, learning_rate, warmup_steps, rows",
        ),
        ("17", "is not a result"),
        ("[]", "is not a result"),
        (json.dumps(cell("hst", 0.1) | {"model": "bert"}), "'bert' is no model"),
        (json.dumps(cell("hst", 0.1) | {"task": "chess"}), "'chess' is no task"),
        (json.dumps(cell("hst", None)), "is not a result"),
        (json.dumps(cell("hst", float("nan"))), "accuracy is nan: it must lie between 0 and 1"),
        (json.dumps(cell("hst", 7.5)), r"accuracy is 7\.5"),
        (json.dumps(cell("hst", 0.2, steps=-3)), "steps is -3: it must be a whole number of at least 1"),
        (json.dumps(cell("hst", 0.2, "a")), "seed is 'a'"),
        (json.dumps(cell("hst", 0.2, rows=[1])), "its rows or its hardware are incomplete"),
        (json.dumps(cell("hst", 0.2, hardware=None)), "is not a result"),
        (json.dumps(cell("hst", 0.2, history=[1])), "is not a result"),
        (json.dumps(cell("hst", 0.2, changed=["optim"])), r"changed is \['optim'\]: it must have names and values"),
        # The runs that are there already.
        (json.dumps(cell("hst", 0.2)), "are results of the same run: keep one of them"),
        (
            json.dumps(cell("hst", 0.2, self_pretraining=pretrained(9) | {"last_loss": 2.0})),
            "are results of the same run: keep one of them",
        ),
        # By another name.
        (
            json.dumps(cell("hst-rdrop", 0.2, saor=None) | {"pattern": cell("hst", 0.1)["pattern"]}),
            "are results of the same run: keep one of them",
        ),
    ],
)
def test_what_is_no_result_is_named(text, message, tmp_path):
    write(tmp_path, [cell("hst", 0.1), cell("hst", 0.1, self_pretraining=pretrained(9))])
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        report.read_cells(tmp_path)
    assert str(tmp_path / "other.json") in str(error.value)


def shows_both(path: Path) -> bool:
    """Whether a picture has more of the first two colours, which are blue and orange, than a legend; text and axes are gray."""
    red, _, blue = imread(path)[..., :3].transpose(2, 0, 1)
    return (blue - red > 0.4).sum() > 1000 and (red - blue > 0.4).sum() > 1000


def test_the_command_fills_the_page_and_draws(tmp_path, capsys):
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(PAGE)
    words = [
        "--report",
        "--results-dir",
        str(write(tmp_path / "runs", [*BOTTLENECK, *PATTERNS, with_losses("flat", [2.0, 1.5])])),
        "--page",
        str(page),
    ]
    assert run_command(PROG, main, words) == 0
    assert f"{page}: 11 runs of " in capsys.readouterr().out
    text = page.read_text()
    for name in TABLES:
        assert f"## {name}\n\n<!-- begin {name} -->\n|" in text
    assert "old" not in text and "| with HST | 25.0 (1) |" in text and "SAOR: answers changed" in text
    pictures = sorted(path.name for path in page.parent.glob("*.png"))
    assert pictures == ["lra_bottleneck.png", "lra_losses.png", "lra_patterns.png"]
    assert all(shows_both(page.parent / name) for name in pictures if name != "lra_losses.png")
    assert all(f"![The table as a picture]({name})\n<!-- end {name[4:-4]} -->" in text for name in pictures)
    assert run_command(PROG, main, words) == 0 and page.read_text() == text


def test_titles_are_no_wider_than_their_pictures(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure))
    longest = {"task": "pathfinder", "rows": {**ROWS, "train": 160_000, "test": 20_000}}
    cells = [*BOTTLENECK, *PATTERNS, with_losses("hst", [2.0, 1.5], task="pathfinder")]
    report.draw([found | longest for found in cells], tmp_path)
    assert len(figures) == 3
    for figure in figures:
        figure.draw_without_rendering()
        for axes in figure.axes:
            title = axes.title.get_window_extent()
            assert axes.get_title().startswith("pathfinder") and 0 < title.x0 < title.x1 < figure.bbox.width


def test_a_folder_of_runs_is_read_without_what_stands_beside_their_results(tmp_path):
    for place in (
        "run/results.json",
        "run/run.json",
        "run/checkpoint-3/trainer_state.json",
        "run/self-pretraining/facts.json",
    ):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(cell("hst", 0.4) if path.name == "results.json" else {}))
    assert report.read_cells(tmp_path) == [cell("hst", 0.4)]


def test_without_anything_to_show_there_is_no_picture(tmp_path):
    assert report.draw([cell("hst", 0.4), cell("flat", 0.3)], tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    assert report.draw(BOTTLENECK, tmp_path) == [tmp_path / "lra_bottleneck.png"]


def test_a_page_or_a_folder_that_is_not_there_is_said_in_one_line(tmp_path, capsys):
    results, page = write(tmp_path / "runs", [cell("hst", 0.4)]), tmp_path / "page.md"
    page.write_text("no marks\n")
    for words, message in (
        (["--results-dir", tmp_path / "nowhere", "--page", page], "nowhere: there is no such folder"),
        (["--results-dir", results, "--page", tmp_path / "none.md"], "none.md: there is no such file"),
        (["--results-dir", results, "--page", page], "has no place for a table: the lines <!-- begin accuracy -->"),
        (["--results-dir", results, "--colour", "red"], "unrecognized arguments: --colour ("),
    ):
        capsys.readouterr()
        assert run_command(PROG, main, ["--report", *map(str, words)]) == 2
        (printed,) = capsys.readouterr().err.splitlines()
        assert printed.startswith("python -m benchmarks.lra: error: ") and message in printed
    assert page.read_text() == "no marks\n" and not list(tmp_path.glob("*.png"))
