# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Pages of results: how a table gets into one, and that the published ones are those of what is kept."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import context, finetuning, pretraining, recall, robustness, scaling
from benchmarks.lra import report as lra_report
from benchmarks.pages import fill_page
from benchmarks.speed import report as speed_report
from ernie_sparse.errors import InputError

ROOT = Path(finetuning.__file__).parents[1]
SPEED = sorted((ROOT / "benchmarks" / "results").glob("cpu*/**/results.json"))


def test_only_what_lies_between_the_marks_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    text = "head\n<!-- begin a -->\nold\nolder\n<!-- end a -->\nmiddle\n<!-- begin b -->\n<!-- end b -->\ntail\n"
    # What a pattern would take for a reference to a group stays text.
    tables = {"a": "| \\1 |", "b": "new b"}
    expected = (
        "head\n<!-- begin a -->\n| \\1 |\n<!-- end a -->\nmiddle\n<!-- begin b -->\nnew b\n<!-- end b -->\ntail\n"
    )
    page.write_text(text)
    for _ in range(2):
        fill_page(page, tables)
        assert page.read_text() == expected
    for missing in ("<!-- end b -->", "<!-- begin b -->"):
        page.write_text(text.replace(missing, ""))
        with pytest.raises(InputError, match=r"page\.md has no place for a table: the lines <!-- begin b -->"):
            fill_page(page, tables)
        assert page.read_text() == text.replace(missing, "")


def without_tables(text: str) -> str:
    empty, count = re.subn(r"(<!-- begin (.+?) -->\n).*?(<!-- end \2 -->)", r"\1\3", text, flags=re.DOTALL)
    assert count
    return empty


def test_long_range_arena_has_the_tables_of_its_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "notebook" / "lra.md").read_text()
    page = tmp_path / "lra.md"
    page.write_text(without_tables(text))
    # Drawn anew, they would differ with matplotlib's version.
    names = ("lra_losses.png", "lra_bottleneck.png", "lra_patterns.png")
    monkeypatch.setattr(lra_report, "draw", lambda cells, folder: [folder / name for name in names])
    results = ROOT / "benchmarks" / "results" / "lra"
    lra_report.main(["--report", "--results-dir", str(results), "--page", str(page)])
    assert page.read_text() == text


@pytest.mark.parametrize(
    "name, benchmark, results",
    [
        ("finetuning", finetuning, "finetuning"),
        ("embeddings", context, "context"),
        ("hierarchy", recall, "recall"),
        ("robustness", robustness, "robustness"),
        ("scaling", scaling, "scaling"),
        ("pretraining", pretraining, "pretraining"),
    ],
)
def test_a_page_has_the_tables_of_its_runs(name, benchmark, results, tmp_path):
    text = (ROOT / "docs" / "notebook" / f"{name}.md").read_text()
    page = tmp_path / f"{name}.md"
    page.write_text(without_tables(text))
    benchmark.main(["--results-dir", str(ROOT / "benchmarks" / "results" / results), "--page", str(page)])
    assert page.read_text() == text


@pytest.mark.parametrize("path", SPEED, ids=[str(path.parent.relative_to(ROOT)) for path in SPEED])
def test_every_measurement_of_speed_has_its_tables(path, tmp_path):
    results = json.loads(path.read_text())
    # As it was when the first of them were written.
    results["versions"].pop("hardware", None)
    speed_report.save_markdown(results, tmp_path)
    assert (tmp_path / "results.md").read_text() == path.with_name("results.md").read_text()


def test_the_times_in_readme_and_results_are_those_of_the_release():
    cells = json.loads((ROOT / "benchmarks" / "results" / "cpu-release" / "results.json").read_text())["cells"]
    ours = {(cell["model"], cell["task"], cell["length"]): cell["over_ours"] for cell in cells}
    columns = [(task, length) for task in ("forward", "training") for length in (512, 4096)]
    readme, results = ((ROOT / page).read_text() for page in ("README.md", "docs/results.md"))
    names = {"dense": "dense BERT", "modernbert": "ModernBERT", "bigbird": "BigBird", "longformer": "Longformer"}
    for model, name in names.items():
        times = [f"{ours[(model, *column)]:.2f}" for column in columns]
        notes = [" (full attention)" if model == "bigbird" and length == 512 else "" for _, length in columns]
        assert f"| {name} | {' | '.join(map(''.join, zip(times, notes, strict=True)))} |" in results
        assert f"| {name} | {ours[model, 'forward', 4096]:.1f} times as long" in readme
    for task in ("forward", "training"):
        halves = [
            f"{cell['over_reference']:.2f}"
            for cell in cells
            if cell["task"] == f"padding-{task}" and cell["variant"] != "full"
        ]
        assert f"| {task} | {' | '.join(halves)} |" in results
