# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The encoders of Long Range Arena: one size, the classifier against a reckoning by hand, and what each pattern is."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertModel

from benchmarks.lra.models import (
    BIGBIRD_MIN_LENGTH,
    MODELS,
    SIZES,
    UNSEEN_PATTERNS,
    LraClassifier,
    build_config,
    encoder_of,
)
from benchmarks.lra.tasks import TASKS
from benchmarks.lra.training import DocumentCollator
from ernie_sparse import SparsePattern
from ernie_sparse.conversion import convert
from ernie_sparse.regularization import SaorArguments, second_pattern

# The documents here are short; those of the tasks go through the block form.
pytestmark = pytest.mark.usefixtures("block_form")

OURS = [name for name, model in MODELS.items() if model.pattern is not None]
FLAT = [name for name in OURS if not MODELS[name].pattern.hierarchical]


def build(name: str, task: str = "listops", **changes) -> LraClassifier:
    """A model of weights large enough that attention tells tokens apart."""
    torch.manual_seed(0)
    config = build_config(name, TASKS[task])
    config.initializer_range = 0.3
    for key, value in changes.items():
        setattr(config, key, value)
    encoder = encoder_of(AutoModelForMaskedLM.from_config(config))
    return LraClassifier(encoder, TASKS[task].num_documents, TASKS[task].num_labels)


def batch_of(task: str, lengths: list[int], min_length: int = 1) -> dict[str, torch.Tensor]:
    """Rows of random documents of those lengths, as the collator makes them."""
    draw = torch.Generator().manual_seed(len(lengths))
    spec = TASKS[task]

    def document(length: int) -> bytes:
        return bytes(torch.randint(spec.num_symbols, (length,), generator=draw).tolist())

    rows = [
        {"documents": [document(length + 3 * n) for n in range(spec.num_documents)], "labels": number % 2}
        for number, length in enumerate(lengths)
    ]
    return DocumentCollator(spec, min_length)(rows)


def logits_of(model: LraClassifier, batch: dict, **options) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(batch["input_ids"], batch["attention_mask"], **options).logits


@pytest.mark.parametrize("name", MODELS)
def test_every_model_begins_with_weights_as_wide(name):
    torch.manual_seed(0)
    encoder = AutoModelForMaskedLM.from_config(build_config(name, TASKS["text"])).base_model
    weights = [weight for key, weight in encoder.named_parameters() if key.endswith(("query.weight", "dense.weight"))]
    assert len(weights) >= 8
    assert all(weight.detach().std().item() == pytest.approx(0.07, rel=0.1) for weight in weights)


@pytest.mark.parametrize("task", ["listops", "retrieval"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_of_one_size_and_trains_all_its_weights(name, task):
    model = build(name, task).train()
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 2)
    assert config.intermediate_size == 128 and config.hidden_act == "gelu" and config.hidden_dropout_prob == 0.1
    assert config.attention_probs_dropout_prob == 0 and config.vocab_size == 2 + TASKS[task].num_symbols
    tables = {key: weight for key, weight in model.encoder.named_parameters() if "position_embeddings" in key}
    positions = {"longformer": TASKS[task].max_length + 1, "bigbird": {2000: 2048, 4096: 4096}[TASKS[task].max_length]}
    assert [len(weight) for weight in tables.values()] == [positions.get(name, TASKS[task].max_length)]
    # A batch that does not turn BigBird into full attention, and one that has two blocks for the others.
    batch = batch_of(task, [70, 90], MODELS[name].min_length)
    model(**batch).loss.backward()
    missing = {key for key, weight in model.named_parameters() if weight.grad is None}
    # Without hierarchy there are no representatives.
    assert all("representative" in key for key in missing) and bool(missing) == (name in FLAT)
    width = 64 if task == "listops" else 256
    shapes = [tuple(weight.shape) for weight in model.classifier.parameters()]
    assert shapes == [(128, width), (128,), (TASKS[task].num_labels, 128), (TASKS[task].num_labels,)]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_reads_the_longest_documents(name):
    model = build(name, "listops")
    batch = batch_of("listops", [1990, TASKS["listops"].max_length], MODELS[name].min_length)
    assert batch["input_ids"].shape[-1] == 2000 and logits_of(model, batch).shape == (2, 10)
    assert name != "bigbird" or model.encoder.attention_type == "block_sparse"


def test_all_rows_of_ours_have_the_same_weights():
    shapes = [{key: weight.shape for key, weight in LraClassifier(*parts(name)).named_parameters()} for name in OURS]
    assert len(OURS) == 7 and all(other == shapes[0] for other in shapes)


def parts(name: str) -> tuple:
    return encoder_of(AutoModelForMaskedLM.from_config(build_config(name, TASKS["listops"]))), 1, 10


def test_rows_mean_the_patterns_they_are_named_after():
    patterns = {name: MODELS[name].pattern for name in OURS}
    own = SparsePattern(block_size=64, num_window_blocks=3, num_global_blocks=1)
    assert patterns["hst"] == patterns["hst-saor"] == patterns["hst-rdrop"] == own
    flat = dataclasses.replace(own, hierarchical=False)
    assert patterns["flat"] == flat and patterns["window"] == dataclasses.replace(flat, num_global_blocks=0)
    bigbird = dataclasses.replace(flat, num_global_blocks=2, num_random_blocks=3)
    assert patterns["bigbird-like"] == bigbird and build_config("bigbird", TASKS["text"]).num_random_blocks == 3
    assert patterns["dense"].sees(30, 1, 31) and not patterns["dense"].hierarchical
    for name in OURS:
        assert build_config(name, TASKS["text"]).pattern == patterns[name]
    other = SparsePattern(block_size=32)
    assert build_config("hst", TASKS["text"], other).pattern == other
    alphas = {name: model.saor_alpha for name, model in MODELS.items() if model.saor_alpha}
    assert alphas == {"hst-saor": 1.0, "hst-rdrop": 1.0}
    assert MODELS["hst-saor"].saor_patterns is None and MODELS["hst-rdrop"].saor_patterns == ("none",)


@pytest.mark.parametrize("task", ["listops", "retrieval"])
@pytest.mark.parametrize("name", [*(name for name in OURS if not MODELS[name].pattern.num_random_blocks), "longformer"])
def test_padding_changes_no_answer(name, task):
    model, batch = build(name, task), batch_of(task, [75, 300])
    together = logits_of(model, batch)
    # The row alone, as long as its longer document.
    length = int(batch["attention_mask"][0].sum(-1).max())
    alone = {key: batch[key][:1, :, :length] for key in ("input_ids", "attention_mask")}
    assert length < 80 < batch["input_ids"].shape[-1] == 320
    torch.testing.assert_close(logits_of(model, alone), together[:1], rtol=1e-5, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_pooling_is_the_mean_over_the_symbols_of_the_document():
    model, batch = build("flat"), batch_of("listops", [5, 40])
    found = logits_of(model, batch)
    for row, length in enumerate((5, 40)):
        with torch.no_grad():
            states = model.encoder(batch["input_ids"][row, :, :length]).last_hidden_state[0]
            expected = model.classifier(sum(states[place] for place in range(length)) / length)
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


def test_two_documents_are_read_on_their_own_and_compared():
    model, batch = build("flat", "retrieval"), batch_of("retrieval", [20, 33])
    found = logits_of(model, batch)
    with torch.no_grad():
        for row, length in enumerate((20, 33)):
            a, b = (
                model.encoder(batch["input_ids"][row, n : n + 1, : length + 3 * n]).last_hidden_state[0].mean(0)
                for n in (0, 1)
            )
            expected = model.classifier(torch.cat([a, b, a * b, a - b]))
            torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)
            swapped = model.classifier(torch.cat([b, a, a * b, b - a]))
            turned = {key: batch[key][row : row + 1].flip(1) for key in ("input_ids", "attention_mask")}
            torch.testing.assert_close(logits_of(model, turned)[0], swapped, rtol=1e-5, atol=1e-5)
            assert (swapped - expected).abs().max() > 1e-2


@pytest.mark.parametrize("task", ["listops", "retrieval"])
def test_saor_compares_two_single_passes(task):
    model, batch = build("hst", task, hidden_dropout_prob=0.0), batch_of(task, [150, 200, 90])
    model.classifier[2].p = 0.0
    other = "block_size=16,num_window_blocks=1"
    first, second = (logits_of(model, batch, **options) for options in ({}, {"pattern": other}))
    output = model.train()(**batch, consistency_pattern=other, consistency_alpha=0.5)
    labels, p, q = batch["labels"], first.softmax(-1), second.softmax(-1)
    task_loss = -sum(x[range(3), labels].log().mean() for x in (p, q)) / 2
    consistency = ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)).mean() / 2
    assert consistency > 1e-3
    torch.testing.assert_close(output.task_loss, task_loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.consistency_loss, consistency, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, task_loss + 0.5 * consistency, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logits, first, rtol=1e-5, atol=1e-5)
    # Trainer divides by the labels of the whole update.
    whole = model(**batch, consistency_pattern=other, consistency_alpha=0.5, num_items_in_batch=12)
    torch.testing.assert_close(whole.loss, output.loss / 4)
    single = model.eval()(**batch)
    assert single.consistency_loss is None
    torch.testing.assert_close(single.loss, torch.nn.functional.cross_entropy(first, labels), rtol=1e-4, atol=1e-5)


def test_dense_is_bert():
    sizes = {key: value for key, value in SIZES.items() if "token_id" not in key}
    settings = {**sizes, "vocab_size": 17, "max_position_embeddings": 2000, "initializer_range": 0.3}
    bert = BertModel(BertConfig(**settings), add_pooling_layer=False).eval()
    model, batch = build("dense"), batch_of("listops", [75, 500])
    encoder = convert(bert, max_length=2000).model
    model.encoder.load_state_dict({key: encoder.state_dict()[key] for key in model.encoder.state_dict()})
    ours = logits_of(model, batch)
    model.encoder = bert
    torch.testing.assert_close(ours, logits_of(model, batch), rtol=1e-4, atol=1e-5)


def test_bigbird_stays_sparse_because_its_batches_are_long_enough():
    types = []
    for min_length in (MODELS["bigbird"].min_length, 1):
        model = build("bigbird", "text")
        logits_of(model, batch_of("text", [80, 100], min_length))
        types.append((model.config.attention_type, model.encoder.attention_type))
    assert types == [("block_sparse", "block_sparse"), ("block_sparse", "original_full")]
    # One block less, and it would switch as well.
    ids = torch.ones(1, 1, BIGBIRD_MIN_LENGTH - 1, dtype=torch.long)
    logits_of(model := build("bigbird", "text"), {"input_ids": ids, "attention_mask": ids})
    assert model.encoder.attention_type == "original_full"


def test_only_the_first_place_of_longformer_is_global():
    model, batch = build("longformer", "text"), batch_of("text", [900])
    states = []
    for place in (None, 0, 450):
        ids = batch["input_ids"].clone()
        if place is not None:
            ids[0, 0, place] = 2 + (ids[0, 0, place] - 1) % 256
        model.encoder.register_forward_hook(lambda module, args, output: states.append(output.last_hidden_state[0]))
        logits_of(model, {**batch, "input_ids": ids})
        model.encoder._forward_hooks.clear()
    plain, of_first, of_middle = (state[[100, 899]] for state in states)
    # Two layers of 96 places to each side reach nowhere near.
    assert ((of_first - plain).abs().amax(-1) > 1e-3).all()
    far = (of_middle - plain).abs().amax(-1)
    # By way of the global place alone, in the second layer.
    assert ((far > 0) & (far < (of_first - plain).abs().amax(-1))).all()


def test_no_draw_of_saor_makes_an_unseen_pattern():
    own = MODELS["hst-saor"].pattern
    unseen = {own.changed_by(text) for text in UNSEEN_PATTERNS}
    assert len(unseen) == len(UNSEEN_PATTERNS) and own not in unseen
    drawn = [second_pattern(own, SaorArguments(), step) for step in range(4000)]
    assert not unseen & set(drawn)
    # Nor anything that differs from one by the draw of random blocks alone.
    kinds = {dataclasses.replace(pattern, seed=0) for pattern in drawn}
    assert not unseen & kinds and len(kinds) == 63 + 2 + 2 + 3
