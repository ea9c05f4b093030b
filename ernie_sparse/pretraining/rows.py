# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Rows to train on, from a corpus: written to disk once, or made while they are asked for."""

import collections
import hashlib
import inspect
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import get_worker_info

from .. import tables
from ..checkpoints import digest_of_tokenizer
from ..errors import InputError
from ..files import read_json
from ..results import digest, write_json
from . import corpus as corpora
from . import documents, packing
from .corpus import Corpus, Place
from .packing import FEATURES, Packer

# What is written in one piece. Who opens the file reads what stands before each piece, and the system 64 KiB around it: of small
# ones it would have half the file in memory.
TOKENS_AT_ONCE = 2**20


class RowStream(torch.utils.data.IterableDataset):
    """
    The rows of a corpus, pass after pass without end, made while they are asked for. Processes and their workers share the
    documents: each of a pass is in the rows of one of them. Where the stream is goes into a checkpoint: it goes on with the
    same row.

    Args:
        corpus ([`Corpus`])
        packer ([`Packer`])
        process (`int`): The number of this process among `processes`.
    """

    def __init__(self, corpus: Corpus, packer: Packer, process: int = 0, processes: int = 1):
        self.corpus, self.packer = corpus, packer
        self.process, self.processes = process, processes
        # The group, and how many of its rows have been given out.
        self._place, self._given = Place(), 0

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        share, shares = self.process * workers + number, self.processes * workers
        start, given = self._place, self._given
        for place, texts in self.corpus.groups(start, share, shares):
            for i, row in enumerate(self.packer.rows(texts, random.Random(f"{self.corpus.seed}/{share}/{place}"))):
                if place == start and i < given:
                    continue
                self._place, self._given = place, i + 1
                yield {**row, "row": f"{share}/{shares}/{'/'.join(map(str, place))}/{i}"}

    def state_dict(self) -> dict:
        skipped, before = dict(self.corpus.skipped), dict(self.corpus.skipped_before)
        return {"place": list(self._place), "given": self._given, "skipped": skipped, "skipped_before": before}

    def load_state_dict(self, state: dict):
        self._place, self._given = Place(*state["place"]), state["given"]
        # The files at this place are read again from their beginning.
        self.corpus.skipped = Counter(state["skipped_before"])


def skipped_in(state: dict) -> Counter:
    """What the readers of a stream have skipped, from a state that holds theirs ([`RowStream.state_dict`])."""
    if "skipped_before" in state:
        return Counter(state["skipped"])
    return sum((skipped_in(part) for part in state.values() if isinstance(part, dict)), Counter())


def identity_of(corpus: Corpus, packer: Packer) -> dict:
    """What decides the rows of a corpus."""
    parts = []
    for part in corpus.parts:
        if part.rows is None:
            version = Path(part.name).stat().st_mtime_ns
        else:
            version = [str(part.rows.info), getattr(part.rows, "cache_files", None)]
        parts.append([*part._replace(rows=None), version])
    return {
        "parts": parts,
        "reading": corpus.reading,
        "tokenizer": digest_of_tokenizer(packer.tokenizer),
        "packing": (packer.packing, packer.max_length, packer.with_words),
        "code": [inspect.getsource(module) for module in (tables, documents, corpora, packing)],
    }


def written_rows(corpus: Corpus, packer: Packer) -> tuple[Dataset, dict]:
    """
    The rows of one pass over a corpus, in a file that every process and every later run reads, and an account of them:
    `documents`, `rows`, `tokens`, `skipped`, `seconds` and a `digest` of the tokens. The same rows are not made again.

    Raises:
        [`InputError`]: A row that cannot be read, or no text.
    """
    fingerprint = digest(identity_of(corpus, packer))
    account = Path(datasets.config.HF_DATASETS_CACHE) / "ernie_sparse" / f"{fingerprint}.json"
    arguments = {"corpus": corpus, "packer": packer, "account": account}
    try:
        # The account is written behind the last row: rows without one were not written to their end.
        rows = Dataset.from_generator(
            _generate,
            FEATURES,
            gen_kwargs=arguments,
            fingerprint=fingerprint,
            writer_batch_size=max(1, TOKENS_AT_ONCE // packer.max_length),
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    try:
        found = read_json(account)
    except (OSError, ValueError):
        # Somebody has cleared the cache in part, or a disk has lost it.
        account.parent.mkdir(parents=True, exist_ok=True)
        counted = _Counted(rows)
        collections.deque(counted, maxlen=0)
        found = {**counted.account(), "skipped": {}, "seconds": None}
        write_json(account, found)
    return rows.add_column("row", np.arange(len(rows))), found


class _Counted:
    """Rows as they pass, and an account of those that have: how many, of how many parts of documents and tokens, and a digest."""

    def __init__(self, rows: Iterable[dict]):
        self.rows, self.digest = rows, hashlib.blake2b(digest_size=16)
        self.counts = Counter(documents=0, rows=0, tokens=0)

    def __iter__(self) -> Iterator[dict]:
        for row in self.rows:
            self.counts.update(documents=len(row["lengths"]), rows=1, tokens=len(row["input_ids"]))
            for name in ("lengths", "input_ids"):
                self.digest.update(np.asarray(row[name], np.int32).tobytes())
            yield row

    def account(self) -> dict:
        return {**self.counts, "digest": self.digest.hexdigest()}


def _generate(corpus: Corpus, packer: Packer, account: Path) -> Iterator[dict]:
    start = time.monotonic()
    groups = corpus.groups(passes=1)
    rows = (packer.rows(texts, random.Random(f"{corpus.seed}/{place}")) for place, texts in groups)
    counted = _Counted(itertools.chain.from_iterable(rows))
    yield from counted
    account.parent.mkdir(parents=True, exist_ok=True)
    write_json(account, {**counted.account(), "skipped": corpus.skipped, "seconds": time.monotonic() - start})
