# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Recall over blocks: the documents, which settings can see an answer at all, and what is kept of a run."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import recall
from ernie_sparse.errors import InputError

ROOT = Path(recall.__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "recall"
HEAD = recall.LEAD_BLOCKS * recall.BLOCK_SIZE


def drawn(count: int, num_facts: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return recall.documents(count, num_facts, torch.Generator().manual_seed(seed))


def test_every_question_has_one_answer_in_another_block():
    rows = drawn(60, 6)
    asked_from = set()
    for ids, types, labels in zip(*(table.tolist() for table in rows.values()), strict=True):
        assert set(zip(ids[:HEAD], types[:HEAD], labels[:HEAD], strict=True)) == {(recall.LEAD_WORD, 0, -100)}
        facts = {ids[place]: (place, types[place] - 2) for place in range(len(ids)) if types[place] >= 2}
        questions = [place for place in range(len(ids)) if types[place] == recall.QUESTION]
        assert [place // 4 for place, _ in facts.values()] == [place // 4 for place in questions] == list(range(4, 10))
        assert [place for place in range(len(ids)) if labels[place] != -100] == questions
        for question in questions:
            place, value = facts[ids[question]]
            assert (value, place // 4 == question // 4) == (labels[question], False)
            asked_from.add((question // 4, place // 4))
        fillers = {word for word, kind in zip(ids[HEAD:], types[HEAD:], strict=True) if kind == recall.FILLER}
        assert fillers <= set(range(recall.FILLER_WORDS, recall.KEY_WORDS))
    # Every block is asked about from every other one.
    assert len(asked_from) == 6 * 5
    assert all(torch.equal(rows[name], table) for name, table in drawn(60, 6).items())
    assert not torch.equal(rows["input_ids"], drawn(60, 6, seed=1)["input_ids"])


@pytest.mark.parametrize("name", ["hst-0", "hst-4", "flat-0", "flat-1", "full"])
def test_only_global_tokens_and_representatives_carry_a_fact_to_another_block(name):
    setting = recall.SETTINGS[name]
    model = recall.build_model(setting).eval()
    rows = drawn(1, 6)
    rows.pop("labels")
    logits = []
    for value in (3, 4):
        last = torch.nonzero(rows["token_type_ids"][0] >= recall.VALUE_TYPES)[-1]
        rows["token_type_ids"][0, last] = recall.VALUE_TYPES + value
        with torch.no_grad():
            logits.append(model(**rows).logits)
    is_changed = (logits[0] != logits[1]).any(dim=-1)[0]
    assert is_changed[-4:].all()
    assert is_changed[HEAD:-4].all() if name != "flat-0" else not is_changed[:-4].any()


def test_runs_are_kept_and_not_run_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recall, "NUM_FACTS", (2, 3))
    monkeypatch.setattr(recall, "BLOCKS_PER_BATCH", 14)
    short = {name: dataclasses.replace(recall.SETTINGS[name], num_steps=2) for name in ("hst-1", "full")}
    monkeypatch.setattr(recall, "SETTINGS", short)
    command = ["--settings", "hst-1", "full", "--seeds", "3", "--test-documents", "5", "--results-dir", str(tmp_path)]
    recall.main(command)
    first = capsys.readouterr().out
    kept = json.loads((tmp_path / "hst-1-seed-3.json").read_text())
    assert kept["command"] == "python -m benchmarks.recall --settings hst-1 --seeds 3 --test-documents 5"
    assert [point["step"] for point in kept["curve"]] == [kept["steps"]] == [2]
    assert [list(found) for found in kept["accuracy"].values()] == [["2", "3"]] * 4
    assert str(tmp_path) not in json.dumps(kept)
    monkeypatch.setattr(recall, "train", None)
    recall.main(command)
    # The lines of the runs come before the tables.
    assert first.splitlines()[2:] == capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("name", "expected"), [("hst-1-drop", [0, 1] * 3), ("flat-4", [4] * 6), ("hst-1-late", [0] * 2 + [1] * 4)]
)
def test_what_a_run_trains_and_when_it_ends(name, expected, monkeypatch):
    monkeypatch.setattr(recall, "NUM_FACTS", (2,))
    monkeypatch.setattr(recall, "BLOCKS_PER_BATCH", 14)
    monkeypatch.setattr(recall, "STEPS_PER_CHECK", 2)
    monkeypatch.setattr(recall, "FULL_STEPS", 2)
    shares, trained = iter((1.0, 0.5, 0.95, 1.0)), []
    monkeypatch.setattr(recall, "accuracy", lambda model, pattern, rows: next(shares))
    made = recall.plan
    monkeypatch.setattr(recall, "plan", lambda pattern, shape: trained.append(pattern) or made(pattern, shape))
    setting = recall.SETTINGS[name]
    if setting.global_blocks_after:
        setting = dataclasses.replace(setting, global_blocks_after=4)
    _, curve = recall.train(setting, seed=0)
    assert [pattern.num_global_blocks for pattern in trained] == [2**31 - 1] * 2 + expected
    assert all(pattern.hierarchical == name.startswith("hst") for pattern in trained)
    checks = [(point["step"], point["pattern"], point["validation_accuracy"]) for point in curve]
    own = name.split("-")[1]
    first = "0" if name == "hst-1-late" else own
    assert checks == [(2, "full", 1.0), (4, first, 0.5), (6, own, 0.95), (8, own, 1.0)]
    found = [recall.steps_to(share, curve, setting.pattern) for share in (0.4, 0.9)]
    assert found == [4 if first == own else 6, 6] and recall.steps_to(0.9, curve[:2], setting.pattern) is None


def test_the_page_has_the_tables_of_the_runs(tmp_path, monkeypatch):
    page = tmp_path / "hierarchy.md"
    shutil.copy(ROOT / "docs" / "notebook" / "hierarchy.md", page)
    # Drawn anew, it would differ with matplotlib's version.
    monkeypatch.setattr(recall, "draw", lambda runs, path: None)
    recall.main(["--results-dir", str(RESULTS), "--page", str(page)])
    assert page.read_text() == (ROOT / "docs" / "notebook" / "hierarchy.md").read_text()
    with pytest.raises(InputError, match=r"no runs are kept there"):
        recall.main(["--results-dir", str(tmp_path), "--page", str(page)])


def test_tables_and_lines_are_means_over_seeds():
    def made(seed: int, names, share: float) -> dict:
        facts = {str(number): share for number in recall.NUM_FACTS}
        guess = {"most_frequent_value": {str(number): 0.25 for number in recall.NUM_FACTS}, "chance": 0.0625}
        accuracy = {name: {**facts, "24": share / (number + 1)} for number, name in enumerate(names)}
        return {"seed": seed, "accuracy": accuracy, "steps_to_90_percent": 100 if share > 0.9 else None, **guess}

    runs = {
        "hst-1": [made(seed, "0124", share) for seed, share in enumerate((0.8, 1.0))],
        "full": [made(0, ["full"], 1)],
    }
    row, last = recall.table(runs).splitlines()[2:4]
    assert row == f"| with representatives | 1 | {'90.0 ± 14.1 | ' * 4}45.0 ± 7.1 | never, 100 | 0, 1 |"
    assert last == f"| full attention | full | {'100.0 | ' * 5}100 | 0 |"
    (row,) = recall.pattern_table(runs).splitlines()[2:]
    cells = "90.0 ± 14.1 | 45.0 ± 7.1 | 30.0 ± 4.7 | 22.5 ± 3.5"
    assert row == f"| with representatives | 1 | {cells} | never, 100 | 0, 1 |"
    assert recall.lines_of(runs) == {"with representatives": {1: [40.0, 50.0]}}
