# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""One run in one folder: when it is the same, where it goes on, and what it refuses."""

import json
from types import SimpleNamespace

import pytest

from ernie_sparse.errors import InputError
from ernie_sparse.results import Record
from ernie_sparse.run import Run

IDENTITY = {"learning_rate": 0.1, "max_steps": 10, "patterns": ["shift"], "preprocessing_processes": None, "seeds": [0]}


def run_in(folder, resume=None, **changes) -> Run:
    training = SimpleNamespace(output_dir=str(folder), resume_from_checkpoint=resume, process_index=0)
    return Run(Record("ernie-sparse pretrain", []), training, {**IDENTITY, **changes})


def leave_checkpoint(folder, step: int, **identity):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    run_in(folder, **identity).write_identity()
    return checkpoint


def test_a_run_begins_in_an_empty_folder_whether_or_not_it_is_to_go_on(tmp_path):
    assert run_in(tmp_path).checkpoint() is None
    assert run_in(tmp_path / "new", "last").checkpoint() is None and not (tmp_path / "new").exists()


def test_the_newest_complete_checkpoint_is_the_last(tmp_path):
    leave_checkpoint(tmp_path, 2)
    newest = leave_checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-12").mkdir()
    assert run_in(tmp_path, "last").checkpoint() == str(newest)
    (newest / "trainer_state.json").write_text('{"global_')
    assert run_in(tmp_path, "last").checkpoint() == str(tmp_path / "checkpoint-2")


def test_checkpoints_in_the_folder_are_not_written_over(tmp_path):
    leave_checkpoint(tmp_path, 2)
    with pytest.raises(InputError, match="holds checkpoints of an earlier run: pass --resume-from-checkpoint last"):
        run_in(tmp_path).checkpoint()


@pytest.mark.parametrize("by_path", [True, False])
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learning_rate": 0.2}, "of learning_rate 0.1 and not 0.2: name another folder"),
        ({"patterns": ["window"], "max_steps": 20}, r"of patterns \['shift'\] and not \['window'\]: name"),
        ({"max_steps": 9}, "of max_steps 10 and not 9"),
        ({"new": 1}, "of new None and not 1"),
    ],
)
def test_another_run_is_refused_by_path_as_by_last(by_path, changes, message, tmp_path):
    checkpoint = leave_checkpoint(tmp_path / "first", 2)
    folder, resume = (tmp_path / "second", str(checkpoint)) if by_path else (tmp_path / "first", "last")
    with pytest.raises(InputError, match=f"{tmp_path / 'first'} holds another run, {message}"):
        run_in(folder, resume, **changes).checkpoint()


@pytest.mark.parametrize("changes", [{}, {"max_steps": 11}, {"seeds": [0, 1]}, {"preprocessing_processes": 4}])
def test_what_may_change_when_a_run_goes_on(changes, tmp_path):
    checkpoint = leave_checkpoint(tmp_path, 2)
    assert run_in(tmp_path, "last", **changes).checkpoint() == str(checkpoint)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_without_knowing_which_run_it_is_none_goes_on(content, tmp_path):
    leave_checkpoint(tmp_path, 2)
    (tmp_path / "run.json").unlink()
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json is missing or damaged"):
        run_in(tmp_path, "last").checkpoint()


def test_a_run_at_its_end_is_finished_unless_it_is_another_or_longer(tmp_path, capsys):
    leave_checkpoint(tmp_path, 10)
    (tmp_path / "results.json").write_text('{"loss": 1.5}')
    assert run_in(tmp_path, "last").finished_results() == {"loss": 1.5}
    assert "finished already" in capsys.readouterr().out
    assert run_in(tmp_path).finished_results() is None
    assert run_in(tmp_path, "last", max_steps=20).finished_results() is None
    with pytest.raises(InputError, match="holds another run"):
        run_in(tmp_path, "last", learning_rate=0.2).finished_results()
