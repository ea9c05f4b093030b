# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What results say of where they come from, and rows drawn by a seed."""

import subprocess

import pytest
from datasets import Dataset

from ernie_sparse import running
from ernie_sparse.running import subset


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder that this package's sources seem to lie in, within a repository."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(running, "__file__", str(folder / "running.py"))
    git(tmp_path, "init", "--quiet")
    return folder


def git(folder, *words: str) -> str:
    author = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *author, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_commit_is_that_of_the_sources(sources):
    git(sources, "add", ".")
    git(sources, "commit", "--quiet", "-m", "one")
    head = git(sources, "rev-parse", "HEAD")
    assert running.commit() == head
    (sources.parent / "elsewhere.txt").write_text("not of the package")
    assert running.commit() == head
    (sources / "__init__.py").write_text("changed = True\n")
    assert running.commit() == f"{head}-dirty"


def test_a_copy_inside_another_repository_has_no_commit(sources):
    (sources.parent / "theirs.txt").write_text("")
    git(sources.parent, "add", "theirs.txt")
    git(sources.parent, "commit", "--quiet", "-m", "theirs")
    assert running.commit() is None


def test_what_is_committed_during_a_run_is_not_what_ran(sources):
    git(sources, "add", ".")
    git(sources, "commit", "--quiet", "-m", "later")
    assert running.commit() != running.COMMIT
    assert running.run_facts("lra", ["--task", "listops"])["commit"] == running.COMMIT


def test_a_subset_is_drawn_by_the_seed_and_keeps_the_order():
    rows = Dataset.from_dict({"n": list(range(100))})
    drawn = subset(rows, 10, 0)["n"][:]
    assert len(set(drawn)) == 10 and drawn == sorted(drawn) and drawn != list(range(10))
    assert subset(rows, 10, 0)["n"][:] == drawn != subset(rows, 10, 1)["n"][:]
    assert subset(rows, None, 0) is rows and subset(rows, 100, 0) is rows
