# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
README and the pages for readers: every block of shell commands and of Python runs as it is written, one after another, in a folder with
small stand-ins for the files and checkpoints that it names.

A page begins anew with the stand-ins; what one of its commands writes replaces a stand-in of that name. `<!-- slow -->` on the line
before a block leaves it, and all behind it on the page, to the slow tests.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple

import datasets
import hub_server
import numpy as np
import pytest
import torch
from test_finetune_question_answering import bert_like
from test_pipelines import tokenizer_of
from transformers import BertConfig, BertForPreTraining

import ernie_sparse
from ernie_sparse import ErnieSparseConfig, cli, tables

ROOT = Path(ernie_sparse.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- slow -->\n)?^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = "anna bob went to paris with the red dog and a cat ran home in snow".split()
NAMES = {"label": ["negative", "positive"], "tag": ["B-PER", "O"]}


class Block(NamedTuple):
    language: str
    text: str
    line: int
    is_slow: bool


def blocks_of(page: Path) -> list[Block]:
    text, found, is_slow = page.read_text(), [], False
    for match in BLOCK.finditer(text):
        is_slow = is_slow or match[1] is not None
        # Commands of the notebooks take hours.
        if match[2] == "python" or (match[2] == "bash" and page.parent.name != "notebook"):
            found.append(Block(match[2], match[3], text[: match.start(2)].count("\n") + 1, is_slow))
    return found


def sentence(number: int, length: int = 12) -> str:
    return " ".join(np.random.default_rng(number).choice(WORDS, length))


def question(number: int) -> dict:
    context = f"{sentence(number, 30)} bob went to paris . {sentence(number + 1, 30)}"
    answers = {"text": ["paris"], "answer_start": [context.index("paris", context.index("bob went to paris"))]}
    return {"id": str(number), "question": "where did bob go ?", "context": context, "answers": answers}


def write_rows(folder: Path):
    """The files that pages name: reviews with labels, words with tags, questions, choices, texts."""
    (folder / "texts").mkdir()
    for number in range(4):
        (folder / "texts" / f"{number}.txt").write_text("\n\n".join(sentence(i, 60) for i in range(number, number + 6)))
    (folder / "book.txt").write_text(sentence(0, 900))
    for name, count in (("train", 24), ("dev", 12), ("test", 12)):
        lines = [f"{sentence(i)},{NAMES['label'][i % 2]}" for i in range(count)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    (folder / "mails.csv").write_text("\n".join(["text", *map(sentence, range(6))]) + "\n")
    words = [sentence(i).split() for i in range(12)]
    rows = {
        "mails": [{"text": sentence(i)} for i in range(6)],
        "topics": [{"text": sentence(i), "label": ["sport", "politics"][: 1 + i % 2]} for i in range(12)],
        "prices": [{"text": sentence(i), "label": i / 7} for i in range(12)],
        "words": [{"tokens": w, "labels": ["B-PER" if x in ("anna", "bob") else "O" for x in w]} for w in words],
        "questions": [question(i) for i in range(12)],
        "choices": [
            {"query": "who ran ?", "candidates": ["anna", "bob"], "supports": [sentence(i, 20)], "answer": "bob"}
            for i in range(12)
        ],
    }
    for name, content in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))


def write_models(folder: Path):
    """Checkpoints: plain ones as the Hub has them, and what the commands of other pages leave."""
    tokenizer = tokenizer_of(bert_like(), 512)
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"})
    torch.manual_seed(0)
    config = {**SIZES, "vocab_size": len(tokenizer)}
    plain = BertForPreTraining(BertConfig(**config))
    for name in ("bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"):
        plain.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tokenizer.model_max_length = 4096
    config |= {"max_position_embeddings": 4096, "block_size": 16}
    for name, head in (("sparse-bert", "Model"), ("encoder", "Model"), ("pretrained", "ForMaskedLM")):
        getattr(ernie_sparse, f"ErnieSparse{head}")(ErnieSparseConfig(**config)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, kind, rows in (
        ("classifier", "single_label", "train.csv"),
        ("tagger", "token_classification", "words.jsonl"),
        ("reader", "question_answering", "questions.jsonl"),
    ):
        own = ("--model", folder / "sparse-bert", "--kind", kind, "--train-file", folder / rows, "--output-dir")
        words = ("finetune", *own, folder / name, "--max-steps", 1, "--save-strategy", "no", "--eval-strategy", "no")
        assert cli.main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand-ins")
    write_rows(folder)
    write_models(folder)
    return folder


def load_dataset(name: str, config: str | None = None, *, streaming: bool = False) -> datasets.DatasetDict:
    """Stands for the Hub: some rows of the data sets that pages name."""
    reviews = {"text": [sentence(i) for i in range(16)], "label": [i % 2 for i in range(16)]}
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    rows = datasets.Dataset.from_dict(reviews, features=datasets.Features(features))
    splits = {"train": rows, "test": rows.select(range(8))}
    return datasets.DatasetDict(splits) if not streaming else {k: v.to_iterable_dataset() for k, v in splits.items()}


class Reader:
    """
    Runs a page as its reader would, from top to bottom.

    Args:
        folder (`Path`): Where it starts; a copy of the stand-ins.
        stand_ins (`Path`): Whose files and folders the page's own commands may replace.
    """

    def __init__(self, folder: Path, stand_ins: Path):
        self.folder = folder
        self.left = {path.name for path in stand_ins.iterdir()} - {"sentence-transformers"}
        self.names = {"__name__": "__main__"}

    def run(self, block: Block, page: str):
        if block.language == "python":
            # Lines count as on the page.
            code = compile("\n" * block.line + block.text, page, "exec")
            exec(code, self.names)
        for line in block.text.replace("\\\n", " ").splitlines() if block.language == "bash" else ():
            if words := shlex.split(line, comments=True):
                self.run_command(words, line)

    def run_command(self, words: list[str], line: str):
        own = {"pip": self.pip, "make": self.make, "hf": self.hf, "ernie-sparse": self.ernie_sparse}
        if words[0] in own:
            own[words[0]](words[1:])
        elif words[:2] == ["python", "-c"]:
            exec(words[2], {})
        elif words[0] in ("python", "torchrun", "accelerate") or "=" in words[0]:
            self.shell(line)
        else:
            raise AssertionError(f"{words[0]}: no page has had such a command yet")

    def ernie_sparse(self, words: list[str]):
        if "--push-to-hub" in words:
            self.shell(shlex.join(["ernie-sparse", *words]))
            return
        for word in words:
            # What the page makes itself.
            if word in self.left and word in outputs_of(words):
                self.left.remove(word)
                shutil.rmtree(word)
        try:
            assert cli.main(words) == 0, words
        except SystemExit as end:
            assert end.code == 0, words

    def shell(self, line: str):
        """A command in a process of its own, with a Hub to send to."""
        with hub_server.hub() as (address, _):
            hub = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_of_a_test", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            environment = {**os.environ, **hub, "PATH": path, "ACCELERATE_USE_CPU": "true"}
            result = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, timeout=500)
        assert result.returncode == 0, f"{line}\n{result.stderr[-3000:]}"

    def pip(self, words: list[str]):
        """Every package of ours is installed from a checkout, with extras that there are."""
        setup = ConfigParser()
        setup.read(ROOT / "setup.cfg")
        assert words[0] == "install"
        for word in words[1:]:
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", word)
            assert extras and {*filter(None, (extras[1] or "").split(","))} <= {*setup["options.extras_require"]}, word

    def make(self, words: list[str]):
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(words) <= set(targets), words

    def hf(self, words: list[str]):
        assert words == ["auth", "login"]


def outputs_of(words: list[str]) -> list[str]:
    """The folders that a command writes."""
    named = [words[at + 1] for at, word in enumerate(words) if word in ("--output-dir", "--save")]
    return [*named, words[2]] if words[0] in ("convert", "export") else named


@pytest.fixture
def reader(stand_ins, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    shutil.copytree(stand_ins, folder)
    for name in ("configs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tables.datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Reader(folder, stand_ins)


def parametrized(pages: list[Path]):
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@parametrized([page for page in PAGES if any(not block.is_slow for block in blocks_of(page))])
def test_a_page_runs_as_it_is_written(page, reader):
    for block in blocks_of(page):
        if block.is_slow:
            break
        reader.run(block, page.name)


@pytest.mark.slow
@parametrized([page for page in PAGES if any(block.is_slow for block in blocks_of(page))])
def test_a_page_that_takes_longer_runs_to_its_end(page, reader):
    for block in blocks_of(page):
        reader.run(block, page.name)


def test_a_page_with_a_fault_does_not_pass(reader):
    with pytest.raises(NameError):
        reader.run(Block("python", "undefined_name\n", 1, False), "page")
    with pytest.raises(AssertionError):
        reader.run(Block("bash", "ernie-sparse predict --model nowhere\n", 1, False), "page")
    with pytest.raises(AssertionError):
        reader.run(Block("bash", "pip install '.[nothing]'\n", 1, False), "page")
