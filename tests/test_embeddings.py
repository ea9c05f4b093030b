# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""sentence-transformers on our folders: vectors by hand, batches, saving, training, and what the page about it leaves."""

import copy
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from test_docs import ROOT, blocks_of
from test_finetune_predict import write_jsonl
from test_pipelines import BERT, LENGTH, make_model
from transformers import AutoModel

import ernie_sparse
from ernie_sparse import ErnieSparseModel, cli

# 3, 22, 82 and 1,002 tokens: within a block, of several, and beyond what a plain encoder reads.
TEXTS = ["a", "b c d e " * 5, "f g h a " * 20, "a b c d e f g h " * 125]
FOLDERS = ("Model", "ForMaskedLM", "classifier")

load = functools.partial(SentenceTransformer, device="cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model, a masked-LM model, and a classifier that `ernie-sparse finetune` made of the latter."""
    root = tmp_path_factory.mktemp("embeddings")
    torch.manual_seed(0)
    for head in ("Model", "ForMaskedLM"):
        # Weights large enough for texts to differ.
        make_model(head, initializer_range=0.3).save_pretrained(root / head)
        BERT.save_pretrained(root / head)
    rows = write_jsonl(root / "rows.jsonl", [{"text": letter * 9, "label": letter} for letter in "abab"])
    command = [
        "finetune",
        "--model",
        root / "ForMaskedLM",
        "--train-file",
        rows,
        "--max-steps",
        1,
        "--save-strategy",
        "no",
    ]
    command += ["--max-length", LENGTH, "--disable-tqdm", "true", "--output-dir", root / "classifier"]
    assert cli.main([str(word) for word in command]) == 0
    return root


def by_hand(folder) -> torch.Tensor:
    """The mean of each text's hidden states, each text alone, token by token."""
    encoder = AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in TEXTS:
        with torch.no_grad():
            states = encoder(**BERT(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(sum(states.unbind()) / len(states))
    return torch.stack(vectors)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_vectors_are_means_of_all_tokens_of_each_text_alone(name, padding_side, folders):
    model, expected = load(str(folders / name)), by_hand(folders / name)
    assert model.max_seq_length == LENGTH
    assert type(model[0].model) is ErnieSparseModel
    model.tokenizer.padding_side = padding_side
    torch.testing.assert_close(model.encode(TEXTS, convert_to_tensor=True), expected, rtol=0, atol=1e-5)
    # Vectors that no text could tell apart would pass as well.
    assert torch.pdist(expected).min() > 1e-2


def test_a_batch_gives_what_each_text_gives_alone(folders):
    model = load(str(folders / "Model"))
    alone = torch.stack([model.encode(text, convert_to_tensor=True) for text in TEXTS])
    torch.testing.assert_close(model.encode(TEXTS, convert_to_tensor=True, batch_size=3), alone, rtol=0, atol=1e-5)


def test_what_it_saves_loads_again(folders, tmp_path):
    model = load(str(folders / "classifier"))
    model.save_pretrained(str(tmp_path / "saved"))
    again = load(str(tmp_path / "saved"))
    assert again.max_seq_length == LENGTH
    torch.testing.assert_close(again.encode(TEXTS), model.encode(TEXTS), rtol=0, atol=0)
    assert type(AutoModel.from_pretrained(tmp_path / "saved")) is ErnieSparseModel


def test_stored_in_bf16_means_are_summed_in_fp32(folders, tmp_path):
    ErnieSparseModel.from_pretrained(folders / "Model").bfloat16().save_pretrained(tmp_path)
    BERT.save_pretrained(tmp_path)
    half, whole = load(str(tmp_path)), load(str(tmp_path), model_kwargs={"dtype": torch.float32})
    states = half.encode(TEXTS[-1], output_value="token_embeddings")
    vector = half.encode(TEXTS[-1], convert_to_tensor=True)
    assert states.dtype is vector.dtype is torch.bfloat16
    torch.testing.assert_close(vector, states.float().mean(0).bfloat16(), rtol=0, atol=0)
    assert whole.encode(TEXTS[-1], convert_to_tensor=True).dtype is torch.float32


def train_one_step(folder, loss_class, out, **loss_options) -> tuple[dict, dict]:
    """The weights before and after."""
    model = load(str(folder), config_kwargs={"hidden_dropout_prob": 0.0})
    before = {name: weight.clone() for name, weight in model[0].model.state_dict().items()}
    rows = Dataset.from_dict({"anchor": TEXTS[:2], "positive": TEXTS[2:]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        optim="sgd",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    SentenceTransformerTrainer(model, arguments, rows, loss=loss_class(model, **loss_options)).train()
    return before, model[0].model.state_dict()


def test_a_step_of_its_trainer_moves_every_weight_that_is_read_and_in_small_parts_by_the_same(folders, tmp_path):
    before, after = train_one_step(folders / "Model", MultipleNegativesRankingLoss, tmp_path)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # The mean does not read the pooler; a softmax over keys does not feel the keys' bias, but for rounding.
    read = {name for name in before if "pooler" not in name}
    last_step_2 = {name for name in before if "layer.1" in name and "representative" in name}
    assert read - last_step_2 - {name for name in read if name.endswith("key.bias")} <= moved <= read
    _, cached = train_one_step(folders / "Model", CachedMultipleNegativesRankingLoss, tmp_path, mini_batch_size=1)
    for name, weight in after.items():
        torch.testing.assert_close(cached[name], weight, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the Python of docs/guides/search.md leaves, and the folder it ran in, with an `encoder` of ours."""
    out, names = tmp_path_factory.mktemp("page"), {}
    tokenizer = copy.deepcopy(BERT)
    tokenizer.model_max_length = 4096
    for part in (make_model("Model", initializer_range=0.3, max_position_embeddings=4096), tokenizer):
        part.save_pretrained(out / "encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        for block in blocks_of(ROOT / "docs" / "guides" / "search.md"):
            if block.language == "python":
                exec(compile(block.text, "search.md", "exec"), names)
    return names, out


def test_what_the_page_leaves_does_what_it_says(page):
    names, out = page
    cut = load(str(out / "encoder")).encode(names["too_long"], convert_to_tensor=True)
    assert cut.shape == (16,)
    with pytest.raises(ValueError, match="16002 tokens, more than this model's max_position_embeddings=4096"):
        load(str(out / "uncut")).encode(names["too_long"])
    first = load(str(out / "encoder")).encode("anna", output_value="token_embeddings")[0]
    cls = load(str(out / "cls-encoder")).encode("anna", convert_to_tensor=True)
    torch.testing.assert_close(cls, first / first.norm())
    trained, before = (load(str(out / name))[0].model.state_dict() for name in ("trained", "encoder"))
    assert any(not torch.equal(trained[name], before[name]) for name in before)


@pytest.mark.parametrize("size", [1, 7, 64, 2000])
@pytest.mark.parametrize("text", TEXTS, ids=["1", "20", "80", "1000"])
def test_the_pages_passages_are_means_of_every_token_once_and_name_their_characters(size, text, page, folders):
    passages = page[0]["passages"]
    model = load(str(folders / "Model"))
    vectors, places = passages(model, text, size)
    with torch.no_grad():
        states = model[0].model(**BERT(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
    letters = text.split()
    done = 0
    for vector, (start, end) in zip(vectors, places, strict=True):
        count = len(text[start:end].split())
        assert 1 <= count <= size and text[start:end].split() == letters[done : done + count]
        mean = sum(states[done + i] for i in range(count)) / count
        torch.testing.assert_close(vector, mean, rtol=0, atol=1e-5)
        done += count
    assert done == len(letters) and len(vectors) == -(-len(letters) // size)


@pytest.mark.slow
def test_in_a_fresh_process_the_import_alone_makes_folders_known(folders):
    code = """
import sys
from sentence_transformers import SentenceTransformer
import ernie_sparse
print(type(SentenceTransformer(sys.argv[1], device="cpu")[0].model).__name__)
"""
    command = [sys.executable, "-c", code, str(folders / "ForMaskedLM")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.split() == ["ErnieSparseModel"]


@pytest.mark.slow
def test_without_the_package_the_code_in_the_folder_gives_the_same(folders):
    program = """
import sys
sys.modules["ernie_sparse"] = None
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code=True)
print(model.encode(sys.argv[2:]).tolist())
"""
    command = [sys.executable, "-c", program, str(folders / "classifier"), *TEXTS]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
    assert json.loads(result.stdout.splitlines()[-1]) == load(str(folders / "classifier")).encode(TEXTS).tolist()


def test_the_core_does_without_sentence_transformers():
    files = list(Path(ernie_sparse.__file__).parent.rglob("*.py"))
    imports = re.compile(r"^\s*(from|import) sentence_transformers", re.MULTILINE)
    assert files and not any(imports.search(file.read_text()) for file in files)
