# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What every test starts from: no network, a cache of its own, quiet logs, one thread, and a fixed seed."""

import atexit
import gc
import os
import tempfile
from functools import lru_cache

cache = tempfile.TemporaryDirectory()
atexit.register(cache.cleanup)
os.environ["HF_HOME"] = cache.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
import triton_interpreter

if not torch.cuda.is_available():
    # Before anything imports Triton.
    triton_interpreter.use()

from transformers import set_seed
from transformers.utils import logging

from ernie_sparse import ErnieSparseConfig, block_plan, results
from ernie_sparse.finetune import metrics

NUM_DRAWS = metrics.NUM_DRAWS
logging.set_verbosity_error()
logging.disable_progress_bar()
# On tensors this small a second thread costs more than it gives.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_search_of_the_libraries():
    """Every training begins with a collection of garbage, which would look through all that was ever imported."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def quick():
    """What each of some hundred runs would compute again: intervals of many draws, and the commit of the sources."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "NUM_DRAWS", 20)
        patch.setattr(results, "commit", lru_cache(results.commit))
        yield


@pytest.fixture
def every_draw(monkeypatch):
    """Intervals of as many draws as users get."""
    monkeypatch.setattr(metrics, "NUM_DRAWS", NUM_DRAWS)


@pytest.fixture(autouse=True)
def seed():
    set_seed(0)


@pytest.fixture
def block_form(monkeypatch):
    """Short inputs go through the block form as long ones do, instead of one dense call."""
    monkeypatch.setattr(block_plan, "MAX_DENSE_LENGTH", 0)


@pytest.fixture(params=["dense", "blocks"])
def either_form(request):
    """Short inputs in one dense call, as they are, and then through the block form."""
    if request.param == "blocks":
        request.getfixturevalue("block_form")


@pytest.fixture
def tiny_config():
    """A builder of configs small enough for a test: `tiny_config(block_size=8)`."""

    def build(**overrides) -> ErnieSparseConfig:
        sizes = {
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 37,
            "max_position_embeddings": 128,
            "block_size": 8,
        }
        return ErnieSparseConfig(**{**sizes, **overrides})

    return build
