# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.recall`, the runs of docs/notebook/hierarchy.md: small models learn to answer questions about facts that stand in
other blocks, with and without representatives, over the number of global blocks. What is done is skipped; what was measured is
kept in `--results-dir`; `--page` puts tables and picture of what is kept into a page.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR

from ernie_sparse import ErnieSparseConfig, ErnieSparseForTokenClassification, SparsePattern
from ernie_sparse.block_plan import BlockPlan, plan_batch
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import MOST_PROCESSES, ArgumentParser, check_least, check_most, check_seeds
from ernie_sparse.errors import InputError
from ernie_sparse.files import check_folder
from ernie_sparse.results import Record, write_json

from .pages import fill_page

PROG = "python -m benchmarks.recall"
PICTURE = "hierarchy_recall.png"

# A document begins with blocks of one and the same word, which hold nothing: with global blocks, the first of them are it.
# Each block behind them has one fact, one question about another block, and filler.
BLOCK_SIZE = 4
LEAD_BLOCKS = 4
NUM_KEYS = 32
NUM_VALUES = 16
NUM_FILLERS = 4
NUM_FACTS = (2, 4, 8, 16, 24)

LEAD_WORD = 1
FILLER_WORDS = LEAD_WORD + 1
KEY_WORDS = FILLER_WORDS + NUM_FILLERS
VOCAB_SIZE = KEY_WORDS + NUM_KEYS
# Token types: what a token is of.
FILLER, QUESTION, VALUE_TYPES = 0, 1, 2

# Long and short documents alternate in training, and every batch has about as many tokens.
BLOCKS_PER_BATCH = 16 * (LEAD_BLOCKS + max(NUM_FACTS))
LEARNING_RATE = 4e-3
# Every run begins with all blocks global, which learns this task soon; then it goes on under its own pattern.
FULL_STEPS = 400
NUM_STEPS = 2400
STEPS_PER_CHECK = 100
WARMUP = 0.1
# A run ends where this share of the validation questions is answered right.
LEARNED = 0.999
MODEL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.2,
}
# Seeds of documents beside those of training, which are the seeds of the runs.
VALIDATION_SEED, TEST_SEED = 10**6, 10**6 + 1


@dataclasses.dataclass(frozen=True)
class Setting:
    """
    What is trained.

    Args:
        pattern ([`SparsePattern`]): Who sees whom, behind the first steps.
        title (`str`): Its name in tables.
        drops_global_blocks (`bool`): Whether every second step is trained without global blocks.
        global_blocks_after (`int`): The last step that is trained without global blocks.
        num_steps (`int`): At most.
    """

    pattern: SparsePattern
    title: str
    drops_global_blocks: bool = False
    global_blocks_after: int = 0
    num_steps: int = NUM_STEPS

    def tested_under(self) -> tuple[SparsePattern, ...]:
        """Every number of global blocks, whichever it was trained with."""
        if self.pattern == FULL:
            return (self.pattern,)
        return tuple(sparse(number, self.pattern.hierarchical) for number in GLOBAL_BLOCKS)


def sparse(num_global_blocks: int, is_hierarchical: bool) -> SparsePattern:
    """Without a window to neighbours: what is not in the own block comes by global tokens or representatives alone."""
    return SparsePattern(
        block_size=BLOCK_SIZE,
        num_window_blocks=1,
        num_global_blocks=num_global_blocks,
        hierarchical=is_hierarchical,
    )


FULL = SparsePattern.full()
GLOBAL_BLOCKS = (0, 1, 2, 4)
LATE = "with representatives, global blocks in the last quarter alone"
DROPS = "with representatives, global blocks in every other step"
HIERARCHY = {"hst": (True, "with representatives"), "flat": (False, "without representatives")}
# Of the lines of the picture, which stand a little beside one another.
STYLES = {
    HIERARCHY["hst"][1]: ("C0o-", -0.05),
    DROPS: ("C2v--", 0.15),
    LATE: ("C4^--", 0.25),
    HIERARCHY["flat"][1]: ("C3s-", 0.05),
}
SETTINGS = {
    **{
        f"{name}-{number}": Setting(sparse(number, is_hierarchical), title)
        for (name, (is_hierarchical, title)), number in itertools.product(HIERARCHY.items(), GLOBAL_BLOCKS)
    },
    "full": Setting(FULL, "full attention"),
    "hst-1-drop": Setting(sparse(1, True), DROPS, drops_global_blocks=True),
    "hst-1-late": Setting(sparse(1, True), LATE, global_blocks_after=3 * NUM_STEPS // 4),
    "hst-0-long": Setting(sparse(0, True), "with representatives, twice the steps", num_steps=2 * NUM_STEPS),
}


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog=PROG, description=__doc__, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test-documents", type=int, default=512, help="per number of facts")
    parser.add_argument("--threads", type=int, default=1, help="more are slower at this size")
    parser.add_argument("--results-dir", default="benchmarks/results/recall", help="what is kept of each run")
    parser.add_argument("--page", help="run nothing: put tables and picture of what is kept into this page")
    args = parser.parse_args(argv)
    check_least(args, {"test_documents": 1, "threads": 1})
    check_most(args, {"threads": MOST_PROCESSES})
    check_seeds(args.seeds)
    check_folder(Path(args.results_dir), "--results-dir")
    return args


def documents(count: int, num_facts: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """
    `count` documents of `num_facts` facts, as the model takes them: `input_ids`, `token_type_ids` and `labels`, each
    `(count, num_tokens)`.

    A fact is one token, its key the word and its value the token type; a question is the key with the type of questions. Both
    stand anywhere in their block. No key is twice in a document, values are drawn for each fact, and a question is about the
    fact of any other block.
    """
    shape = (count, num_facts)
    keys = torch.rand(count, NUM_KEYS, generator=generator).argsort(1)[:, :num_facts]
    values = torch.randint(NUM_VALUES, shape, generator=generator)
    asked = (torch.arange(num_facts) + torch.randint(1, num_facts, shape, generator=generator)) % num_facts
    ids = torch.randint(FILLER_WORDS, KEY_WORDS, (*shape, BLOCK_SIZE), generator=generator)
    types, labels = torch.full_like(ids, FILLER), torch.full_like(ids, -100)
    places = torch.rand(*shape, BLOCK_SIZE, generator=generator).argsort(2)
    of_fact, of_question = places[:, :, :1], places[:, :, 1:2]
    for table, place, content in (
        (ids, of_fact, KEY_WORDS + keys),
        (types, of_fact, VALUE_TYPES + values),
        (ids, of_question, KEY_WORDS + keys.gather(1, asked)),
        (types, of_question, torch.full(shape, QUESTION)),
        (labels, of_question, values.gather(1, asked)),
    ):
        table.scatter_(2, place, content[:, :, None])
    heads = {"input_ids": LEAD_WORD, "token_type_ids": FILLER, "labels": -100}
    return {
        name: torch.cat([torch.full((count, LEAD_BLOCKS * BLOCK_SIZE), head), table.flatten(1)], dim=1)
        for (name, head), table in zip(heads.items(), (ids, types, labels), strict=True)
    }


def frequent_value_accuracy(batch: dict[str, torch.Tensor]) -> float:
    """How often the most frequent value of a document is right: what is known by counting, without looking anything up."""
    types, labels = batch["token_type_ids"], batch["labels"]
    counts = torch.stack([(types == VALUE_TYPES + value).sum(1) for value in range(NUM_VALUES)], dim=1)
    is_question = labels >= 0
    return (counts.argmax(1, keepdim=True) == labels)[is_question].double().mean().item()


def build_model(setting: Setting) -> ErnieSparseForTokenClassification:
    config = ErnieSparseConfig(
        **MODEL,
        vocab_size=VOCAB_SIZE,
        type_vocab_size=VALUE_TYPES + NUM_VALUES,
        num_labels=NUM_VALUES,
        max_position_embeddings=(LEAD_BLOCKS + max(NUM_FACTS)) * BLOCK_SIZE,
        hidden_dropout_prob=0.0,
    )
    config.pattern = setting.pattern
    return ErnieSparseForTokenClassification(config)


@functools.lru_cache
def plan(pattern: SparsePattern, shape: tuple[int, int]) -> BlockPlan:
    """Made once for all batches of a shape."""
    return plan_batch(pattern, 1, shape, torch.device("cpu"))


@torch.no_grad()
def accuracy(model: ErnieSparseForTokenClassification, pattern: SparsePattern, rows: dict[str, torch.Tensor]) -> float:
    """The share of the questions that are answered right."""
    model.eval()
    right = total = 0
    for batch in zip(*(table.split(64) for table in rows.values()), strict=True):
        ids, types, labels = batch
        pattern_plan = plan(pattern, tuple(ids.shape))
        logits = model(input_ids=ids, token_type_ids=types, pattern=pattern_plan).logits
        is_question = labels >= 0
        right += (logits.argmax(-1) == labels)[is_question].sum().item()
        total += is_question.sum().item()
    model.train()
    return right / total


def train(setting: Setting, seed: int) -> tuple[ErnieSparseForTokenClassification, list[dict]]:
    """A model trained on documents that are drawn for every step, and its curve on the validation documents."""
    torch.manual_seed(seed)
    model = build_model(setting).train()
    generator = torch.Generator().manual_seed(seed)
    validation = documents(64, max(NUM_FACTS), torch.Generator().manual_seed(VALIDATION_SEED))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = WARMUP * setting.num_steps
    scheduler = LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, (setting.num_steps - step) / (setting.num_steps - warmup)),
    )
    begin = dataclasses.replace(setting.pattern, num_global_blocks=FULL.num_global_blocks)
    curve, losses = [], []
    for step in range(1, setting.num_steps + 1):
        pattern = begin if step <= FULL_STEPS else setting.pattern
        num_facts = NUM_FACTS[int(torch.randint(len(NUM_FACTS), (), generator=generator))]
        batch = documents(BLOCKS_PER_BATCH // (LEAD_BLOCKS + num_facts), num_facts, generator)
        is_dropped = step <= setting.global_blocks_after or (setting.drops_global_blocks and step % 2)
        if step > FULL_STEPS and is_dropped:
            pattern = dataclasses.replace(pattern, num_global_blocks=0)
        loss = model(**batch, pattern=plan(pattern, tuple(batch["input_ids"].shape))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if step % STEPS_PER_CHECK == 0 or step == setting.num_steps:
            point = {"step": step, "pattern": _name_of(pattern), "loss": statistics.fmean(losses)}
            curve.append({**point, "validation_accuracy": accuracy(model, pattern, validation)})
            losses.clear()
            if pattern == setting.pattern and step > FULL_STEPS and curve[-1]["validation_accuracy"] >= LEARNED:
                break
    return model, curve


def steps_to(share: float, curve: list[dict], pattern: SparsePattern) -> int | None:
    """The first check under a pattern, behind the first steps, at which that share of the validation questions was answered right."""
    own = (point for point in curve if point["step"] > FULL_STEPS and point["pattern"] == _name_of(pattern))
    return next((point["step"] for point in own if point["validation_accuracy"] >= share), None)


def run(name: str, seed: int, args: argparse.Namespace) -> dict:
    """What is kept of one run; it is run where that is not there yet."""
    kept = Path(args.results_dir) / f"{name}-seed-{seed}.json"
    if not kept.is_file():
        setting, start = SETTINGS[name], time.perf_counter()
        words = ["--settings", name, "--seeds", str(seed), "--test-documents", str(args.test_documents)]
        record = Record(PROG, words)
        model, curve = train(setting, seed)
        seconds = time.perf_counter() - start
        generator = torch.Generator().manual_seed(TEST_SEED)
        tests = {number: documents(args.test_documents, number, generator) for number in NUM_FACTS}
        tested = {
            _name_of(pattern): {number: accuracy(model, pattern, rows) for number, rows in tests.items()}
            for pattern in setting.tested_under()
        }
        found = {
            "setting": name,
            "pattern": str(setting.pattern),
            "num_layers": MODEL["num_hidden_layers"],
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "seed": seed,
            "drops_global_blocks": setting.drops_global_blocks,
            "global_blocks_after": setting.global_blocks_after,
            "steps_with_all_blocks_global": FULL_STEPS,
            "most_steps": setting.num_steps,
            "steps": curve[-1]["step"],
            "learning_rate": LEARNING_RATE,
            "test_documents": args.test_documents,
            "accuracy": tested,
            "most_frequent_value": {number: frequent_value_accuracy(rows) for number, rows in tests.items()},
            "chance": 1 / NUM_VALUES,
            "steps_to_90_percent": steps_to(0.9, curve, setting.pattern),
            "training_seconds": round(seconds, 1),
            "curve": curve,
        }
        write_json(kept, {**found, **record.facts()})
        own = found["accuracy"][_name_of(setting.pattern)]
        print(f"{name}, seed {seed}: {own}, {found['steps']} steps, {seconds:.0f} s", flush=True)
    return json.loads(kept.read_text())


def _name_of(pattern: SparsePattern) -> str:
    return "full" if pattern.num_global_blocks == FULL.num_global_blocks else str(pattern.num_global_blocks)


def read_runs(folder: Path) -> dict[str, list[dict]]:
    """
    What is kept, by setting.

    Raises:
        [`InputError`]: Nothing is.
    """
    runs = {}
    for name in SETTINGS:
        paths = sorted(folder.glob(f"{name}-seed-*.json"))
        if paths:
            runs[name] = [json.loads(path.read_text()) for path in paths]
    if not runs:
        raise InputError(f"--results-dir {folder}: no runs are kept there")
    return runs


def percent(values: list[float]) -> str:
    """Mean ± standard deviation."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def table(runs: dict[str, list[dict]]) -> str:
    """A row per setting: accuracy over the number of facts, under its own pattern, and how soon it was learned."""
    lines = [
        f"| model | global blocks | {' | '.join(f'{number} facts' for number in NUM_FACTS)} | 90 % after steps | seeds |",
        f"| --- | ---: | {'---: | ' * len(NUM_FACTS)}--- | --- |",
    ]
    for name, found in runs.items():
        setting = SETTINGS[name]
        own = _name_of(setting.pattern)
        cells = [percent([run["accuracy"][own][str(facts)] for run in found]) for facts in NUM_FACTS]
        lines.append(f"| {setting.title} | {own} | {' | '.join(cells)} | {_learned(found)} |")
    first = next(iter(runs.values()))[0]
    guesses = [percent([first["most_frequent_value"][str(facts)]]) for facts in NUM_FACTS]
    lines.append(f"| the document's most frequent value | | {' | '.join(guesses)} | | |")
    lines.append(f"| chance | | {' | '.join([percent([first['chance']])] * len(NUM_FACTS))} | | |")
    return "\n".join(lines)


def _learned(runs: list[dict]) -> str:
    steps = ", ".join(f"{run['steps_to_90_percent']:,}" if run["steps_to_90_percent"] else "never" for run in runs)
    return f"{steps} | {', '.join(str(run['seed']) for run in runs)}"


def pattern_table(runs: dict[str, list[dict]]) -> str:
    """Accuracy at the largest number of facts under every number of global blocks, by the one that was trained."""
    most, numbers = str(max(NUM_FACTS)), " | ".join(map(str, GLOBAL_BLOCKS))
    lines = [
        f"| model | trained with global blocks | {numbers} | 90 % after steps | seeds |",
        f"| --- | --- | {'---: | ' * len(GLOBAL_BLOCKS)}--- | --- |",
    ]
    for name, found in runs.items():
        setting = SETTINGS[name]
        if name == "full" or name.endswith("-long"):
            continue
        trained = _name_of(setting.pattern)
        cells = [percent([run["accuracy"][str(number)][most] for run in found]) for number in GLOBAL_BLOCKS]
        lines.append(f"| {setting.title} | {trained} | {' | '.join(cells)} | {_learned(found)} |")
    return "\n".join(lines)


def lines_of(runs: dict[str, list[dict]]) -> dict[str, dict[int, list[float]]]:
    """The picture's lines: accuracies in percent at the largest number of facts, by the number of global blocks."""
    lines, most = {}, str(max(NUM_FACTS))
    for title in STYLES:
        for name, setting in SETTINGS.items():
            if setting.title == title and name in runs:
                number = setting.pattern.num_global_blocks
                accuracies = [100 * run["accuracy"][str(number)][most] for run in runs[name]]
                lines.setdefault(title, {})[number] = accuracies
    return lines


def draw(runs: dict[str, list[dict]], path: Path):
    """
    Accuracy at the largest number of facts over the number of global blocks.

    Raises:
        [`InputError`]: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("matplotlib is not installed: pip install matplotlib") from None
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots()
    for title, line in lines_of(runs).items():
        style, shift = STYLES[title]
        means = [statistics.fmean(values) for values in line.values()]
        spreads = [statistics.stdev(values) if len(values) > 1 else 0 for values in line.values()]
        axes.errorbar([number + shift for number in line], means, spreads, fmt=style, capsize=4, label=title)
        # Runs have learned the task or have not: a mean and its spread do not show that.
        points = [(number + shift + 0.04, value) for number, values in line.items() for value in values]
        axes.scatter(*zip(*points, strict=True), s=18, marker="x", color=style[:2], zorder=3)
    most, first = str(max(NUM_FACTS)), next(iter(runs.values()))[0]
    full = [100 * run["accuracy"]["full"][most] for run in runs.get("full", [])]
    for height, label, style in (
        (statistics.fmean(full) if full else None, SETTINGS["full"].title, {"color": "black", "linewidth": 1}),
        (100 * first["most_frequent_value"][most], "the document's most frequent value", {"color": "gray"}),
        (100 * first["chance"], "chance", {"color": "gray", "linestyle": ":"}),
    ):
        if height is not None:
            axes.axhline(height, label=label, zorder=0, **style)
    ticks = [f"{number}\n{number * BLOCK_SIZE} tokens" for number in GLOBAL_BLOCKS]
    axes.set_xticks(GLOBAL_BLOCKS, ticks)
    axes.set(xlabel="global blocks", ylabel="questions answered right, %", ylim=(0, 105))
    axes.set_title(f"{most} facts in as many blocks: mean ± standard deviation, and every seed (x)", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=130)


def main(argv: list[str]):
    """Run `python -m benchmarks.recall` with the arguments `argv`."""
    args = parse_arguments(argv)
    if args.page is not None:
        runs, page = read_runs(Path(args.results_dir)), Path(args.page)
        fill_page(page, {"recall": table(runs), "patterns": pattern_table(runs)})
        draw(runs, page.with_name(PICTURE))
        return
    torch.set_num_threads(args.threads)
    for seed in args.seeds:
        for name in args.settings:
            run(name, seed, args)
    runs = read_runs(Path(args.results_dir))
    print(f"{table(runs)}\n\n{pattern_table(runs)}")


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
