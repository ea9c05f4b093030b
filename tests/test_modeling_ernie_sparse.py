# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The model and its heads against BERT, against an independent reference, and against their own contract."""

import math
import random
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from distributed_training import CHECKPOINTING
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from ernie_sparse import (
    ErnieSparseForMaskedLM,
    ErnieSparseForMultipleChoice,
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    ErnieSparseModel,
    SparsePattern,
    block_plan,
)

BACKENDS = ["eager", "sdpa"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
OTHER_PATTERN = SparsePattern(block_size=4, num_window_blocks=1, num_global_blocks=0, num_random_blocks=1, seed=3)


class Head(NamedTuple):
    model: type
    auto: type
    bert: type
    outputs: tuple[str, ...]
    is_per_token: bool
    distribution: str
    config: dict = {}


HEADS = {
    "masked_lm": Head(ErnieSparseForMaskedLM, AutoModelForMaskedLM, BertForMaskedLM, ("logits",), True, "categorical"),
    "single_label": Head(
        ErnieSparseForSequenceClassification,
        AutoModelForSequenceClassification,
        BertForSequenceClassification,
        ("logits",),
        False,
        "categorical",
        {"num_labels": 3},
    ),
    "multi_label": Head(
        ErnieSparseForSequenceClassification,
        AutoModelForSequenceClassification,
        BertForSequenceClassification,
        ("logits",),
        False,
        "bernoulli",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "regression": Head(
        ErnieSparseForSequenceClassification,
        AutoModelForSequenceClassification,
        BertForSequenceClassification,
        ("logits",),
        False,
        "gaussian",
        {"num_labels": 1},
    ),
    "token_classification": Head(
        ErnieSparseForTokenClassification,
        AutoModelForTokenClassification,
        BertForTokenClassification,
        ("logits",),
        True,
        "categorical",
        {"num_labels": 5},
    ),
    "question_answering": Head(
        ErnieSparseForQuestionAnswering,
        AutoModelForQuestionAnswering,
        BertForQuestionAnswering,
        ("start_logits", "end_logits"),
        True,
        "categorical",
    ),
    "multiple_choice": Head(
        ErnieSparseForMultipleChoice,
        AutoModelForMultipleChoice,
        BertForMultipleChoice,
        ("logits",),
        False,
        "categorical",
    ),
}
BASE = Head(ErnieSparseModel, AutoModel, BertModel, ("last_hidden_state",), True, "")
every_head = pytest.mark.parametrize("name", HEADS)
every_backend = pytest.mark.parametrize("backend", BACKENDS)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Fresh models have zero biases and identical norms, which would hide one that is dropped or swapped."""
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, 0.3)
    return model


def build_head(make_config, name: str, backend: str = "sdpa", **overrides) -> nn.Module:
    """A head in eval mode, all parameters random and no dropout, of a config by `make_config`."""
    head = HEADS.get(name, BASE)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = make_config(attn_implementation=backend, **{**no_dropout, **head.config, **overrides})
    return randomise(head.model(config)).eval()


@pytest.fixture
def build(tiny_config):
    """Builds a head: `build("masked_lm", block_size=4)`."""
    return partial(build_head, tiny_config)


def make_inputs(name: str = "base", lengths: tuple[int, ...] = (40, 23), num_tokens: int | None = None) -> dict:
    """A batch with right padding; two choices per document for the multiple-choice head."""
    num_tokens = num_tokens or max(lengths)
    shape = (len(lengths), 2, num_tokens) if name == "multiple_choice" else (len(lengths), num_tokens)
    mask = torch.arange(num_tokens) < torch.tensor(lengths)[:, None]
    return {
        "input_ids": torch.randint(1, 99, shape),
        "token_type_ids": torch.randint(0, 2, shape),
        "attention_mask": (mask[:, None].expand(shape) if len(shape) == 3 else mask).long(),
    }


def make_labels(name: str, inputs: dict) -> dict:
    mask = inputs["attention_mask"]
    size = len(mask)
    if name == "question_answering":
        starts = torch.tensor([[3, 7][i % 2] % int(mask[i].sum().clamp(min=1)) for i in range(size)])
        return {"start_positions": starts, "end_positions": starts + (starts + 1 < mask.sum(1)).long()}
    if name == "masked_lm":
        is_masked = (torch.arange(mask.shape[1]) % 7 == 2) & (mask != 0)
        return {"labels": torch.where(is_masked, torch.randint(0, 99, mask.shape), -100)}
    if name == "token_classification":
        return {"labels": torch.where(mask != 0, torch.randint(0, 5, mask.shape), -100)}
    if name == "multi_label":
        return {"labels": torch.randint(0, 2, (size, 3)).float()}
    if name == "regression":
        return {"labels": torch.linspace(-1.0, 1.0, size)}
    return {"labels": torch.arange(size) % (2 if name == "multiple_choice" else 3)}


def make_batch(name: str, **kwargs) -> dict:
    inputs = make_inputs(name, **kwargs)
    return {**inputs, **make_labels(name, inputs)}


def without_labels(batch: dict) -> dict:
    return {key: value for key, value in batch.items() if key in ("input_ids", "token_type_ids", "attention_mask")}


def predictions(head: Head, output) -> list[torch.Tensor]:
    return [output[name] for name in head.outputs]


def real_predictions(head: Head, output, mask: torch.Tensor) -> list[torch.Tensor]:
    values = predictions(head, output)
    return [value[mask.bool()] for value in values] if head.is_per_token else values


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def compare_gradients(actual: dict, expected: dict, context=()):
    assert actual.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    for name, reference in expected.items():
        # Where nothing of the batch reaches a parameter, one form has no gradient and the other has zeros.
        pair = [0.0 if gradient is None else gradient for gradient in (actual[name], reference)]
        difference, size = (torch.as_tensor(values).abs().max() for values in (pair[0] - pair[1], pair[1]))
        # Softmax does not see the key's bias: its gradient is of rounding errors alone, as large as the others make it.
        assert difference <= 1e-4 * max(size, largest / 100), (name, context)


@every_backend
@pytest.mark.parametrize("name", ["base", *HEADS])
def test_without_hierarchy_and_seeing_everything_the_model_is_bert(name, backend, build):
    head = HEADS.get(name, BASE)
    ours = build(name, backend)
    ours.config.pattern = SparsePattern.full()
    sizes = {key: getattr(ours.config, key) for key in BertConfig().to_dict() if hasattr(ours.config, key)}
    bert = randomise(head.bert(BertConfig(**{**sizes, "model_type": "bert"}, attn_implementation=backend))).eval()

    weights = {key.replace("bert.", "ernie_sparse.", 1): value for key, value in bert.state_dict().items()}
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    prefix = "" if name == "base" else "ernie_sparse."
    norm = f"{prefix}encoder.layer.0.attention.representative_LayerNorm"
    assert set(missing) == {
        f"{prefix}embeddings.representative_embeddings.weight",
        f"{norm}.weight",
        f"{norm}.bias",
    }
    # Theirs is in two places.
    assert unexpected == (["cls.predictions.decoder.bias"] if name == "masked_lm" else [])

    for length in (1, 7, 64, 65, 128):
        inputs = make_inputs(name, lengths=(length, (length + 1) // 2))
        with torch.no_grad():
            expected, output = bert(**inputs), ours(**inputs)
        assert output.get("representative_hidden_state") is None
        for value, reference in zip(
            real_predictions(head, output, inputs["attention_mask"]),
            real_predictions(head, expected, inputs["attention_mask"]),
            strict=True,
        ):
            torch.testing.assert_close(value, reference, **CLOSE)
        if name == "base":
            torch.testing.assert_close(output.pooler_output, expected.pooler_output, **CLOSE)


def reference_encoder(weights: dict, config, pattern: SparsePattern, ids, types, positions, is_real):
    """
    HST for one document, from its definition: the hidden states of tokens and representatives. `weights` by the names
    of the model's parameters. Rows that see nothing are of padding and have no meaning here.
    """
    num_tokens, size = len(ids), config.hidden_size // config.num_attention_heads
    num_blocks = pattern.num_blocks(num_tokens)
    token_block = [(t + pattern.block_shift) // pattern.block_size for t in range(num_tokens)]
    per_block = config.num_representatives_per_block if pattern.hierarchical else 0
    num_representatives = num_blocks * per_block
    block_at = [block for block in range(num_blocks) for _ in range(per_block)] + token_block
    block_is_real = [any(is_real[t] for t in range(num_tokens) if token_block[t] == k) for k in range(num_blocks)]
    real_at = [block_is_real[block] for block in block_at[:num_representatives]] + [bool(r) for r in is_real]
    block_sees = [[pattern.sees(q, k, num_blocks) for k in range(num_blocks)] for q in range(num_blocks)]
    sees = torch.tensor([[real_at[k] and block_sees[block_at[q]][block_at[k]] for k in range(len(block_at))]
                         for q in range(len(block_at))])  # fmt: skip

    def linear(states, name):
        return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(states, name):
        centred = states - states.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + config.layer_norm_eps).rsqrt()
        return centred * scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(states, layer, visible):
        query, key, value = (linear(states, f"{layer}.attention.self.{role}") for role in ("query", "key", "value"))
        outputs = []
        for head in range(config.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            scores = query[:, part] @ key[:, part].T / math.sqrt(size)
            outputs.append(scores.masked_fill(~visible, -1e30).softmax(-1) @ value[:, part])
        return linear(torch.cat(outputs, dim=-1), f"{layer}.attention.output.dense")

    position_embeddings = weights["embeddings.position_embeddings.weight"][positions]
    tokens = weights["embeddings.word_embeddings.weight"][ids] + position_embeddings
    tokens = tokens + weights["embeddings.token_type_embeddings.weight"][types]
    representatives = [
        weights["embeddings.representative_embeddings.weight"][r] + position_embeddings[token_block.index(block)]
        for block in range(num_blocks)
        for r in range(per_block)
    ]
    states = norm(torch.cat([torch.stack([*representatives, *tokens])]), "embeddings.LayerNorm")
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        states = norm(states + attend(states, layer, sees), f"{layer}.attention.output.LayerNorm")
        if num_representatives and i < config.num_hidden_layers - 1:
            local = states[:num_representatives]
            visible = torch.tensor(real_at[:num_representatives]).expand(num_representatives, -1)
            summary = norm(local + attend(local, layer, visible), f"{layer}.attention.representative_LayerNorm")
            states = torch.cat([summary, states[num_representatives:]])
        inner = nn.functional.gelu(linear(states, f"{layer}.intermediate.dense"))
        states = norm(states + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    real = torch.tensor(real_at)
    tokens, representatives = states[num_representatives:], states[:num_representatives]
    return tokens[real[num_representatives:]], representatives[real[:num_representatives]]


REFERENCE_CASES = {
    "default": (SparsePattern(block_size=8), 1, 0),
    "shift": (SparsePattern(block_size=8, block_shift=3), 1, 0),
    "random": (SparsePattern(block_size=4, num_window_blocks=1, num_random_blocks=2, seed=7), 1, 0),
    "two_representatives": (SparsePattern(block_size=8, block_shift=5, num_global_blocks=2), 2, 0),
    "no_global_blocks": (SparsePattern(block_size=4, num_window_blocks=3, num_global_blocks=0), 1, 0),
    "not_hierarchical": (SparsePattern(block_size=4, num_random_blocks=1, hierarchical=False), 1, 0),
    "positions_from_ten": (SparsePattern(block_size=8, block_shift=2), 2, 10),
}


@every_backend
@pytest.mark.parametrize("case", REFERENCE_CASES)
def test_hidden_states_and_gradients_equal_an_independent_reference(case, backend, build):
    pattern, per_block, first_position = REFERENCE_CASES[case]
    model = build("base", backend, num_hidden_layers=3, num_representatives_per_block=per_block)
    inputs = make_inputs(lengths=(45, 20))
    positions = torch.arange(45) + first_position
    output = model(**inputs, position_ids=positions[None] if first_position else None, pattern=pattern)
    weights = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}

    loss, reference_loss = 0.0, 0.0
    for i, is_real in enumerate(inputs["attention_mask"].bool()):
        ids, types, real = inputs["input_ids"][i, is_real], inputs["token_type_ids"][i, is_real], is_real[is_real]
        tokens, representatives = reference_encoder(
            weights, model.config, pattern, ids, types, positions[: len(ids)], real
        )
        torch.testing.assert_close(output.last_hidden_state[i, is_real].double(), tokens, **CLOSE)
        weighting = torch.randn_like(tokens)
        reference_loss = reference_loss + (weighting * tokens).sum()
        loss = loss + (weighting * output.last_hidden_state[i, is_real]).sum()
        if not pattern.hierarchical:
            assert output.representative_hidden_state is None
            continue
        # The blocks with a real token are the first ones.
        ours = output.representative_hidden_state[i]
        assert len(ours) == pattern.num_blocks(45) * per_block
        torch.testing.assert_close(ours[: len(representatives)].double(), representatives, **CLOSE)
        weighting = torch.randn_like(representatives)
        reference_loss = reference_loss + (weighting * representatives).sum()
        loss = loss + (weighting * ours[: len(representatives)]).sum()

    loss.backward()
    reference_loss.backward()
    for name, gradient in gradients(model).items():
        if weights[name].grad is None:
            assert gradient is None
        else:
            # fp32 sums over 65 tokens.
            torch.testing.assert_close(gradient.double(), weights[name].grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("text", [str(SparsePattern(block_size=8)), str(OTHER_PATTERN), "block_size=16,block_shift=5"])
def test_eager_equals_sdpa(text, dtype, build):
    model = build("base").to(dtype)
    inputs = make_inputs(lengths=(77, 30, 1))
    results = {}
    with torch.no_grad():
        for backend in BACKENDS:
            model.set_attn_implementation(backend)
            results[backend] = model(**inputs, pattern=text)
    for mask, name in ((inputs["attention_mask"].bool(), "last_hidden_state"), (..., "pooler_output")):
        eager, sdpa = (results[backend][name][mask] for backend in BACKENDS)
        assert eager.dtype == sdpa.dtype == dtype
        difference = (eager.float() - sdpa.float()).abs()
        # Weights as random as these magnify bfloat16's rounding in single elements.
        assert difference.max() < 1e-5 if dtype == torch.float32 else difference.mean() < 0.03


# In one dense call and in blocks: without padding, with too little to pack the batch, and, on long documents, packed.
@pytest.mark.parametrize("lengths", [(60, 60), (60, 58), (620, 620), (620, 610), (620, 200)], ids=str)
@pytest.mark.parametrize(
    "pattern", [SparsePattern(8, 3, 1, 2, 5, seed=3), SparsePattern(16, 5, 0, 0, 3, False)], ids=str
)
def test_sdpa_equals_eager_with_gradients_on_short_and_long_documents(pattern, lengths, build):
    model, inputs, results = build("base", max_position_embeddings=620), make_inputs(lengths=lengths), []
    mask = inputs["attention_mask"].bool()
    if mask.all():
        inputs["attention_mask"] = None
    for backend in BACKENDS:
        model.set_attn_implementation(backend)
        model.zero_grad()
        output = model(**inputs, pattern=pattern)
        states = [output.last_hidden_state[mask], output.pooler_output]
        sequence_length = max(lengths)
        if pattern.hierarchical:
            # The blocks with a real token are the first ones.
            kept = [output.representative_hidden_state[i, : pattern.num_blocks(n)] for i, n in enumerate(lengths)]
            states, sequence_length = states + kept, sequence_length + len(output.representative_hidden_state[0])
        assert (sequence_length > block_plan.MAX_DENSE_LENGTH) == (max(lengths) == 620)
        sum((values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum() for values in states).backward()
        results.append((states, gradients(model)))
    (expected, expected_gradients), (actual, actual_gradients) = results
    for values, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(values, reference, **CLOSE)
    compare_gradients(actual_gradients, expected_gradients)


@every_backend
def test_hidden_states_are_captured_per_layer_and_aligned_with_the_tokens(backend, build):
    model = build("base", backend, num_hidden_layers=3)
    layer_outputs = []
    for layer in model.encoder.layer:
        layer.register_forward_hook(lambda module, args, output: layer_outputs.append(args[1].give(output[0])))
    output = model(**make_inputs(lengths=(21, 13)), output_hidden_states=True)
    assert [tuple(states.shape) for states in output.hidden_states] == [(2, 21, 32)] * 4
    for states, layer_output in zip(output.hidden_states[1:], layer_outputs, strict=True):
        assert torch.equal(states, layer_output)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    output.hidden_states[1].retain_grad()
    output.last_hidden_state.sum().backward()
    assert output.hidden_states[1].grad.abs().sum() > 0


@pytest.mark.parametrize("hierarchical", [True, False])
def test_attentions_are_over_tokens_and_follow_the_pattern(hierarchical, build):
    pattern = SparsePattern(block_size=4, block_shift=1, num_random_blocks=1, hierarchical=hierarchical)
    model = build("base", "eager", num_hidden_layers=3)
    inputs = make_inputs(lengths=(33, 18))
    output = model(**inputs, pattern=pattern, output_attentions=True)
    assert [tuple(maps.shape) for maps in output.attentions] == [(2, 4, 33, 33)] * 3
    block = [(t + 1) // 4 for t in range(33)]
    for i, is_real in enumerate(inputs["attention_mask"].bool()):
        num_blocks = pattern.num_blocks(int(is_real.sum()))
        sees = torch.tensor([[pattern.sees(block[q], block[k], num_blocks) for k in range(33)] for q in range(33)])
        for maps in output.attentions:
            weights = maps[i][:, is_real]
            assert torch.equal(weights > 0, (sees & is_real)[is_real].expand_as(weights))
            # What is missing to one goes to the representatives.
            share = weights.sum(-1)
            assert share.max() < 1 + 1e-5
            assert share.mean() < 0.95 if hierarchical else share.min() > 1 - 1e-5


def test_sdpa_has_no_attentions_to_give(build):
    assert build("base", "sdpa")(**make_inputs(), output_attentions=True).attentions in (None, ())


@every_backend
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("pattern", [pytest.param(None, marks=pytest.mark.slow), "block_size=8,block_shift=3"])
def test_a_padded_batch_equals_each_document_alone(pattern, name, backend, build):
    head, model = HEADS[name], build(name, backend)
    lengths = (61, 40, 17, 8, 1)
    # 100 tokens: five blocks of nothing but padding.
    for num_tokens in (61, 100):
        inputs = make_inputs(name, lengths, num_tokens)
        with torch.no_grad():
            together = model(**inputs, pattern=pattern)
            for i, length in enumerate(lengths):
                document = {key: value[i : i + 1, ..., :length] for key, value in inputs.items()}
                document.pop("attention_mask")
                alone = model(**document, pattern=pattern)
                for ours, single in zip(predictions(head, together), predictions(head, alone), strict=True):
                    ours = ours[i : i + 1, :length] if head.is_per_token else ours[i : i + 1]
                    torch.testing.assert_close(ours, single, **CLOSE)


@pytest.mark.parametrize("consistency", [None, str(OTHER_PATTERN)])
@every_head
def test_every_parameter_is_trained_by_every_head(name, consistency, build):
    model = build(name).train()
    model(**make_batch(name), consistency_pattern=consistency).loss.backward()
    for parameter_name, gradient in gradients(model).items():
        assert gradient is not None and torch.isfinite(gradient).all(), parameter_name
        # The same key bias for all keys leaves a softmax as it is: its gradient is zero by nature.
        if not parameter_name.endswith("key.bias"):
            assert gradient.abs().sum() > 0, parameter_name


@pytest.mark.slow
@every_head
def test_every_head_overfits_one_batch_in_two_passes(name, tiny_config):
    model = HEADS[name].model(tiny_config(initializer_range=0.1, hidden_dropout_prob=0.0, **HEADS[name].config)).train()
    batch = make_batch(name, lengths=(40, 23, 31))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**batch, consistency_pattern=OTHER_PATTERN).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert 0 <= losses[-1] < min(0.1, 0.2 * losses[0])


@every_head
def test_save_and_load_give_the_same_outputs_through_the_auto_class(name, build, tmp_path):
    head, model = HEADS[name], build(name, block_shift=3, num_representatives_per_block=2)
    model.save_pretrained(tmp_path)
    loaded, info = head.auto.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is head.model and loaded.config.pattern == model.config.pattern
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    inputs = make_inputs(name)
    again = head.auto.from_pretrained(tmp_path)
    with torch.no_grad():
        outputs = [predictions(head, m(**inputs)) for m in (model, loaded, again)]
    for ours, theirs, once_more in zip(*outputs, strict=True):
        # To the last bit but one: kernels round differently where a loaded tensor is aligned differently.
        torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(once_more, ours, rtol=1e-6, atol=1e-6)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value) and torch.equal(again.state_dict()[key], value)


def test_weights_missing_in_a_checkpoint_are_initialised(build, tmp_path):
    model = build("base")
    is_new = [name for name, _ in model.named_parameters() if "representative" in name]
    weights = {name: value for name, value in model.state_dict().items() if name not in is_new}
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(is_new)
    norm = loaded.encoder.layer[0].attention.representative_LayerNorm
    assert torch.equal(norm.weight, torch.ones(32)) and torch.equal(norm.bias, torch.zeros(32))
    embedding = loaded.embeddings.representative_embeddings.weight
    assert 0.005 < embedding.std() < 0.08 and embedding.abs().max() < 0.2


def test_a_model_on_the_meta_device_has_only_shapes(tiny_config):
    with torch.device("meta"):
        model = ErnieSparseForMaskedLM(tiny_config())
    output = model(torch.ones(2, 20, dtype=torch.long, device="meta"))
    assert output.logits.shape == (2, 20, 99) and output.logits.is_meta


@pytest.mark.parametrize("name", ["base", *HEADS])
def test_the_tuple_holds_what_the_dict_holds(name, build):
    model = build(name, "eager")
    batch = make_inputs() if name == "base" else {**make_batch(name), "consistency_pattern": OTHER_PATTERN}
    flags = {"output_hidden_states": True, "output_attentions": True}
    as_dict, as_tuple = model(**batch, **flags), model(**batch, **flags, return_dict=False)
    assert isinstance(as_tuple, tuple)
    for ours, theirs in zip(as_dict.to_tuple(), as_tuple, strict=True):
        pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
        assert all(torch.equal(a, b) for a, b in pairs)


@every_head
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(name, build):
    batch = {**make_batch(name), "consistency_pattern": OTHER_PATTERN}
    model = build(name).train()
    calls = []
    model.base_model.encoder.layer[0].intermediate.register_forward_hook(lambda *args: calls.append(None))

    def step():
        calls.clear()
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        return loss, gradients(model), len(calls)

    loss, plain_gradients, num_calls = step()
    assert num_calls == 2
    getattr(model, f"{CHECKPOINTING}_enable")()
    checkpointed_loss, checkpointed_gradients, num_calls = step()
    # Once more per pass: the layer really is recomputed.
    assert num_calls == 4
    assert torch.equal(loss, checkpointed_loss)
    for parameter_name, gradient in plain_gradients.items():
        torch.testing.assert_close(checkpointed_gradients[parameter_name], gradient, rtol=1e-5, atol=1e-7)


@every_head
def test_inputs_embeds_equal_input_ids(name, build):
    head, model = HEADS[name], build(name)
    inputs = make_inputs(name)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    rest = {key: value for key, value in inputs.items() if key != "input_ids"}
    for ours, theirs in zip(
        predictions(head, model(**inputs)), predictions(head, model(inputs_embeds=embeds, **rest)), strict=True
    ):
        assert torch.equal(ours, theirs)


@every_head
def test_position_ids_default_to_zero_upwards(name, build):
    head, model = HEADS[name], build(name)
    inputs = make_inputs(name)
    positions = torch.arange(40).expand_as(inputs["input_ids"])
    default = predictions(head, model(**inputs))
    for ours, theirs in zip(default, predictions(head, model(**inputs, position_ids=positions)), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    for ours, theirs in zip(default, predictions(head, model(**inputs, position_ids=positions + 1)), strict=True):
        assert not torch.allclose(ours, theirs, atol=1e-2)


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("name", ["base", *HEADS])
def test_a_pattern_holds_for_one_call(name, is_training, build):
    head, model = HEADS.get(name, BASE), build(name).train(is_training)
    inputs = make_inputs(name)
    config = model.config.to_dict()
    before = predictions(head, model(**inputs))
    fields = {"block_size": 4, "num_window_blocks": 1, "num_global_blocks": 0, "num_random_blocks": 1, "seed": 3}
    others = [predictions(head, model(**inputs, pattern=form)) for form in (OTHER_PATTERN, fields, str(OTHER_PATTERN))]
    after = predictions(head, model(**inputs))
    own = predictions(head, model(**inputs, pattern=model.config.pattern))
    for i, value in enumerate(before):
        assert torch.equal(value, after[i]) and torch.equal(value, own[i])
        assert torch.equal(others[0][i], others[1][i]) and torch.equal(others[0][i], others[2][i])
        assert not torch.allclose(value, others[0][i], atol=1e-3)
    assert model.config.to_dict() == config


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize(
    "lengths", [(*range(1, 129, 5), 128), pytest.param(range(1, 129), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_any_length_up_to_the_limit(lengths, build):
    model = build("base", num_hidden_layers=1, block_shift=3)
    with torch.no_grad():
        for length in lengths:
            inputs = make_inputs(lengths=(length,))
            outputs = []
            for backend in BACKENDS:
                model.set_attn_implementation(backend)
                outputs.append(model(**inputs).last_hidden_state)
            assert outputs[0].shape == (1, length, 32)
            torch.testing.assert_close(*outputs, **CLOSE)


@every_head
def test_a_consistency_pattern_needs_labels_and_must_be_one(name, build):
    model, batch = build(name), make_batch(name)
    with pytest.raises(ValueError, match="consistency_pattern needs labels"):
        model(**without_labels(batch), consistency_pattern=OTHER_PATTERN)
    with pytest.raises(ValueError, match="'blocks' is not a field"):
        model(**batch, consistency_pattern="blocks=3")


@every_backend
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.bfloat16])
def test_attention_masks_of_any_dtype_mean_the_same(dtype, backend, build):
    head, model = HEADS["question_answering"], build("question_answering", backend)
    batch = make_batch("question_answering")
    mask = batch.pop("attention_mask")
    batch["consistency_pattern"] = OTHER_PATTERN
    expected, output = (model(**batch, attention_mask=m) for m in (mask, mask.to(dtype)))
    for ours, theirs in zip(predictions(head, expected), predictions(head, output), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(expected.loss, output.loss)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@every_head
def test_a_document_of_padding_gives_no_nan(name, dtype, backend, build):
    head, model = HEADS[name], build(name, backend).to(dtype).train()
    batch = make_batch(name, lengths=(40, 0, 23))
    output = model(**batch, consistency_pattern=OTHER_PATTERN)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    evaluated = model.eval()(**without_labels(batch))
    assert all(torch.isfinite(value).all() for value in predictions(head, evaluated))
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


@pytest.mark.parametrize("size", [120, 60])
def test_resized_vocabulary_reaches_the_decoder_and_stays_tied(size, build, tmp_path):
    model = build("masked_lm")
    kept = min(size, 99)
    old_bias, old_embeddings = model.cls.predictions.bias[:kept].clone(), model.get_input_embeddings().weight[:kept]
    model.resize_token_embeddings(size)
    head = model.cls.predictions
    embeddings = model.get_input_embeddings()
    assert model.config.vocab_size == size == head.decoder.out_features
    assert embeddings.weight.shape == (size, 32) and head.bias.shape == (size,)
    assert head.decoder.weight is embeddings.weight and head.decoder.bias is None
    assert torch.equal(embeddings.weight[:kept], old_embeddings) and torch.equal(head.bias[:kept], old_bias)
    inputs = {"input_ids": torch.tensor([[size - 1, 3, 5]])}
    logits = model(**inputs).logits
    assert logits.shape == (1, 3, size)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**inputs).logits, logits, rtol=1e-6, atol=1e-6)


def test_new_output_embeddings_bring_their_bias(build):
    model = build("masked_lm")
    decoder, states = nn.Linear(32, 120), torch.randn(2, 32)
    expected = decoder(model.cls.predictions.transform(states))
    model.set_output_embeddings(decoder)
    assert model.get_output_embeddings() is decoder and decoder.bias is None
    torch.testing.assert_close(model.cls(states), expected)


def test_loaded_weights_are_tied(build, tmp_path):
    build("masked_lm").save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    predictor = loaded.cls.predictions
    assert predictor.decoder.weight is loaded.ernie_sparse.embeddings.word_embeddings.weight


def test_attention_implementation_switches(build):
    model, inputs = build("base"), make_inputs()
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert len(model(**inputs, output_attentions=True).attentions) == 2
    model.set_attn_implementation("sdpa")
    assert not model(**inputs, output_attentions=True).attentions


@pytest.mark.parametrize(
    "backend, message",
    [
        ("flash_attention_2", "does not support Flash Attention 2"),
        ("nonsense", "nonsense"),
    ],
)
def test_unsupported_attention_implementations_are_refused(backend, message, build):
    with pytest.raises(ValueError, match=message):
        build("base", backend)
    with pytest.raises(ValueError, match=message):
        build("base").set_attn_implementation(backend)


def state_of(model: nn.Module) -> dict:
    """Everything that stands on the model's modules, by identity, and the versions of its tensors."""
    state = {"config": model.config.to_dict()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            entries = value.items() if isinstance(value, dict) else [("", value)]
            for entry, item in entries:
                version = item._version if isinstance(item, torch.Tensor) else None
                state[name, key, entry] = (id(item), version)
    return state


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("name", ["base", *HEADS])
def test_nothing_is_written_on_the_model_in_forward(name, is_training, build):
    model = build(name, "eager").train(is_training)
    # transformers installs its hooks that record hidden states and attentions at the first call that asks for them.
    model(**make_inputs(name), output_hidden_states=True, output_attentions=True)
    before = state_of(model)
    if name == "base":
        model(**make_inputs(lengths=(40, 23)), pattern=OTHER_PATTERN, output_attentions=True)
        model(**make_inputs(lengths=(3,)))
    else:
        model(**make_batch(name), consistency_pattern=OTHER_PATTERN, output_attentions=True)
        model(**make_batch(name, lengths=(3, 2)), pattern=OTHER_PATTERN)
    assert state_of(model) == before


@every_backend
def test_evaluation_draws_no_random_numbers(backend, build):
    model = build("masked_lm", backend, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, num_random_blocks=2)
    batch = make_batch("masked_lm")
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    model(**batch, consistency_pattern=OTHER_PATTERN)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@every_backend
@pytest.mark.parametrize("dropout", ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"])
def test_dropout_acts_in_training_alone(dropout, backend, build):
    model, inputs = build("single_label", backend, **{dropout: 0.3}), make_inputs()
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    assert not torch.allclose(model(**inputs).logits, model(**inputs).logits, atol=1e-3)
