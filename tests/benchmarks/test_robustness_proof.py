# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The proof of robustness: that its patterns are unseen, its documents held out, and its ratios those of the runs."""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from transformers import HfArgumentParser

from benchmarks import robustness
from ernie_sparse import SparsePattern
from ernie_sparse.regularization import SaorArguments, patterns_of_step
from ernie_sparse.robustness.patterns import parse_patterns


@pytest.mark.parametrize("arm", robustness.ARMS)
def test_no_training_draws_a_pattern_that_it_is_read_under(arm):
    own = SparsePattern()
    unseen = set(parse_patterns(own, robustness.UNSEEN)[1:])
    assert len(unseen) == len(robustness.UNSEEN) >= 8
    parser = HfArgumentParser(SaorArguments)
    saor, _ = parser.parse_args_into_dataclasses(list(robustness.ARMS[arm]), return_remaining_strings=True)
    drawn = {pattern for step in range(2000) for pattern in patterns_of_step(own, saor, step)}
    assert not drawn & unseen


class Words:
    def __call__(self, texts, verbose):
        return {"input_ids": [text.split() for text in texts]}


def reviews(split: str) -> Dataset:
    texts = [f"{split} {number} " + "word " * (600 if number % 2 else 10) for number in range(1000)]
    return Dataset.from_dict({"text": texts, "label": [0, 1] * 500})


def test_reviews_are_read_whole_where_they_are_long_and_tested_on_others(tmp_path):
    (tmp_path / "imdb").mkdir()
    for split in ("train", "test"):
        reviews(split).to_parquet(tmp_path / "imdb" / f"{split}.parquet")
    first, second = (robustness.split_imdb(tmp_path, Words(), seed) for seed in (0, 1))
    assert max(len(text.split()) for text in first["first"]["text"]) <= 512
    for name, origin, least in (("second", "train", 320), ("test", "test", 120)):
        texts = first[name]["text"][:]
        assert len(set(texts)) == least and {text.split()[0] for text in texts} == {origin}
        assert min(len(text.split()) for text in texts) > 512
        assert texts != second[name]["text"][:]
    again = robustness.split_imdb(tmp_path, Words(), 0)
    assert again["test"]["text"][:] == first["test"]["text"][:]


def kept(flips: float, kl: float, score: float, seed: int) -> dict:
    patterns = [
        {"name": "own", "score": score, "retention": 100.0, "flips": 0.0, "mean_kl": 0.0},
        {"name": "full", "score": score, "retention": 100.0, "flips": flips, "mean_kl": kl},
        {"name": "block_size=16", "score": score, "retention": 90.0, "flips": 0.0, "mean_kl": kl},
    ]
    return {"training": {"seed": seed}, "patterns": patterns}


def test_a_table_leaves_the_own_pattern_out_and_compares_with_plain_training(tmp_path):
    folder = tmp_path / "imdb"
    folder.mkdir()
    for arm, flips, kl in (("plain", 0.3, 0.04), ("SAOR", 0.1, 0.01)):
        for seed, score in ((0, 0.8), (1, 0.9)):
            path = robustness.kept_file(SimpleNamespace(results_dir=tmp_path), "imdb", arm, seed)
            path.write_text(json.dumps(kept(flips, kl, score, seed)))
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in ("imdb", "imdb-patterns")))
    robustness.main(["--results-dir", str(tmp_path), "--tasks", "imdb", "--page", str(page)])
    lines = page.read_text().splitlines()
    assert "| SAOR | 85.0 ± 7.1 | 95.0 ± 0.0 | 5.0 ± 0.0 | 0.0100 ± 0.0000 | 3.0 | 4.0 | 0, 1 |" in lines
    assert "| plain | 85.0 ± 7.1 | 95.0 ± 0.0 | 15.0 ± 0.0 | 0.0400 ± 0.0000 | 1.0 | 1.0 | 0, 1 |" in lines
    assert "| `full` | 30.0 %, 0.0400 | 10.0 %, 0.0100 |" in lines
