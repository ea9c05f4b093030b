# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Pretraining in several processes, on one machine and on two, by the configs that we ship: as one process does it."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import run
from test_finetune_predict import read_results
from test_resuming import ENVIRONMENT

ROOT = Path(__file__).parents[1]
SIZES = "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=16,hidden_dropout_prob=0.0"
MEASURED = (
    "eval_loss",
    "accuracy",
    "perplexity_wider",
    "perplexity_no_global",
    "tokens",
    "training_rows",
    "preparation",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "text.txt"
    path.write_text("".join(f"{number} lemons from the {number * 7 % 13} harbour\n" for number in range(400)))
    return path


def arguments(text, out, batch_size: int, *more) -> list[str]:
    words = ["pretrain", "--train-file", text, "--sample-by", "line", "--train-tokenizer", 300, "--config", SIZES]
    words += [
        "--max-length",
        64,
        "--disable-tqdm",
        "true",
        "--report-to",
        "none",
        "--max-steps",
        4,
        "--logging-steps",
        1,
    ]
    words += ["--eval-strategy", "no", "--save-strategy", "steps", "--save-steps", 2, "--output-dir", out]
    words += ["--gradient-checkpointing", "true", "--gradient-accumulation-steps", 2]
    return [*map(str, [*words, "--per-device-train-batch-size", batch_size, *more])]


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory):
    """What one process comes to."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert run(arguments(text, out, 4)) == 0
    return read_results(out)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(config: str, words: list[str], script=("-m", "ernie_sparse")):
    accelerate = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        ROOT / "configs" / "accelerate" / config,
    ]
    command = [*accelerate, "--num_processes", "2", "--main_process_port", free_port(), *script, *words]
    ended = subprocess.run([*map(str, command)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]


def assert_same_training(found: dict, expected: dict):
    losses, wanted = (
        [(entry["step"], entry["loss"]) for entry in results["history"] if "loss" in entry]
        for results in (found, expected)
    )
    assert [step for step, _ in losses] == [1, 2, 3, 4] and len({loss for _, loss in wanted}) == 4
    assert losses == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in wanted]
    for name in MEASURED:
        wanted = expected[name] if name == "preparation" else pytest.approx(expected[name], rel=1e-5)
        assert found[name] == wanted, name


def test_two_processes_are_one(text, alone, tmp_path):
    launch("ddp.yaml", arguments(text, tmp_path, 2))
    assert_same_training(read_results(tmp_path), alone)


@pytest.mark.parametrize("config", ["fsdp2.yaml", pytest.param("deepspeed_zero2.yaml", marks=pytest.mark.deepspeed)])
def test_a_sharded_training_is_a_whole_one_and_goes_on(config, text, alone, tmp_path):
    script = [ROOT / "tests" / "sharded_on_cpu.py"]
    launch(config, arguments(text, tmp_path / "out", 2), script)
    assert_same_training(read_results(tmp_path / "out"), alone)
    # Its checkpoints have other files than those of Trainer alone.
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    (tmp_path / "out" / "results.json").unlink()
    launch(config, arguments(text, tmp_path / "out", 2), script)
    assert_same_training(read_results(tmp_path / "out"), alone)


def test_two_machines_need_share_no_cache(text, alone, tmp_path):
    address, processes = f"127.0.0.1:{free_port()}", []
    for node in range(2):
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes=2",
            "--nproc_per_node=1",
            f"--node_rank={node}",
        ]
        torchrun += [f"--master_addr={address.split(':')[0]}", f"--master_port={address.split(':')[1]}"]
        # As on a cluster: the output folder is seen from both, and nothing else is.
        environment = {**ENVIRONMENT, "HF_DATASETS_CACHE": str(tmp_path / f"cache-{node}"), "LOCAL_WORLD_SIZE": "1"}
        words = arguments(text, tmp_path / "out", 2)
        processes.append(
            subprocess.Popen(
                [*torchrun, "-m", "ernie_sparse", *words],
                env=environment,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(text[-2000:] for text in said)
    found = read_results(tmp_path / "out")
    for results in (found, alone):
        for account in results["preparation"].values():
            account.pop("seconds", None)
    assert_same_training(found, alone)
    # Each has prepared the rows once, for itself.
    assert all(list((tmp_path / f"cache-{node}" / "ernie_sparse").glob("*.json")) for node in range(2))
