# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Passages in sight of their paper: that papers are cut, read, split and counted right, and that a run is kept."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from benchmarks import context
from benchmarks.context import Arm, Paper, Reader

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENIZER = BertTokenizer({word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS])})
CLS, SEP = TOKENIZER.cls_token_id, TOKENIZER.sep_token_id


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny encoder, and seven papers of 26 words with three questions each."""
    root = tmp_path_factory.mktemp("context")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(TOKENIZER), initializer_range=0.5, **sizes)).save_pretrained(root / "bert")
    TOKENIZER.save_pretrained(root / "bert")
    # Every letter with a blank: letter i begins at 2 * i.
    rows = [
        {
            "document_id": paper,
            "context": " ".join(LETTERS[paper:] + LETTERS[:paper]),
            "question": f"{LETTERS[place]} x",
            "answers": {"text": ["?"], "answer_start": [2 * place]},
        }
        for paper in range(7)
        for place in (0, 7, 25)
    ]
    (root / "covid_qa_deepset").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), root / "covid_qa_deepset" / "train.parquet")
    return root


def read(folder, length: int) -> tuple[list[Paper], int]:
    return context.read_papers(folder / "covid_qa_deepset" / "train.parquet", TOKENIZER, length, 7)


def test_answers_are_in_their_passages_and_those_beyond_the_cut_are_counted(folder):
    whole, left_out = read(folder, 100)
    assert left_out == 0 and [len(part) for part in whole[1].passages] == [7, 7, 6, 6]
    assert TOKENIZER.decode(whole[1].passages[0]) == "b c d e f g h"
    # Word 7 is the first of the second passage.
    assert whole[1].targets == [0, 1, 3] and TOKENIZER.decode(whole[1].questions[1]) == "[CLS] h x [SEP]"
    papers, left_out = read(folder, 20)
    assert left_out == 7 and papers[1].targets == [0, 1] and sum(map(len, papers[1].passages)) == 18
    # 14 words and two special tokens.
    assert [len(context.cut(whole[1], length).passages) for length in (15, 16)] == [1, 2]
    assert context.cut(whole[1], 16).targets == [0, 1] and context.cut(whole[1], 15).targets == [0]


def test_made_up_questions_hold_words_of_the_title_and_of_their_passage(monkeypatch):
    monkeypatch.setattr(context, "TITLE", 9)
    paper = Paper("a", [torch.arange(100 * i, 100 * i + 20) for i in range(1, 5)], [], [])
    questions, targets = context.made_up_questions(paper, (CLS, SEP), 50, np.random.default_rng(0))
    assert set(targets) == {0, 1, 2, 3} and len({tuple(question) for question in questions}) > 40
    for question, target in zip(questions, targets, strict=True):
        words = question[1:-1]
        own = [word for word in words if word in paper.passages[target].tolist()]
        title = words[: len(words) - len(own)] if target else words
        assert (question[0], question[-1]) == (CLS, SEP) and len(own) >= 4
        if target:
            assert 4 <= len(title) <= 8 and all(100 <= word < 109 for word in title)


def test_a_step_counts_passages_over_its_papers_and_questions_by_their_weight():
    papers = [Paper(name, [torch.arange(100, 120)] * 3, [[CLS, SEP]] * 5, [2] * 5) for name in "ab"]
    args = context.parse_arguments(["--questions", "4", "--made-up-weight", "0.25"])
    lesson = context.Lesson(papers, (CLS, SEP), 2, args, np.random.default_rng(0))
    assert len(lesson.questions) == 12 and lesson.targets[:4].tolist() == [2] * 4
    assert lesson.targets[6:10].tolist() == [5] * 4 and lesson.targets[10:].min() >= 3
    assert lesson.weights.tolist() == [1, 1, 1, 1, 0.25, 0.25] * 2


@pytest.mark.parametrize(
    "arm", [Arm(window=16), Arm(window=16, head=3), Arm(start="sep", pattern="num_global_blocks=0")]
)
@torch.no_grad()
def test_a_passage_is_the_mean_of_its_tokens_in_what_is_read_with_it(arm, folder):
    reader, (papers, _) = Reader(arm, str(folder / "bert"), 600), read(folder, 100)
    passages = papers[0].passages
    words = torch.cat(passages).tolist()
    # A window of 16 has room for two passages of 7.
    groups = [passages[:2], passages[2:]] if arm.window else [passages]
    expected = []
    for group in groups:
        ids = [CLS, *words[: arm.head], *torch.cat(group).tolist(), SEP]
        with torch.autocast("cpu", torch.bfloat16):
            states = reader.model(torch.tensor([ids])).last_hidden_state[0].float()
        first = 1 + arm.head
        for passage in group:
            mean = states[first : first + len(passage)].mean(0)
            expected.append(mean / mean.norm())
            first += len(passage)
    assert torch.allclose(reader.passages(papers[0]), torch.stack(expected), atol=0.02)
    if not arm.window:
        embeddings = reader.model.embeddings
        words = embeddings.word_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        assert torch.equal(embeddings.representative_embeddings.weight[0], words[SEP])
        assert reader.model.config.num_global_blocks == 0
        average = Reader(Arm(pattern="num_global_blocks=0"), str(folder / "bert"), 600).model.embeddings
        start = average.representative_embeddings.weight[0]
        assert not any(torch.equal(start, words[token]) for token in (CLS, SEP))


def test_a_passage_of_another_paper_is_a_miss_though_it_is_the_best_of_its_own():
    near, far = torch.eye(3)[0], torch.eye(3)[1]
    papers = [Paper("a", [None] * 2, [[]] * 3, [1, 0, 0]), Paper("b", [None] * 2, [[]] * 2, [1, 0])]
    between = (near + 0.5 * far) / (near + 0.5 * far).norm()
    vectors = {
        "a": (torch.stack([between, near]), torch.stack([near, between, far])),
        "b": (torch.stack([far, -near]), torch.stack([-near, near])),
    }
    # The last question of either paper finds its passage within its paper alone.
    assert context.count_hits(vectors, papers) == {"a": [3, 2, 3, 2], "b": [2, 1, 2, 1]}


def test_papers_of_validation_are_never_tested_on():
    papers = [Paper(str(i), [], [], []) for i in range(20)]
    flags = ["--validation-papers", "6", "--test-papers", "5"]
    args = context.parse_arguments(flags)
    splits = [[{paper.name for paper in part} for part in context.split(papers, args, seed)] for seed in range(4)]
    assert all(len(test) == 5 and len(train) == 15 and not train & test for train, test in splits)
    assert len({frozenset(test) for _, test in splits}) == 4
    train, validation = context.split(papers, context.parse_arguments([*flags, "--validate"]), 0)
    names = {paper.name for paper in validation}
    assert len(names) == 6 and len(train) == 14
    assert not any(test & names for _, test in splits) and all(names <= train for train, _ in splits)


def test_runs_are_kept_and_made_into_a_table(folder, tmp_path, capsys):
    arms = [context.BASELINE, "one pass, 1 global block, hierarchy"]
    flags = [
        "--source",
        folder / "bert",
        "--data-dir",
        folder,
        "--results-dir",
        tmp_path,
        "--seeds",
        0,
        1,
        "--steps",
        5,
    ]
    flags += [
        "--passage",
        7,
        "--train-length",
        600,
        "--length",
        600,
        "--validation-papers",
        1,
        "--test-papers",
        2,
        "--arms",
        *arms,
    ]
    flags = [str(flag) for flag in flags]
    threads = torch.get_num_threads()
    context.main([*flags, "--untrained"])
    context.main(flags)
    assert torch.get_num_threads() == threads
    path = tmp_path / "one-pass-1-global-block-hierarchy-seed-1.json"
    found = json.loads(path.read_text())
    assert [hits[0] for hits in found["hits"].values()] == [3, 3] and found["train_papers"] == 5
    # What is there is not run again.
    path.write_text(changed := json.dumps({**found, "hits": {name: [3, 3, 3, 3] for name in found["hits"]}}))
    capsys.readouterr()
    context.main(flags)
    assert path.read_text() == changed
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and rows[2].startswith(f"| {arms[0]} | 0.") and "| 0, 1 |" in rows[3]


def test_the_table_has_the_differences_from_windows_seed_by_seed():
    def runs(*found: int) -> dict:
        hits = [{"a": [4, one, 3, 4], "b": [4, one, 3, 4]} for one in found]
        return {seed: {"hits": part, "seconds": {"cpu": 7.0}} for seed, part in enumerate(hits)}

    text = context.table({context.BASELINE: runs(1, 2), "other": runs(2, 4)}, {})
    assert text.splitlines()[2].split(" | ")[1:] == [
        "0.375 ± 0.177",
        "0.750 ± 0.000",
        "1.000 ± 0.000",
        "-",
        "7",
        "0, 1 |",
    ]
    assert "| other | 0.750 ± 0.354 |" in text and "| +0.375 (+0.375 to +0.375) |" in text
