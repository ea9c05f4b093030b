# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""One run in one folder: when it is the same, where it goes on, and what it refuses."""

import json
import shutil
import zipfile
from types import SimpleNamespace

import pytest
from datasets import Dataset
from safetensors.torch import save_file
from torch import ones

from ernie_sparse import training_checkpoints
from ernie_sparse.errors import InputError
from ernie_sparse.results import Record
from ernie_sparse.run import MAY_CHANGE, MAY_GROW, Run
from ernie_sparse.training_checkpoints import write_digests

IDENTITY = {
    "learning_rate": 0.1,
    "num_train_epochs": 3,
    "max_steps": 10,
    "patterns": ["shift"],
    "preprocessing_processes": None,
    "seeds": [0],
}
DATA = {"train": [Dataset.from_dict({"n": [1, 2, 3]})], "validation": [Dataset.from_dict({"n": [4]})]}
PLAIN = {
    "process_index": 0,
    "world_size": 1,
    "fp16": False,
    "is_sharded": False,
    "resume_incomplete": False,
}


def run_in(folder, resume="last", training=(), **changes) -> Run:
    arguments = {**PLAIN, "output_dir": str(folder), "resume_from_checkpoint": resume, **dict(training)}
    return Run(Record("ernie-sparse pretrain", []), SimpleNamespace(**arguments), {**IDENTITY, **changes})


def write_zip(path, content: bytes):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", content)


def leave_checkpoint(folder, step: int, **identity):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    state = {"global_step": step, "epoch": 1, "max_steps": 10, "log_history": [], "stateful_callbacks": {}}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / "config.json").write_text(json.dumps(IDENTITY))
    save_file({"weight": ones(9)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        write_zip(checkpoint / name, bytes(range(256)))
    run = run_in(folder, **identity)
    run.check_data(DATA)
    run.write_identity()
    return checkpoint


@pytest.fixture
def warnings_logged(monkeypatch):
    """What has been warned of since the last call."""
    found = []
    monkeypatch.setattr(training_checkpoints.logger, "warning", lambda text, *values: found.append(text % values))

    def taken() -> list[str]:
        taken, found[:] = list(found), []
        return taken

    return taken


def started(folder, resume="last", **choices) -> str | None:
    """The checkpoint of a run, which lets go of its folder again."""
    run = run_in(folder, resume, **choices)
    checkpoint = run.checkpoint()
    run.release()
    return checkpoint


def test_a_run_begins_in_an_empty_folder(tmp_path):
    assert started(tmp_path / "new") is None and not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    assert started(tmp_path / "empty") is None
    # So does one that was stopped before its first checkpoint.
    begun = tmp_path / "begun"
    (begun / "runs").mkdir(parents=True)
    (begun / "search.json.partial").write_text("{")
    run_in(begun).write_identity()
    run = run_in(begun)
    assert run.checkpoint() is None
    run.check_data(DATA)
    run.release()
    assert json.loads((begun / "run.json").read_text())["data"].keys() == DATA.keys()
    # And one that was killed before it could say what it is.
    (tmp_path / "killed").mkdir()
    for name in (".lock", "run.json.partial"):
        (tmp_path / "killed" / name).write_text("")
    assert started(tmp_path / "killed") is None


def test_a_run_says_what_it_is_before_it_leaves_anything_else(tmp_path):
    run = run_in(tmp_path / "out")
    run.checkpoint()
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == run.identity
    run.release()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["results.json", "search.json", "runs/events", ".lock", "seed-0/a"])
def test_what_bears_the_name_of_something_of_a_run_is_not_its_own_without_its_record(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"is not empty: it holds {name.split('/')[0]}; name another folder"):
        started(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_record_of_something_else_is_not_written_over(tmp_path):
    (tmp_path / "run.json").write_text('{"distance_km": 10}')
    with pytest.raises(InputError, match=r"is not empty: it holds run.json; name another folder"):
        started(tmp_path)


def test_results_that_cannot_be_read_or_written_are_said(tmp_path):
    checkpoint = leave_checkpoint(tmp_path, 10)
    for content in ("{", "[1]", ""):
        (tmp_path / "results.json").write_text(content)
        run = run_in(tmp_path)
        run.checkpoint()
        run.check_data(DATA)
        run.release()
        with pytest.raises(
            InputError, match=r"results\.json is damaged: delete it, and the same command writes it anew"
        ):
            run.finished_results()
    (tmp_path / "results.json").unlink()
    (tmp_path / "results.json").mkdir()
    for resume in ("last", str(checkpoint)):
        with pytest.raises(InputError, match=r"results\.json is a folder, and the results are to be written there"):
            started(tmp_path, resume)


def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_names_newer_ones(tmp_path, warnings_logged):
    leave_checkpoint(tmp_path, 2)
    newest = leave_checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-12").mkdir()
    assert started(tmp_path) == str(newest)
    torn = "its trainer_state.json is missing or cut off"
    assert warnings_logged() == [f"{tmp_path / 'checkpoint-12'}: {torn}; going on from {newest}"]
    for content in ('{"global_', "null", "[]"):
        (newest / "trainer_state.json").write_text(content)
        assert started(tmp_path) == str(tmp_path / "checkpoint-2")
        assert warnings_logged()[1] == f"{newest}: {torn}; going on from {tmp_path / 'checkpoint-2'}"
    shutil.rmtree(tmp_path / "checkpoint-2")
    assert started(tmp_path) is None
    assert warnings_logged()[1] == f"{newest}: {torn}; going on from the beginning"


def test_a_run_that_left_no_checkpoint_does_not_bind_its_folder(tmp_path):
    first = run_in(tmp_path)
    first.checkpoint()
    (tmp_path / "runs").mkdir()
    first.release()
    assert started(tmp_path, learning_rate=0.2) is None
    assert json.loads((tmp_path / "run.json").read_text())["learning_rate"] == 0.2
    leave_checkpoint(tmp_path, 2, learning_rate=0.2)
    with pytest.raises(InputError, match=r"holds another run, with learning_rate 0\.2 and not 0\.1"):
        started(tmp_path)


def test_what_is_not_a_runs_own_is_not_written_over(tmp_path):
    for name in ("README.md", "notes.txt", "model.safetensors", "config.json"):
        (tmp_path / name).write_text("mine")
    message = r"is not empty: it holds README.md, config.json, model.safetensors and 1 more; name another folder"
    with pytest.raises(InputError, match=message):
        started(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "notes.txt", "model.safetensors", "config.json"}
    with pytest.raises(InputError, match="is a file"):
        started(tmp_path / "notes.txt")


def test_a_run_from_another_folders_checkpoint_needs_an_empty_one(tmp_path):
    checkpoint = leave_checkpoint(tmp_path / "first", 2)
    assert started(tmp_path / "second", str(checkpoint)) == str(checkpoint)
    leave_checkpoint(tmp_path / "third", 4)
    with pytest.raises(InputError, match="third is not empty: it holds checkpoint-4; name another folder"):
        started(tmp_path / "third", str(checkpoint))


def test_a_folder_may_be_spelt_in_two_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = leave_checkpoint(tmp_path / "out", 2)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for folder, path in (("out", checkpoint), ("link", checkpoint), (tmp_path / "out", "link/checkpoint-2")):
        assert started(folder, str(path)) == str(path)
    (tmp_path / "out" / "results.json").write_text("{}")
    run = run_in("out", str(checkpoint))
    run.checkpoint()
    run.check_data(DATA)
    run.release()
    assert run.finished_results() == {}


def test_a_folder_has_one_run_at_a_time(tmp_path):
    first = run_in(tmp_path)
    first.checkpoint()
    with pytest.raises(InputError, match="another run is writing into this folder"):
        run_in(tmp_path).checkpoint()
    # Of several processes the first one holds it.
    assert run_in(tmp_path, training={"process_index": 1}).checkpoint() is None
    # What does not hold it lets nothing go.
    run_in(tmp_path).release()
    with pytest.raises(InputError, match="another run is writing"):
        run_in(tmp_path).checkpoint()
    first.release()
    assert started(tmp_path) is None and tmp_path.is_dir()


@pytest.mark.parametrize("by_path", [True, False])
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learning_rate": 0.2}, "with learning_rate 0.1 and not 0.2: name another folder"),
        ({"patterns": ["window"], "max_steps": 20}, r"with patterns \['shift'\] and not \['window'\]: name"),
        ({"max_steps": 9}, "with max_steps 10 and not 9"),
        ({"new": 1}, "with new None and not 1"),
        (
            {"data_seed": 3, "bf16": True, "world_size": 2},
            "with data_seed None and not 3, bf16 None and not True, world",
        ),
    ],
)
def test_another_run_is_refused_by_path_as_by_last(by_path, changes, message, tmp_path):
    checkpoint = leave_checkpoint(tmp_path / "first", 2)
    folder, resume = (tmp_path / "second", str(checkpoint)) if by_path else (tmp_path / "first", "last")
    with pytest.raises(InputError, match=f"{tmp_path / 'first'} holds another run, {message}"):
        started(folder, resume, **changes)


@pytest.mark.parametrize("name", MAY_CHANGE)
def test_what_may_change_when_a_run_goes_on(name, tmp_path):
    checkpoint = leave_checkpoint(tmp_path, 2)
    assert started(tmp_path, **{name: 11}) == str(checkpoint)
    assert name in MAY_GROW or started(tmp_path, **{name: "other"}) == str(checkpoint)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_without_knowing_which_run_it_is_none_goes_on(content, tmp_path):
    leave_checkpoint(tmp_path, 2)
    (tmp_path / "run.json").unlink()
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json is missing or damaged"):
        started(tmp_path)


@pytest.mark.parametrize(
    "data, message",
    [
        ({**DATA, "train": [Dataset.from_dict({"n": [1, 3, 2]})]}, "train has other rows now, or in another order"),
        ({**DATA, "train": [Dataset.from_dict({"n": [1, 2]})]}, "train has other rows now"),
        ({**DATA, "validation": [Dataset.from_dict({"n": [5]})]}, "validation has other rows"),
        ({**DATA, "test": [Dataset.from_dict({"n": [5]})]}, "test has other rows"),
        ({"train": DATA["train"]}, "validation has other rows"),
    ],
)
def test_other_data_is_refused_by_its_contents(data, message, tmp_path):
    leave_checkpoint(tmp_path, 2)
    for contents, is_same in ((DATA, True), (data, False)):
        run = run_in(tmp_path)
        run.checkpoint()
        if is_same:
            run.check_data(contents)
        else:
            with pytest.raises(InputError, match=f"holds a run on other data: .*{message}"):
                run.check_data(contents)
        run.release()


@pytest.mark.parametrize("by_path", [True, False])
def test_a_run_at_its_end_is_finished_unless_it_is_longer(by_path, tmp_path, capsys):
    checkpoint = leave_checkpoint(tmp_path, 10)
    (tmp_path / "results.json").write_text('{"loss": 1.5}')

    def results(**changes):
        run = run_in(tmp_path, str(checkpoint) if by_path else "last", **changes)
        run.checkpoint()
        run.check_data(DATA)
        run.release()
        return run.finished_results()

    assert results() == {"loss": 1.5}
    assert "finished already" in capsys.readouterr().out
    assert results(max_steps=20) is None
    with pytest.raises(InputError, match="holds another run"):
        results(learning_rate=0.2)


def test_what_a_commands_own_checkpoints_need_makes_them_whole(tmp_path):
    older, newer = (leave_checkpoint(tmp_path, step) for step in (2, 4))
    (older / "place.pt").write_bytes((older / "optimizer.pt").read_bytes())

    def checkpoint(*files) -> str:
        arguments = SimpleNamespace(**PLAIN, output_dir=str(tmp_path), resume_from_checkpoint="last")
        run = Run(Record("ernie-sparse pretrain", []), arguments, IDENTITY, checkpoint_files=files)
        try:
            return run.checkpoint()
        finally:
            run.release()

    assert checkpoint() == str(newer) and checkpoint("place.pt") == str(older)


# Checkpoints that are not whole.

DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "10 bytes": lambda path: path.write_bytes(path.read_bytes()[:10]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"garbage" * 50),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json"])
def test_a_damaged_file_is_named_and_the_newest_whole_checkpoint_used(name, damage, tmp_path, warnings_logged):
    for step in (2, 4, 6):
        checkpoint = leave_checkpoint(tmp_path, step)
    DAMAGES[damage](checkpoint / name)
    (tmp_path / "checkpoint-4" / "model.safetensors").unlink()
    whole = tmp_path / "checkpoint-2"
    with pytest.raises(InputError) as refused:
        started(tmp_path, str(checkpoint))
    assert str(refused.value).startswith(f"{checkpoint}: {name} is damaged (")
    assert str(refused.value).endswith(f"is {whole}: pass --resume-from-checkpoint {whole} to go on from it")
    assert started(tmp_path) == started(tmp_path, str(whole)) == str(whole)
    first, second = warnings_logged()
    assert first.startswith(f"{checkpoint}: {name} is damaged (") and first.endswith(f"; going on from {whole}")
    assert second.startswith(f"{tmp_path / 'checkpoint-4'}: model.safetensors is damaged (there is none)")
    shutil.rmtree(whole)
    with pytest.raises(InputError, match="no other checkpoint beside it is whole"):
        started(tmp_path)


def test_what_is_missing_for_an_exact_continuation_has_to_be_asked_for(tmp_path):
    checkpoint = leave_checkpoint(tmp_path, 2)
    for name in ("optimizer.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    message = (
        "lacks optimizer.pt, rng_state.pth, and the run would go on otherwise .*; --resume-incomplete true goes on"
    )
    with pytest.raises(InputError, match=message):
        started(tmp_path)
    assert started(tmp_path, training={"resume_incomplete": True}) == str(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors is damaged \(there is none\)"):
        started(tmp_path, training={"resume_incomplete": True})


def test_every_process_needs_its_random_state_and_fp16_its_scale(tmp_path):
    checkpoint = leave_checkpoint(tmp_path, 2)
    with pytest.raises(InputError, match=r"lacks rng_state_0.pth, rng_state_1.pth, scaler.pt, and "):
        started(tmp_path, training={"world_size": 2, "fp16": True})
    # These have files of their own.
    (checkpoint / "optimizer.pt").unlink()
    assert started(tmp_path, training={"is_sharded": True}) == str(checkpoint)


CHANGES = {
    "trainer_state.json": lambda path: path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 2')),
    "model.safetensors": lambda path: save_file({"weight": 2 * ones(9)}, path),
    "optimizer.pt": lambda path: write_zip(path, b"of another update"),
    "config.json": lambda path: path.unlink(),
    "tokenizer.json": lambda path: path.unlink(),
    "digests.json": lambda path: path.write_text("{"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_whole_but_not_what_was_written_is_named(name, tmp_path):
    for step in (2, 4):
        checkpoint = leave_checkpoint(tmp_path, step)
        (checkpoint / "tokenizer.json").write_text("{}")
        (checkpoint / "README.md").write_text("a card")
        write_digests(checkpoint)
    # What is not read may change.
    (checkpoint / "README.md").write_text("another")
    (checkpoint / "notes.txt").write_text("mine")
    assert started(tmp_path) == str(checkpoint)
    CHANGES[name](checkpoint / name)
    with pytest.raises(InputError) as refused:
        started(tmp_path, str(checkpoint))
    assert str(refused.value).startswith(f"{checkpoint}: {name} is damaged (")
    assert str(refused.value).endswith(f"pass --resume-from-checkpoint {tmp_path / 'checkpoint-2'} to go on from it")
    # What an exact continuation needs may still be left out.
    (tmp_path / "checkpoint-2" / "optimizer.pt").unlink()
    with pytest.raises(InputError, match=r"lacks optimizer\.pt, and the run would go on otherwise"):
        started(tmp_path, str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize(
    "content, reason",
    [('{"global_step": 9}', "it lacks epoch, max_steps, log_history, stateful_callbacks"), (None, "it is of update 5")],
)
def test_a_state_that_is_not_of_its_checkpoint_is_damaged(content, reason, tmp_path):
    path = leave_checkpoint(tmp_path, 9) / "trainer_state.json"
    path.write_text(content or path.read_text().replace('"global_step": 9', '"global_step": 5'))
    with pytest.raises(InputError, match=rf"checkpoint-9: trainer_state.json is damaged \({reason}\)"):
        started(tmp_path)


def test_the_best_checkpoint_has_to_be_whole_as_well(tmp_path):
    best, last = (leave_checkpoint(tmp_path, step) for step in (2, 4))
    path = last / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "best_model_checkpoint": str(best)}))
    write_digests(best)
    assert started(tmp_path) == str(last)
    (best / "trainer_state.json").unlink()
    save_file({"weight": 2 * ones(9)}, best / "model.safetensors")
    with pytest.raises(InputError, match=rf"{best}, the best checkpoint before {last}: model.safetensors is damaged"):
        started(tmp_path)
