# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Memory of preparing a large file, which does not grow with the text, and of an evaluation."""

import os
import random
import subprocess
import sys

import pytest
import torch
from largest_tensor import LargestTensor
from test_resuming import ENVIRONMENT
from torch.utils.data import Dataset

from ernie_sparse import ErnieSparseConfig, ErnieSparseForMaskedLM, trainer
from ernie_sparse.pretraining.trainer import PretrainTrainer
from ernie_sparse.regularization import SaorArguments
from ernie_sparse.training_arguments import RunArguments

SIZES = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
# In a process of its own, of which the system knows the most that it had: what getrusage says may be its parent's.
SCRIPT = """
import sys
from pathlib import Path
from ernie_sparse import cli
code = cli.main(sys.argv[1:])
print("peak", Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
sys.exit(code)
"""


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """50 MB of words in one file, and as one document."""
    path, draw = tmp_path_factory.mktemp("memory") / "text.txt", random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(1, 10))) for _ in range(20_000)]
    with open(path, "w") as file:
        while file.tell() < 50 * 2**20:
            file.write(" ".join(draw.choices(words, k=10_000)) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("streaming", ["true", "false"])
def test_a_file_of_50_mb_takes_less_than_a_gibibyte_and_a_half(streaming, large_file, tmp_path):
    words = ["pretrain", "--train-file", large_file, "--train-tokenizer", 8000, "--config", SIZES, "--max-length", 512]
    words += ["--max-steps", 2, "--eval-strategy", "no", "--save-strategy", "no", "--disable-tqdm", "true"]
    words += ["--report-to", "none", "--streaming", streaming, "--output-dir", tmp_path / "out"]
    # Some hundred batches of an evaluation.
    words += ["--validation-fraction", 0.05]
    # Nothing of what is measured has been prepared before.
    environment = {**ENVIRONMENT, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "TOKENIZERS_PARALLELISM": "true"}
    environment["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, words)], env=environment, capture_output=True, text=True, timeout=550
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (peak,) = (int(line.split()[1]) for line in ended.stdout.splitlines() if line.startswith("peak"))
    assert peak < 1.5 * 2**20, f"{peak / 2**20:.2f} GiB"


class MaskedRows(Dataset):
    """Rows of 64 tokens, of which every eighth is masked."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        ids = torch.arange(64) % 50 + index
        return {"input_ids": ids, "labels": ids.where(torch.arange(64) % 8 == 0, -100)}


def masked_trainer(folder, vocab_size: int, alpha: float = 0.0, **flags) -> PretrainTrainer:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ErnieSparseForMaskedLM(ErnieSparseConfig(**sizes, vocab_size=vocab_size, max_position_embeddings=64))
    flags |= {"report_to": "none", "disable_tqdm": True, "eval_strategy": "no", "save_strategy": "no", "max_steps": 1}
    arguments = RunArguments(output_dir=str(folder), **flags)
    saor = SaorArguments(saor_alpha=alpha)
    return PretrainTrainer(model, arguments, saor=saor, train_dataset=MaskedRows(), eval_dataset=MaskedRows())


def test_an_evaluation_gives_memory_back_and_keeps_a_sum_of_its_batches(tmp_path, monkeypatch):
    given_back = []
    monkeypatch.setattr(trainer, "give_back_freed_memory", lambda: given_back.append(1))
    monkeypatch.setattr(trainer._GiveBackMemory, "EVERY", 3)
    evaluates = masked_trainer(tmp_path, 60, per_device_eval_batch_size=1)
    evaluates.evaluate()
    assert len(given_back) == 8 // 3
    assert evaluates._evaluated.shape == (2 + len(evaluates.other_patterns),)
    assert evaluates._evaluated[-1] == 8 * 8


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_an_evaluation_makes_no_larger_tensor_than_a_training_step(alpha, tmp_path):
    # Logits are the largest by far.
    both = masked_trainer(tmp_path, 6000, alpha)
    with LargestTensor() as training:
        both.train()
    with LargestTensor() as evaluation:
        both.evaluate()
    assert 8 * 8 * 6000 <= evaluation.numel <= training.numel
