# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Layer alignment against loops over tokens, in loss and gradients, and what it leaves alone."""

import dataclasses
import itertools
import math
from functools import partial

import pytest
import torch
from test_modeling_ernie_sparse import (
    HEADS,
    OTHER_PATTERN,
    build_head,
    every_head,
    gradients,
    make_batch,
    make_inputs,
    predictions,
    without_labels,
)
from torch import nn

from ernie_sparse import SparsePattern
from ernie_sparse.block_plan import plan_batch

OWN = SparsePattern(block_size=8, block_shift=2)
CASES = {
    "shift": (OWN, dataclasses.replace(OWN, block_shift=7), 1),
    "half of the block size": (OWN, dataclasses.replace(OWN, block_size=4), 1),
    "double of it, two representatives": (OWN, dataclasses.replace(OWN, block_size=16), 2),
    "window and random blocks": (OWN, SparsePattern(8, 1, 0, 2, 2, seed=3), 1),
    "everything else": (OWN, SparsePattern(5, 1, 2, 1, 3), 2),
    "second without hierarchy": (OWN, dataclasses.replace(OWN, hierarchical=False), 1),
    "no hierarchy": (SparsePattern(8, hierarchical=False), SparsePattern(4, 1, 0, 2, 1, hierarchical=False), 1),
    "everything seen": (OWN, SparsePattern.full(4, hierarchical=True), 1),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def build(tiny_config):
    """Builds a head: `build("masked_lm", block_size=4)`."""
    return partial(build_head, tiny_config)


def blocks_of(pattern: SparsePattern, num_tokens: int) -> list[list[int]]:
    blocks = [[] for _ in range(pattern.num_blocks(num_tokens))]
    for token in range(num_tokens):
        blocks[(token + pattern.block_shift) // pattern.block_size].append(token)
    return blocks


def reference_loss(model, streams, pattern, other, lengths) -> torch.Tensor:
    """The mean over layers and tokens, one token at a time, from the states that step 1 of each layer is given."""
    size, per_block, terms = model.config.hidden_size, model.config.num_representatives_per_block, []
    for layer, states in zip(model.base_model.encoder.layer, streams, strict=True):
        query, key, value = (
            projection(states).unflatten(-1, (model.config.num_attention_heads, -1))
            for projection in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
        )
        begin = 0
        for length in lengths:
            blocks = blocks_of(pattern, length)
            places, tokens = {}, {}
            for number, block in enumerate(blocks):
                for r in range(per_block if pattern.hierarchical else 0):
                    places[number, r], begin = begin, begin + 1
                for token in block:
                    tokens[token], begin = begin, begin + 1
            block_of = {token: number for number, block in enumerate(blocks) for token in block}

            def attend(of: SparsePattern, near, tokens=tokens, places=places, length=length, q=query, k=key, v=value):
                numbers = blocks_of(of, length)
                for number, block in enumerate(numbers):
                    seen = [n for n in range(len(numbers)) if of.sees(number, n, len(numbers))]
                    keys = [tokens[token] for n in seen for token in numbers[n]]
                    if of.hierarchical:
                        keys += [places[near(n, numbers[n]), r] for n in seen for r in range(per_block)]
                    for token in block:
                        scores = (q[tokens[token]][None] * k[keys]).sum(-1) / math.sqrt(q.shape[-1])
                        yield (scores.softmax(0)[..., None] * v[keys]).sum(0).flatten()

            ours = torch.stack([*attend(pattern, lambda number, _: number)])
            theirs = torch.stack([*attend(other, lambda _, block, of=block_of: of[block[(len(block) - 1) // 2]])])
            for a, b in ((ours, theirs), (theirs, ours)):
                terms.append(nn.functional.smooth_l1_loss(a, b.detach(), reduction="sum") / size)
        assert begin == len(states)
    return sum(terms) / len(streams) / sum(lengths)


def streams_of(model) -> list[torch.Tensor]:
    """Records what step 1 of each layer is given."""
    streams = []
    for layer in model.base_model.encoder.layer:
        layer.register_forward_pre_hook(lambda module, args: streams.append(args[0]))
    return streams


def grads_of(loss: torch.Tensor, model) -> dict[str, torch.Tensor]:
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True), strict=True))


@pytest.mark.parametrize(
    "backend, form", [pytest.param("eager", "dense", marks=pytest.mark.slow), ("sdpa", "dense"), ("sdpa", "blocks")]
)
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_loops_over_tokens(case, backend, form, request, build):
    if form == "blocks":
        request.getfixturevalue("block_form")
    pattern, other, per_block = CASES[case]
    model = build("base", backend, num_representatives_per_block=per_block)
    streams, inputs = streams_of(model), make_inputs(lengths=(43, 20))
    # Padding on both sides, and a row of nothing else.
    inputs = {name: torch.cat([rows.roll(3, 1), torch.zeros_like(rows[:1])]) for name, rows in inputs.items()}
    inputs["attention_mask"][0, :3], inputs["attention_mask"][0, 3:] = 0, 1
    loss = model(**inputs, pattern=pattern, alignment_pattern=other).alignment_loss
    expected = reference_loss(model, streams, pattern, other, (40, 20))
    assert loss > 1e-3
    torch.testing.assert_close(loss, expected, **CLOSE)
    theirs = grads_of(expected, model)
    for name, gradient in grads_of(loss, model).items():
        assert (gradient is None) == (theirs[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, theirs[name], **CLOSE)
    assert theirs["encoder.layer.1.attention.self.value.weight"].abs().max() > 1e-4


@pytest.mark.parametrize("pattern", [OWN, OTHER_PATTERN, SparsePattern(4, hierarchical=False)], ids=str)
def test_a_pattern_is_aligned_with_itself(pattern, either_form, build):
    model = build("base", num_representatives_per_block=2).train()
    loss = model(**make_inputs(), pattern=pattern, alignment_pattern=pattern).alignment_loss
    assert loss == 0
    assert all(gradient is None or (gradient == 0).all() for gradient in grads_of(loss, model).values())


@every_head
def test_every_head_adds_alpha_times_the_alignment_and_changes_nothing_else(name, build):
    model, batch = build(name).train(), make_batch(name)
    plain = model(**batch)
    output = model(**batch, alignment_pattern=OTHER_PATTERN, consistency_alpha=2.5)
    base = {
        key: value.flatten(0, 1) if name == "multiple_choice" else value for key, value in without_labels(batch).items()
    }
    expected = model.base_model(**base, alignment_pattern=OTHER_PATTERN).alignment_loss
    assert output.alignment_loss == expected > 1e-3
    torch.testing.assert_close(output.task_loss, plain.loss, rtol=0, atol=0)
    torch.testing.assert_close(output.loss, plain.loss + 2.5 * expected)
    assert output.consistency_loss is None and plain.alignment_loss is None
    model.eval()
    inputs = without_labels(batch)
    aligned, plain = model(**inputs, alignment_pattern=OTHER_PATTERN), model(**inputs)
    assert aligned.loss is None and aligned.alignment_loss == expected
    for ours, theirs in zip(predictions(HEADS[name], aligned), predictions(HEADS[name], plain), strict=True):
        assert torch.equal(ours, theirs)


def test_parts_of_a_batch_add_up_over_its_tokens(build):
    model, batch = build("token_classification").train(), make_batch("token_classification", lengths=(40, 23, 5))
    settings = {
        "alignment_pattern": OTHER_PATTERN,
        "num_items_in_batch": model.is_labelled(batch).sum(),
        "num_tokens_in_batch": 40 + 23 + 5,
    }
    whole = model(**batch, alignment_pattern=OTHER_PATTERN)
    parts = [model(**{k: v[rows] for k, v in batch.items()}, **settings) for rows in (slice(0, 2), slice(2, 3))]
    for name in ("loss", "task_loss", "alignment_loss"):
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name])


@pytest.mark.parametrize("settings", [{}, {"use_reentrant": True}], ids=["", "reentrant"])
def test_checkpointed_layers_give_the_same(settings, build):
    model, batch, results = build("masked_lm").train(), make_batch("masked_lm"), []
    for is_checkpointed in (False, True):
        if is_checkpointed:
            model.gradient_checkpointing_enable(settings or None)
        model.zero_grad()
        output = model(**batch, alignment_pattern=OTHER_PATTERN)
        output.loss.backward()
        results.append((output.alignment_loss, {k: v.clone() for k, v in gradients(model).items()}))
    (loss, plain), (again, checkpointed) = results
    assert loss == again
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-7)


def test_programs_whose_shapes_do_not_depend_on_padding_give_the_same(block_form, build):
    model, inputs = build("base", num_representatives_per_block=2), make_inputs(lengths=(41, 13))
    for pattern, other, _ in CASES.values():
        plans = {
            name: plan_batch(p, 2, (2, 41), torch.device("cpu"), inputs["attention_mask"], is_static=True)
            for name, p in (("pattern", pattern), ("alignment_pattern", other))
        }
        results = []
        for patterns in (plans, {"pattern": pattern, "alignment_pattern": other}):
            loss = model(**inputs, **patterns).alignment_loss
            results.append((loss, grads_of(loss, model)["encoder.layer.0.attention.self.key.weight"]))
        torch.testing.assert_close(*results, **CLOSE)


def test_documents_of_a_row_are_aligned_as_those_of_rows(build):
    model, ids = build("base"), make_inputs(lengths=(19, 19))["input_ids"]
    rows = model(ids, pattern=OWN, alignment_pattern=OTHER_PATTERN).alignment_loss
    bounds = torch.tensor([0, 19, 38])
    row = model(ids.view(1, -1), pattern=OWN, alignment_pattern=OTHER_PATTERN, cu_seq_lens_q=bounds).alignment_loss
    torch.testing.assert_close(row, rows)


def test_recorded_maps_and_states_are_those_of_the_first_pattern(build):
    model, inputs = build("base", "eager"), make_inputs()
    settings = {"output_attentions": True, "output_hidden_states": True}
    plain, aligned = (model(**inputs, **settings, alignment_pattern=p) for p in (None, OTHER_PATTERN))
    for name in ("attentions", "hidden_states"):
        assert len(aligned[name]) == len(plain[name])
        assert all(torch.equal(*pair) for pair in zip(aligned[name], plain[name], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_summed_in_single(dtype, build):
    model, inputs = build("base"), make_inputs()
    expected = model(**inputs, alignment_pattern=OTHER_PATTERN).alignment_loss
    loss = model.to(dtype)(**inputs, alignment_pattern=OTHER_PATTERN).alignment_loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0)


def test_what_contradicts_is_refused(build):
    model, batch = build("single_label").train(), make_batch("single_label")
    flat = SparsePattern(8, hierarchical=False)
    with pytest.raises(ValueError, match="alignment_pattern is hierarchical and the pattern of the pass is not"):
        model(**batch, pattern=flat, alignment_pattern=OWN)
    with pytest.raises(ValueError, match="two regularisations: give one"):
        model(**batch, consistency_pattern=OWN, alignment_pattern=OWN)
    mask = batch["attention_mask"]
    plans = [plan_batch(OWN, 1, mask.shape, mask.device, mask, is_static=is_static) for is_static in (True, False)]
    for first, second in itertools.permutations(plans):
        with pytest.raises(ValueError, match="plans of different batches"):
            model(**batch, pattern=first, alignment_pattern=second)


@pytest.mark.slow
def test_a_compiled_model_aligns_any_length_and_pattern_as_it_is(build):
    model = build("single_label").train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths, (pattern, other, _) in itertools.product(((40, 23), (61, 61)), [*CASES.values()][:2]):
        batch = make_batch("single_label", lengths=lengths)
        mask, results = batch["attention_mask"], []
        plans = {
            name: plan_batch(p, 1, mask.shape, mask.device, mask, is_static=True)
            for name, p in (("pattern", pattern), ("alignment_pattern", other))
        }
        for each in (compiled, model):
            model.zero_grad()
            output = each(**batch, **plans, consistency_alpha=torch.tensor(2.0))
            output.loss.backward()
            results.append((output.loss.detach(), {k: v.clone() for k, v in gradients(model).items()}))
        (loss, ours), (expected, theirs) = results
        torch.testing.assert_close(loss, expected)
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, **CLOSE)
