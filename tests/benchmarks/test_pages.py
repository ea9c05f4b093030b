# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Pages of results: how a table gets into one, and that the published ones are those of what is kept."""

import json
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


def test_long_range_arena_has_the_tables_of_its_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "notebook" / "lra.md").read_text()
    page = tmp_path / "lra.md"
    page.write_text(text)
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
    page.write_text(text)
    benchmark.main(["--results-dir", str(ROOT / "benchmarks" / "results" / results), "--page", str(page)])
    assert page.read_text() == text


@pytest.mark.parametrize("path", SPEED, ids=[str(path.parent.relative_to(ROOT)) for path in SPEED])
def test_every_measurement_of_speed_has_its_tables(path, tmp_path):
    results = json.loads(path.read_text())
    # As it was when the first of them were written.
    results["versions"].pop("hardware", None)
    speed_report.save_markdown(results, tmp_path)
    assert (tmp_path / "results.md").read_text() == path.with_name("results.md").read_text()
