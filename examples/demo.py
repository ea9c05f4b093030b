# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The main job from end to end, on the text that every Python carries: pretrain a small ERNIE-Sparse with SAOR, fine-tune it
to tell which standard package a long excerpt of source comes from, evaluate it under patterns it never saw, reload it.

Everything goes through the commands a user would type; `--output-dir` keeps all of it, with a report and a picture.
"""

import argparse
import hashlib
import importlib
import json
import math
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import AutoTokenizer
from transformers.utils import logging

from ernie_sparse import ErnieSparseConfig, ErnieSparseForMaskedLM, ErnieSparseForSequenceClassification, cli
from ernie_sparse.command_line import ArgumentParser, check_least
from ernie_sparse.errors import InputError
from ernie_sparse.files import check_folder

PROG = "python examples/demo.py"

EXCERPT_CHARACTERS = 4000
MAX_LENGTH = 1024
NUM_PACKAGES = 8
DOCUMENTS_PER_PACKAGE = {"train": 25, "validation": 8, "test": 40}
VOCABULARY = 1024
SIZES = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 384}
# With the usual 0.02 a model this narrow would keep its attention uniform for most of so short a training.
SIZES |= {"initializer_range": 0.06, "hidden_dropout_prob": 0.0}
OWN_PATTERN = "block_size=64"
OTHER_PATTERNS = {
    "blocks of 16": "block_size=16",
    "blocks of 256": "block_size=256",
    "window of 11 blocks": "block_size=64,num_window_blocks=11",
    "3 global blocks": "block_size=64,num_global_blocks=3",
    "no global block": "block_size=64,num_global_blocks=0",
    "no hierarchy": "block_size=64,hierarchical=false",
}
RELOAD = """
import sys, torch, ernie_sparse
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
batch = tokenizer(sys.stdin.read(), return_tensors="pt", truncation=True)
with torch.no_grad():
    logits = model(**batch).logits[0]
print(model.config.id2label[int(logits.argmax())], *logits.tolist())
"""


def standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def package_files() -> dict[str, list[Path]]:
    """The source files of every standard package with at least eight of them, tests left out."""
    packages = {}
    for package in sorted(path for path in standard_library().iterdir() if (path / "__init__.py").is_file()):
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
    text = read(path)
    ends = range(EXCERPT_CHARACTERS, len(text) + 1, EXCERPT_CHARACTERS)
    return [text[end - EXCERPT_CHARACTERS : end] for end in ends]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def split_of(path: Path) -> str:
    """Train, validation or test, by the file's name alone, so that no file is in two of them."""
    share = int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % 100
    return "train" if share < 60 else "validation" if share < 72 else "test"


def write_documents(folder: Path) -> dict[str, list[dict]]:
    """The task: excerpts of source by split, the label being their package. Written as one jsonl file per split."""
    documents = {
        name: {
            split: [text for path in files if split_of(path) == split for text in excerpts(path)]
            for split in DOCUMENTS_PER_PACKAGE
        }
        for name, files in package_files().items()
    }
    largest = sorted(documents, key=lambda name: -min(len(documents[name]["train"]), len(documents[name]["test"])))
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


def write_corpus(folder: Path) -> list[str]:
    """The text to pretrain on: the language reference and the library's sources, without the files evaluated on."""
    topics = importlib.import_module("pydoc_data.topics").topics
    corpus = {"language_reference": "\n\n".join(topics[name] for name in sorted(topics))}
    packaged = [path for files in package_files().values() for path in files if split_of(path) == "train"]
    for path in sorted([*standard_library().glob("*.py"), *packaged]):
        corpus["-".join(path.relative_to(standard_library()).with_suffix("").parts)] = read(path)
    (folder / "text").mkdir()
    for name, text in corpus.items():
        if text.strip():
            (folder / "text" / f"{name}.txt").write_text(text, encoding="utf-8")
    return sorted(str(path) for path in (folder / "text").iterdir())


def run(*argv):
    """One command line of `ernie-sparse`, shown before it runs."""
    words = [str(word) for word in argv]
    print(f"\n$ ernie-sparse {shlex.join(words[:12])}{' …' if len(words) > 12 else ''}", flush=True)
    code = cli.main(words)
    if code:
        sys.exit(code)


def pretrain(folder: Path, corpus: list[str], steps: int):
    sizes = ",".join(f"{name}={value}" for name, value in SIZES.items())
    run(
        *("pretrain", "--output-dir", folder / "pretrained", "--config", sizes, "--pattern", OWN_PATTERN),
        *("--max-length", MAX_LENGTH, "--train-tokenizer", VOCABULARY, "--max-steps", steps, "--mlm-probability", 0.3),
        *("--per-device-train-batch-size", 2, "--learning-rate", 7e-4, "--lr-scheduler-type", "cosine"),
        *("--warmup-steps", 30, "--adam-beta2", 0.98, "--logging-steps", 25, "--eval-strategy", "no"),
        *("--save-strategy", "no", "--validation-fraction", 0.02, "--train-file", *corpus),
    )


def finetune(folder: Path, name: str, model: str):
    run(
        *("finetune", "--output-dir", folder / name, "--model", folder / model),
        *("--train-file", folder / "train.jsonl", "--validation-file", folder / "validation.jsonl"),
        *("--test-file", folder / "test.jsonl", "--num-train-epochs", 5, "--per-device-train-batch-size", 4),
        *("--learning-rate", 1e-3, "--warmup-steps", 0.1, "--logging-steps", 10, "--save-strategy", "no"),
    )


def save_untrained(folder: Path):
    """The pretrained model with fresh weights, which never saw a text: same config, same tokenizer."""
    config = ErnieSparseConfig.from_pretrained(folder / "pretrained")
    torch.manual_seed(0)
    ErnieSparseForMaskedLM(config).save_pretrained(folder / "untrained")
    AutoTokenizer.from_pretrained(folder / "pretrained").save_pretrained(folder / "untrained")


def probabilities(model, tokenizer, texts: list[str], pattern: str) -> torch.Tensor:
    """The class probabilities of every text under a pattern."""
    outputs = []
    for start in range(0, len(texts), 8):
        batch = tokenizer(texts[start : start + 8], return_tensors="pt", truncation=True, padding=True)
        with torch.no_grad():
            outputs.append(model(**batch, pattern=pattern).logits.softmax(-1))
    return torch.cat(outputs)


def robustness(folder: Path, test_rows: list[dict]) -> list[dict]:
    """Accuracy under each pattern, and how many predictions differ from those under the model's own."""
    model = ErnieSparseForSequenceClassification.from_pretrained(folder / "classifier").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "classifier")
    texts = [row["text"] for row in test_rows]
    labels = torch.tensor([model.config.label2id[row["label"]] for row in test_rows])
    own = probabilities(model, tokenizer, texts, OWN_PATTERN).argmax(-1)
    results = []
    for name, pattern in {"its own": OWN_PATTERN, **OTHER_PATTERNS}.items():
        predicted = probabilities(model, tokenizer, texts, pattern).argmax(-1)
        accuracy, flips = (predicted == labels).float().mean().item(), (predicted != own).float().mean().item()
        results.append({"name": name, "pattern": pattern, "accuracy": accuracy, "flips": flips})
        print(f"  {name:<20}  accuracy {accuracy:.3f}  predictions changed {flips:.3f}", flush=True)
    return results


def reload_elsewhere(folder: Path, text: str) -> str:
    """What a new process, knowing the folder alone, predicts for `text`; it must be what this process computes."""
    command = [sys.executable, "-c", RELOAD, str(folder / "classifier")]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    label, *logits = result.stdout.split()
    model = ErnieSparseForSequenceClassification.from_pretrained(folder / "classifier").eval()
    batch = AutoTokenizer.from_pretrained(folder / "classifier")(text, return_tensors="pt", truncation=True)
    with torch.no_grad():
        expected = model(**batch).logits[0]
    torch.testing.assert_close(torch.tensor([float(x) for x in logits]), expected, atol=1e-4, rtol=1e-4)
    return label


def draw(folder: Path, history: list[dict], accuracies: dict[str, float], patterns: list[dict]):
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    learning, comparison, unseen = figure.subplots(1, 3)
    consistency = learning.twinx()
    for axes, name, color in ((learning, "task_loss", "#247"), (consistency, "consistency_loss", "#c63")):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        axes.plot(*zip(*points, strict=True), color=color)
        axes.set_ylabel(name.replace("_", " ") + ", nats per masked token", color=color)
        axes.set_ylim(0, None)
    learning.set(title="Pretraining with SAOR", xlabel="step")
    bars = comparison.bar(list(accuracies), list(accuracies.values()), color=["#bbb", "#bbb", "#7a9", "#247"])
    comparison.bar_label(bars, fmt="%.2f")
    comparison.set(title="Which package? Test accuracy", ylim=(0, 1))
    names = [row["name"] for row in patterns][::-1]
    bars = unseen.barh(names, [row["accuracy"] for row in patterns][::-1], color="#247")
    unseen.bar_label(bars, labels=[f" {row['accuracy']:.2f}, {row['flips']:.0%} changed" for row in patterns][::-1])
    unseen.set(title="The same weights, other patterns", xlim=(0, 1.3), xlabel="test accuracy")
    figure.savefig(folder / "report.png", dpi=110)


def write_report(
    folder: Path, rows, pretrained: dict, accuracies: dict, patterns: list[dict], label: str, minutes: float
):
    sizes = ", ".join(f"{split} {len(examples)}" for split, examples in rows.items())
    accuracy = accuracies["pretrained"]
    error = math.sqrt(accuracy * (1 - accuracy) / len(rows["test"]))
    lines = [
        "# ernie-sparse, end to end",
        "",
        f"One run, one seed, {minutes:.1f} minutes on {torch.get_num_threads()} CPU threads. A tiny model: what counts is "
        "that the pieces work together, not the height of the numbers.",
        "",
        "![curves and bars](report.png)",
        "",
        f"**Pretraining** with SAOR on {pretrained['training_rows']:,} rows of {MAX_LENGTH} tokens from Python's language "
        f"reference and standard library: validation loss {pretrained['eval_loss']:.2f} nats per masked token (a uniform "
        f"guess over {VOCABULARY:,} tokens: {math.log(VOCABULARY):.2f}).",
        "",
        f"**Task**: which of {len({row['label'] for row in rows['test']})} packages an excerpt of {EXCERPT_CHARACTERS:,} "
        f"characters (cut to {MAX_LENGTH} tokens) comes from. Documents: {sizes}, split by file; no file that is evaluated on was "
        "pretrained on.",
        "",
        "| | test accuracy |",
        "| --- | --- |",
        *(f"| {name.replace(chr(10), ' ')} | {value:.3f} |" for name, value in accuracies.items()),
        "",
        f"With {len(rows['test'])} test documents one standard error is {error:.3f}: smaller differences say nothing. Minutes of "
        "pretraining on a CPU end near the start of what masked-LM pretraining can do.",
        "",
        "**Patterns it never trained on**, the same weights:",
        "",
        "| pattern | as text | test accuracy | predictions changed |",
        "| --- | --- | --- | --- |",
        *(f"| {row['name']} | `{row['pattern']}` | {row['accuracy']:.3f} | {row['flips']:.1%} |" for row in patterns),
        "",
        "**Reloaded** in a new process by `AutoModelForSequenceClassification.from_pretrained`: the same logits; a first "
        f"test document of `{rows['test'][0]['label']}` is taken for `{label}`.",
        "",
        "Each folder beside this file holds a `results.json` with the command that made it.",
    ]
    (folder / "report.md").write_text("\n".join(lines) + "\n")


def main(argv: list[str]):
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("demo_output"), help="made anew at every run")
    parser.add_argument("--pretraining-steps", type=int, default=450)
    args = parser.parse_args(argv)
    check_least(args, {"pretraining_steps": 1})
    marker = args.output_dir / ".ernie-sparse-demo"
    if args.output_dir.exists() and not marker.exists():
        raise InputError(f"--output-dir {args.output_dir} exists and is no earlier demo: name another folder")
    check_folder(args.output_dir, "--output-dir")
    start = time.time()
    shutil.rmtree(args.output_dir, ignore_errors=True)
    args.output_dir.mkdir(parents=True)
    marker.touch()
    logging.set_verbosity_error()

    rows = write_documents(args.output_dir)
    pretrain(args.output_dir, write_corpus(args.output_dir), args.pretraining_steps)
    finetune(args.output_dir, "classifier", "pretrained")
    save_untrained(args.output_dir)
    finetune(args.output_dir, "classifier_from_scratch", "untrained")
    print("\nThe same classifier under patterns it never trained on:", flush=True)
    patterns = robustness(args.output_dir, rows["test"])
    label = reload_elsewhere(args.output_dir, rows["test"][0]["text"])

    results = {
        name: json.loads((args.output_dir / name / "results.json").read_text())
        for name in ("pretrained", "classifier", "classifier_from_scratch")
    }
    accuracies = {
        "chance": 1 / len({row["label"] for row in rows["test"]}),
        "largest\nclass": results["classifier"]["largest_class"],
        "not\npretrained": results["classifier_from_scratch"]["accuracy"],
        "pretrained": results["classifier"]["accuracy"],
    }
    draw(args.output_dir, results["pretrained"]["history"], accuracies, patterns)
    minutes = (time.time() - start) / 60
    write_report(args.output_dir, rows, results["pretrained"], accuracies, patterns, label, minutes)
    print(f"\nTest accuracy: {', '.join(f'{n.replace(chr(10), chr(32))} {v:.3f}' for n, v in accuracies.items())}")
    print(f"Done in {minutes:.1f} minutes: {args.output_dir / 'report.md'} and {args.output_dir / 'report.png'}")


if __name__ == "__main__":
    sys.exit(cli.run_command(PROG, main, sys.argv[1:]))
