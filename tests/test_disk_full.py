# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A disk that is full while something is written: a clean end, and what was there before stays."""

import errno
import resource

import pytest
import torch
import transformers
from safetensors.torch import save_file
from test_cli import pretrain_arguments, run, workspace  # noqa: F401
from test_finetune_runner import are_equal
from tokenizers import Tokenizer, models

from ernie_sparse.errors import is_no_room
from ernie_sparse.results import write_json


@pytest.fixture
def files_of_at_most():
    """Limits the size of files that this process writes: the system answers as where a disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


WRITERS = {
    "safetensors": lambda path: save_file({"weight": torch.ones(100_000)}, path),
    "torch": lambda path: torch.save(torch.ones(100_000), path),
    "tokenizers": lambda path: Tokenizer(models.WordLevel({str(i): i for i in range(9000)}, "0")).save(str(path)),
    "json": lambda path: write_json(path, {"values": list(range(9000))}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writers_word_for_a_full_disk_is_known(name, files_of_at_most, tmp_path):
    files_of_at_most(10_000)
    with pytest.raises(Exception) as raised:
        WRITERS[name](tmp_path / "file")
    assert is_no_room(raised.value)
    assert is_no_room(RuntimeError("of it")) is False
    wrapped = RuntimeError("of it")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_no_room(wrapped)


@pytest.mark.parametrize("writer", ["model", pytest.param("optimizer", marks=pytest.mark.slow)])
def test_a_run_on_a_full_disk_ends_in_a_line_and_goes_on(
    writer,
    workspace,  # noqa: F811
    files_of_at_most,
    tmp_path,
    monkeypatch,
    capsys,
):
    out = tmp_path / "out"
    name = "save_model" if writer == "model" else "_save_optimizer_and_scheduler"
    write, calls = getattr(transformers.Trainer, name), []

    def written(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            files_of_at_most(1000)
        try:
            return write(self, *args, **kwargs)
        finally:
            files_of_at_most(resource.RLIM_INFINITY)

    with monkeypatch.context() as patch:
        patch.setattr(transformers.Trainer, name, written)
        assert run(pretrain_arguments(workspace, out)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert line.startswith(f"ernie-sparse pretrain: error: there is no room left to write update 6 into {out} (")
    assert line.endswith(f"the same command resumes from {out / 'checkpoint-3'}, which is whole")
    assert not (out / "checkpoint-6").exists()
    assert run(pretrain_arguments(workspace, out)) == 0
    assert are_equal(out, workspace / "pretrained")
