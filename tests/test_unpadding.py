# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Dropping padding: the block form, which packs a batch, against the dense reference, which never does."""

import itertools
import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_modeling_ernie_sparse import HEADS, compare_gradients, make_batch, randomise

from ernie_sparse import ErnieSparseConfig, ErnieSparseModel, SparsePattern
from ernie_sparse import block_attention as block_attention_module
from ernie_sparse import hst_attention as hst_attention_module
from ernie_sparse import modeling_ernie_sparse as modeling
from ernie_sparse.sparse_pattern import block_plan
from ernie_sparse.unpadding import LEAST_SHARE, drop_padding

NUM_TOKENS = 75
GRID = [
    SparsePattern(8, window, num_global, num_random, block_shift, hierarchical)
    for window, num_global, num_random, block_shift, hierarchical in itertools.product(
        (1, 3, 5), (0, 1, 3), (0, 2), (0, 5), (True, False)
    )
]
SOME_PATTERNS = [
    SparsePattern(8),
    SparsePattern(8, 1, 0, 2, 5),
    SparsePattern(8, 5, 3, 0, 5, hierarchical=False),
    SparsePattern.full(block_size=8, hierarchical=True),
]
some_patterns = pytest.mark.parametrize("pattern", SOME_PATTERNS, ids=str)
every_head = pytest.mark.parametrize("name", HEADS)


def make_mask(kind: str, num_tokens: int = NUM_TOKENS) -> torch.Tensor:
    """One document's mask; holes are longer than a block."""
    mask = torch.zeros(num_tokens, dtype=torch.long)
    if kind == "right":
        mask[: num_tokens // 3] = 1
    elif kind == "left":
        mask[-num_tokens // 4 :] = 1
    elif kind == "holes":
        mask[[1, 2, num_tokens // 2, num_tokens - 20, num_tokens - 19]] = 1
    elif kind == "short":
        mask[:3] = 1
    elif kind == "full":
        mask[:] = 1
    return mask


BATCHES = {
    "right": ("full", "right", "short"),
    "left": ("left", "full"),
    "holes": ("holes", "holes", "full"),
    "one_empty": ("full", "empty"),
    "one_document": ("right",),
    "all_empty": ("empty", "empty"),
    "all_short": ("short", "short", "short"),
    "one_local_block": ("right", "short", "short"),
    "mixed": ("right", "empty", "left", "holes", "full"),
}
every_batch = pytest.mark.parametrize("batch", BATCHES)


def make_masks(batch: str, num_tokens: int = NUM_TOKENS) -> torch.Tensor:
    masks = torch.stack([make_mask(kind, num_tokens) for kind in BATCHES[batch]])
    if batch == "one_local_block":
        # The first document reaches into its second block.
        masks[0, 12:] = 0
    return masks


def kept_blocks(mask: torch.Tensor, pattern: SparsePattern) -> list[list[int]]:
    """The blocks of each document that are global or hold a real token, in plain Python."""
    kept = []
    for document in mask.tolist():
        real = {(t + pattern.block_shift) // pattern.block_size for t, is_real in enumerate(document) if is_real}
        num_blocks = pattern.num_blocks(len(document))
        kept.append(sorted(real | set(range(min(pattern.num_global_blocks, num_blocks)))))
    return kept


def kept_places(mask: torch.Tensor, pattern: SparsePattern, per_block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which tokens and which representatives lie in kept blocks: `(batch, num_tokens)` and `(batch, N · R)`."""
    num_blocks = pattern.num_blocks(mask.shape[1])
    is_kept = torch.tensor([[k in blocks for k in range(num_blocks)] for blocks in kept_blocks(mask, pattern)])
    token_blocks = [(t + pattern.block_shift) // pattern.block_size for t in range(mask.shape[1])]
    return is_kept[:, token_blocks], is_kept.repeat_interleave(per_block, dim=1)


def is_worth_it(mask: torch.Tensor, pattern: SparsePattern) -> bool:
    num_kept = sum(len(blocks) for blocks in kept_blocks(mask, pattern))
    return 0 < num_kept <= (1 - LEAST_SHARE) * len(mask) * pattern.num_blocks(mask.shape[1])


def build(backend="sdpa", **overrides):
    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 128,
        "block_size": 8,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = ErnieSparseConfig(**{**sizes, **overrides}, attn_implementation=backend)
    return randomise(ErnieSparseModel(config)).eval()


def build_both(**overrides):
    """The same weights under the block form, which packs, and under the dense reference, which does not."""
    packing, eager = (build(backend, **overrides) for backend in ("sdpa", "eager"))
    eager.load_state_dict(packing.state_dict())
    return packing, eager


def make_inputs(mask: torch.Tensor) -> dict:
    return {
        "input_ids": torch.randint(50, mask.shape),
        "token_type_ids": torch.randint(2, mask.shape),
        "attention_mask": mask,
    }


def run(model, inputs, pattern, mask, upstream=None):
    """The outputs in kept blocks, the rest of them, and the parameters' gradients."""
    output = model(**inputs, pattern=pattern)
    per_block = model.config.num_representatives_per_block
    of_tokens, of_representatives = kept_places(mask, pattern, per_block)
    kept, dropped = [output.last_hidden_state[of_tokens]], [output.last_hidden_state[~of_tokens]]
    if pattern.hierarchical:
        kept.append(output.representative_hidden_state[of_representatives])
        dropped.append(output.representative_hidden_state[~of_representatives])
    # The pooler reads the first token.
    kept.append(output.pooler_output[of_tokens[:, 0]])
    model.zero_grad()
    sum((states * torch.linspace(-1, 1, states.numel()).view(states.shape)).sum() for states in kept).backward()
    return kept, dropped, {name: parameter.grad for name, parameter in model.named_parameters()}


def compare(packing, eager, inputs, pattern, context=()):
    mask = inputs["attention_mask"]
    kept, dropped, gradients = run(packing, inputs, pattern, mask)
    expected, _, expected_gradients = run(eager, inputs, pattern, mask)
    for states, reference in zip(kept, expected, strict=True):
        torch.testing.assert_close(
            states, reference, rtol=1e-5, atol=1e-5, msg=lambda text: f"{pattern}, {context}: {text}"
        )
    compare_gradients(gradients, expected_gradients, (pattern, context))
    if is_worth_it(mask, pattern):
        assert all((states == 0).all() for states in dropped), (pattern, context)


def gather_everywhere(monkeypatch):
    """Attention as on other devices than the CPU."""
    for module in (block_attention_module, hst_attention_module):
        monkeypatch.setattr(module, "runs_on_cpu", lambda states: False)


@pytest.mark.parametrize("per_block, is_gathered", [(1, False), (2, False), (1, True)])
def test_packing_changes_nothing_in_kept_blocks(per_block, is_gathered, monkeypatch):
    if is_gathered:
        gather_everywhere(monkeypatch)
    packing, eager = build_both(num_representatives_per_block=per_block)
    # Every value of every field is among every fifth pattern.
    for pattern in GRID[:: 5 if is_gathered else 1]:
        if per_block == 1 or pattern.hierarchical:
            compare(packing, eager, make_inputs(make_masks("mixed")), pattern)


@some_patterns
@every_batch
def test_packing_any_padding(batch, pattern):
    packing, eager = build_both(num_hidden_layers=3, num_representatives_per_block=2)
    for num_tokens in (NUM_TOKENS, 64, 33):
        compare(packing, eager, make_inputs(make_masks(batch, num_tokens)), pattern, num_tokens)


# Without shrinking, which would run models for minutes.
@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data())
def test_packing_random_masks_and_patterns(data):
    block_size = data.draw(st.integers(1, 9))
    pattern = SparsePattern(
        block_size,
        data.draw(st.sampled_from((1, 3, 5))),
        data.draw(st.integers(0, 3)),
        data.draw(st.integers(0, 2)),
        data.draw(st.integers(0, block_size - 1)),
        data.draw(st.booleans()),
        data.draw(st.integers(0, 9)),
    )
    num_tokens, batch_size = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    # Runs of real tokens, so that whole blocks are empty.
    mask = torch.zeros(batch_size, num_tokens, dtype=torch.long)
    for document in mask:
        for _ in range(data.draw(st.integers(0, 2))):
            start = data.draw(st.integers(0, num_tokens - 1))
            document[start : start + data.draw(st.integers(1, 15))] = 1
    torch.manual_seed(0)
    packing, eager = build_both()
    compare(packing, eager, make_inputs(mask), pattern, mask.tolist())


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float])
def test_masks_of_any_dtype_mean_the_same(dtype):
    pattern, mask = SparsePattern(8), make_masks("mixed")
    expected, packed = (
        drop_padding(values, block_plan(pattern, NUM_TOKENS, "cpu")) for values in (mask, (3 * mask).to(dtype))
    )
    assert torch.equal(packed.blocks, expected.blocks)
    assert torch.equal(packed.pack_mask((3 * mask).to(dtype)), expected.pack_mask(mask))


@pytest.mark.parametrize("pattern", [SparsePattern(8, block_shift=5), SparsePattern(8, 1, 0, 2, 3, False)], ids=str)
def test_every_input_is_packed(pattern):
    packing, eager = build_both()
    mask = make_masks("mixed")
    ids, types = torch.randint(50, mask.shape), torch.randint(2, mask.shape)
    embeddings = torch.randn(*mask.shape, 16)
    for position_ids in (None, torch.randperm(128)[:NUM_TOKENS][None], torch.randint(128, mask.shape)):
        for inputs in (
            {"input_ids": ids, "token_type_ids": types},
            {"input_ids": ids},
            {"inputs_embeds": embeddings, "token_type_ids": types},
        ):
            compare(packing, eager, {**inputs, "position_ids": position_ids, "attention_mask": mask}, pattern)


def test_gradients_reach_packed_embeddings():
    packing, eager = build_both()
    mask, pattern = make_masks("mixed"), SparsePattern(8)
    of_tokens, _ = kept_places(mask, pattern, 1)
    embeddings = torch.randn(*mask.shape, 16, requires_grad=True)
    gradients = []
    for model in (packing, eager):
        output = model(inputs_embeds=embeddings, attention_mask=mask, pattern=pattern).last_hidden_state
        gradients.append(torch.autograd.grad(output[of_tokens].sin().sum(), embeddings)[0])
    actual, expected = gradients
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert (actual[~of_tokens] == 0).all() and (actual[mask.bool()] != 0).all()


@pytest.mark.parametrize("per_block", [1, 2])
@some_patterns
@every_batch
def test_linear_layers_see_kept_blocks_alone(batch, pattern, per_block):
    model, mask, rows = build(num_representatives_per_block=per_block), make_masks(batch), []
    model.encoder.layer[0].intermediate.dense.register_forward_hook(
        lambda module, args, output: rows.append(math.prod(args[0].shape[:-1]))
    )
    model(**make_inputs(mask), pattern=pattern)
    per_block = per_block if pattern.hierarchical else 0
    num_kept = sum(len(blocks) for blocks in kept_blocks(mask, pattern))
    unpacked = len(mask) * (NUM_TOKENS + per_block * pattern.num_blocks(NUM_TOKENS))
    assert rows == [num_kept * (8 + per_block) if is_worth_it(mask, pattern) else unpacked]
    everything_is_kept = pattern == SOME_PATTERNS[-1]
    nothing_is_kept = batch == "all_empty" and pattern.num_global_blocks == 0
    assert (rows[0] < unpacked) == (not everything_is_kept and not nothing_is_kept)


@pytest.mark.parametrize("block_shift", [0, 3])
def test_little_padding_is_not_dropped(block_shift):
    # 32 blocks: at least two of them have to go.
    pattern, num_tokens = SparsePattern(4, block_shift=block_shift), 64 - block_shift
    plan = block_plan(pattern, num_tokens, "cpu")
    mask = torch.ones(2, num_tokens, dtype=torch.long)
    assert LEAST_SHARE == 2 / 32
    assert drop_padding(mask, plan) is None
    mask[1, -4:] = 0
    assert drop_padding(mask, plan) is None
    mask[1, -7:] = 0
    assert drop_padding(mask, plan) is None
    mask[1, -8:] = 0
    packed = drop_padding(mask, plan)
    assert len(packed.blocks) == 30
    assert not {30, 31} & set(packed.blocks.tolist())


def test_global_blocks_are_never_dropped():
    plan = block_plan(SparsePattern.full(block_size=8), NUM_TOKENS, "cpu")
    assert drop_padding(torch.zeros(3, NUM_TOKENS), plan) is None


def test_a_batch_of_padding_without_global_blocks_is_not_packed():
    plan = block_plan(SparsePattern(8, num_global_blocks=0), NUM_TOKENS, "cpu")
    assert drop_padding(torch.zeros(3, NUM_TOKENS), plan) is None


@some_patterns
def test_unpacking_is_the_inverse_of_packing(pattern):
    for batch, num_tokens, per_block in itertools.product(BATCHES, (NUM_TOKENS, 33), (1, 2)):
        mask = make_masks(batch, num_tokens)
        packed = drop_padding(mask, block_plan(pattern, num_tokens, "cpu"))
        if packed is None:
            assert not is_worth_it(mask, pattern)
            continue
        of_tokens, of_representatives = kept_places(mask, pattern, per_block)
        tokens = torch.randn(*mask.shape, 3)
        row = packed.pack(tokens)
        assert row.shape == (1, len(packed.blocks) * 8, 3)
        assert torch.equal(packed.unpack(row), tokens.masked_fill(~of_tokens[..., None], 0.0))
        assert torch.equal(packed.unpack(packed.pack(mask)), mask)
        assert packed.pack_mask(mask).sum() == mask.sum()
        assert packed.is_token.sum() == of_tokens.sum()
        num_blocks = pattern.num_blocks(num_tokens)
        representatives = torch.randn(len(mask), num_blocks, per_block, 3)
        row = representatives.flatten(0, 1)[packed.blocks].flatten(0, 1)[None]
        expected = representatives.flatten(1, 2).masked_fill(~of_representatives[..., None], 0.0)
        assert torch.equal(packed.unpack_representatives(row), expected)
        # One row of positions holds for all documents.
        positions = torch.arange(num_tokens)[None]
        assert torch.equal(packed.pack(positions), packed.pack(positions.expand(len(mask), -1)))
        assert packed.pack(None) is None


@pytest.mark.parametrize("asked", [{}, {"output_hidden_states": True}], ids=["", "hidden_states"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_embeddings_of_padding_may_be_anything(backend, poison, asked):
    config, mask = build().config, make_masks("mixed")
    model = ErnieSparseModel._from_config(config, attn_implementation=backend)
    results = []
    for value in (poison, 0.0):
        torch.manual_seed(1)
        embeddings = torch.randn(*mask.shape, 16).masked_fill(mask[..., None] == 0, value).requires_grad_()
        model.zero_grad()
        output = model(inputs_embeds=embeddings, attention_mask=mask, **asked)
        output.last_hidden_state[mask.bool()].sin().sum().backward()
        states = (output.last_hidden_state, output.representative_hidden_state, *(output.hidden_states or ()))
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        results.append([*(state.detach() for state in states), embeddings.grad, *gradients])
    assert len(results[0]) > 10
    for actual, expected in zip(*results, strict=True):
        assert expected.isfinite().all() and torch.equal(actual, expected)


@pytest.mark.parametrize("is_in_config", [False, True])
@some_patterns
def test_captured_states_keep_the_shape_of_the_batch(pattern, is_in_config):
    packing, eager = build_both()
    inputs = make_inputs(make_masks("mixed"))
    of_tokens, _ = kept_places(inputs["attention_mask"], pattern, 1)
    asked = {} if is_in_config else {"output_hidden_states": True}
    for model in (packing, eager):
        model.config.output_hidden_states = is_in_config
    output, expected = (model(**inputs, pattern=pattern, **asked) for model in (packing, eager))
    assert len(output.hidden_states) == 3
    for states, reference in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert states.shape == (5, NUM_TOKENS, 16)
        torch.testing.assert_close(states[of_tokens], reference[of_tokens], rtol=1e-5, atol=1e-5)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)


def test_asking_for_attentions_does_not_pack(monkeypatch):
    model, inputs = build(), make_inputs(make_masks("mixed"))
    calls = count_calls(monkeypatch)
    model(**inputs)
    assert calls == [1]
    asked = model(**inputs, output_attentions=True)
    assert calls == [1]
    is_real = inputs["attention_mask"].bool()
    torch.testing.assert_close(asked.last_hidden_state[is_real], model(**inputs).last_hidden_state[is_real])


def count_calls(monkeypatch) -> list[int]:
    calls = []

    def spy(attention_mask, plan):
        calls.append(1)
        return drop_padding(attention_mask, plan)

    monkeypatch.setattr(modeling, "drop_padding", spy)
    return calls


def test_only_the_block_form_outside_a_compiler_packs(monkeypatch):
    mask = make_masks("mixed")
    inputs = {"input_ids": torch.randint(50, mask.shape), "token_type_ids": torch.randint(2, mask.shape)}
    inputs["attention_mask"] = mask
    packing, eager = build_both(num_hidden_layers=1)
    calls = count_calls(monkeypatch)
    is_real = inputs["attention_mask"].bool()
    expected = eager(**inputs).last_hidden_state[is_real]
    without_mask = {**inputs, "attention_mask": None}
    packing(**without_mask)
    packing.to("meta")(**{name: values.to("meta") for name, values in inputs.items()})
    packing.to_empty(device="cpu").load_state_dict(eager.state_dict())
    compiled = torch.compile(packing, backend="eager")(**inputs)
    exported = torch.export.export(packing, (), inputs, strict=False).module()(**inputs)
    ids, types, mask = inputs.values()

    def hidden_states(ids, types, mask):
        return packing(ids, mask, types, return_dict=False)[0]

    # A tracer takes no weights that need gradients.
    packing.requires_grad_(False)
    traced = torch.jit.trace(hidden_states, (ids, types, mask), check_trace=False)(ids, types, mask)
    assert calls == []
    packed = packing(**inputs).last_hidden_state
    assert calls == [1]
    for states in (compiled.last_hidden_state, exported.last_hidden_state, traced, packed):
        torch.testing.assert_close(states[is_real], expected, rtol=1e-5, atol=1e-5)


def head_results(model, batch, **kwargs):
    model.zero_grad()
    output = model(**batch, **kwargs)
    output.loss.backward()
    return output, {name: parameter.grad for name, parameter in model.named_parameters()}


def predictions(output, head) -> list[torch.Tensor]:
    """What of the head's predictions there is: in training the masked LM may leave them out."""
    found = [output[name] for name in head.outputs if output.get(name) is not None]
    assert found or head is HEADS["masked_lm"]
    return found


def build_head(name, tiny_config, **overrides):
    head = HEADS[name]
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return randomise(head.model(tiny_config(attn_implementation="sdpa", **{**no_dropout, **head.config, **overrides})))


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("consistency", [None, SparsePattern(4, 1, 0, 1, 3)], ids=["one_pass", "two_passes"])
@every_head
def test_heads_do_not_notice(name, consistency, is_training, tiny_config, monkeypatch):
    head, model = HEADS[name], build_head(name, tiny_config).train(is_training)
    batch = make_batch(name, lengths=(60, 9, 30, 3))
    calls = count_calls(monkeypatch)
    packed, gradients = head_results(model, batch, consistency_pattern=consistency)
    assert len(calls) == (1 if consistency is None else 2)
    monkeypatch.setattr(modeling, "drop_padding", lambda *args: None)
    expected, expected_gradients = head_results(model, batch, consistency_pattern=consistency)
    for loss in ("loss", "task_loss", "consistency_loss"):
        if expected.get(loss) is None:
            assert packed.get(loss) is None
        else:
            torch.testing.assert_close(packed[loss], expected[loss], rtol=1e-5, atol=1e-6)
    compare_gradients(gradients, expected_gradients, name)
    is_real = batch["attention_mask"].bool()
    for values, reference in zip(predictions(packed, head), predictions(expected, head), strict=True):
        assert values.shape == reference.shape
        if head.is_per_token and values.shape[:2] == is_real.shape:
            values, reference = values[is_real], reference[is_real]
        torch.testing.assert_close(values, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@every_head
def test_gradient_checkpointing_of_a_packed_batch(name, dropout, tiny_config, monkeypatch):
    model = build_head(name, tiny_config, attention_probs_dropout_prob=dropout, hidden_dropout_prob=dropout).train()
    batch = make_batch(name, lengths=(60, 9, 30, 3))
    calls = count_calls(monkeypatch)
    results = []
    for is_checkpointing in (False, True):
        if is_checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        results.append(head_results(model, batch))
    assert len(calls) == 2
    (expected, expected_gradients), (output, gradients) = results
    assert torch.equal(output.loss, expected.loss)
    compare_gradients(gradients, expected_gradients, name)


@some_patterns
def test_attention_dropout_of_a_packed_batch(pattern):
    model = build(attention_probs_dropout_prob=0.5).train()
    mask = make_masks("mixed")
    inputs = make_inputs(mask)
    of_tokens, _ = kept_places(mask, pattern, 1)

    def step(seed):
        torch.manual_seed(seed)
        model.zero_grad()
        output = model(**inputs, pattern=pattern).last_hidden_state
        output[of_tokens].square().sum().backward()
        assert output.isfinite().all()
        if is_worth_it(mask, pattern):
            assert (output[~of_tokens] == 0).all()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        return [output.detach(), *gradients]

    first, same, other = step(3), step(3), step(4)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert (first[0] != other[0])[of_tokens & mask.bool()].any(dim=-1).all()
