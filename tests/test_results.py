# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What results say of where they come from."""

import subprocess

import pytest

from ernie_sparse import results
from ernie_sparse.results import Record, environments


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder that this package's sources seem to lie in, within a repository."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(results, "__file__", str(folder / "results.py"))
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
    assert results.commit() == head
    (sources.parent / "elsewhere.txt").write_text("not of the package")
    assert results.commit() == head
    kept = sources.parent / "benchmarks" / "results" / "run.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert results.commit() == head
    for changed in (sources / "__init__.py", sources.parent / "benchmarks" / "lra.py"):
        before = changed.read_text() if changed.exists() else None
        changed.write_text("changed = True\n")
        assert results.commit() == f"{head}-dirty"
        changed.unlink() if before is None else changed.write_text(before)
    assert results.commit() == head


def test_a_copy_inside_another_repository_has_no_commit(sources):
    (sources.parent / "theirs.txt").write_text("")
    git(sources.parent, "add", "theirs.txt")
    git(sources.parent, "commit", "--quiet", "-m", "theirs")
    assert results.commit() is None


def test_what_is_committed_during_a_run_is_not_what_ran(sources):
    git(sources, "add", ".")
    git(sources, "commit", "--quiet", "-m", "one")
    record, head = Record("ernie-sparse pretrain", ["--train-file", "a b.txt"]), git(sources, "rev-parse", "HEAD")
    (sources / "__init__.py").write_text("later = True\n")
    git(sources, "commit", "--quiet", "-a", "-m", "later")
    assert record.facts()["commit"] == head != results.commit()


@pytest.mark.parametrize("flag", ["--resume-from-checkpoint", "--resume_from_checkpoint"])
def test_the_command_runs_from_the_beginning(flag):
    facts = Record("ernie-sparse pretrain", ["--train-file", "a b.txt", flag, "last", "--bf16"]).facts()
    assert facts["command"] == "ernie-sparse pretrain --train-file 'a b.txt' --bf16"
    assert environments([{"loss": 1.0}, {"step": 3, "hardware": {}}]) == [{"step": 3, "hardware": {}}]
