# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A batch is a list of documents: each gives the same answers alone, padded on either side, beside others and behind others."""

import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_block_plan import patterns
from test_modeling_ernie_sparse import HEADS, compare_gradients, make_batch, randomise
from transformers import DataCollatorWithFlattening

from ernie_sparse import ErnieSparseConfig, ErnieSparseForMaskedLM, ErnieSparseModel, SparsePattern
from ernie_sparse import block_attention as block_attention_module
from ernie_sparse import hst_attention as hst_attention_module
from ernie_sparse.block_plan import plan_batch

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SOME_PATTERNS = [
    SparsePattern(8),
    SparsePattern(8, 1, 0, 2, 5),
    SparsePattern(8, 5, 3, 1, 3, hierarchical=False),
    SparsePattern.full(block_size=8, hierarchical=True),
]
some_patterns = pytest.mark.parametrize("pattern", SOME_PATTERNS, ids=str)
every_backend = pytest.mark.parametrize("backend", ["eager", "sdpa"])


def build(backend="sdpa", model_class=ErnieSparseModel, **overrides):
    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 80,
        "block_size": 8,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    config = ErnieSparseConfig(**{**sizes, **overrides}, attn_implementation=backend)
    return randomise(model_class(config)).eval()


def make_documents(sizes) -> list[torch.Tensor]:
    """Ids and types of documents, `(2, size)` each."""
    return [torch.stack([torch.randint(1, 50, (size,)), torch.randint(2, (size,))]) for size in sizes]


def placed(documents: list[torch.Tensor], places: list[list[int]], num_places: int) -> dict:
    """A batch with every document's tokens in the places of its row, and anything on padding."""
    batch = torch.stack(
        [torch.randint(1, 50, (len(documents), num_places)), torch.randint(2, (len(documents), num_places))]
    )
    mask = torch.zeros(len(documents), num_places, dtype=torch.long)
    for row, (document, own) in enumerate(zip(documents, places, strict=True)):
        batch[:, row, own], mask[row, own] = document, 1
    return {"input_ids": batch[0], "token_type_ids": batch[1], "attention_mask": mask}


def alone(model, documents, pattern) -> list:
    return [
        model(document[0][None], token_type_ids=document[1][None], pattern=pattern)
        for document in documents
        if document.shape[1]
    ]


def loss_of(states: torch.Tensor) -> torch.Tensor:
    return (states * torch.linspace(-1, 1, states.numel()).view(states.shape)).sum()


def gradients_of(model, states: list[torch.Tensor]) -> dict:
    model.zero_grad()
    sum(loss_of(part) for part in states).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def compare_with_alone(model, documents, pattern, output, mask):
    """Tokens, representatives and what is pooled of every document, and all gradients."""
    filled = [row for row, document in enumerate(documents) if document.shape[1]]
    expected = alone(model, documents, pattern)
    actual = [output.last_hidden_state[row, mask[row].bool()] for row in filled]
    reference = [single.last_hidden_state[0] for single in expected]
    actual += [output.pooler_output[row] for row in filled]
    reference += [single.pooler_output[0] for single in expected]
    if pattern.hierarchical:
        reference += [single.representative_hidden_state[0] for single in expected]
        summaries = [single.representative_hidden_state.shape[1] for single in expected]
        actual += [
            output.representative_hidden_state[row, :count] for row, count in zip(filled, summaries, strict=True)
        ]
        for row, count in zip(filled, summaries, strict=True):
            assert (output.representative_hidden_state[row, count:] == 0).all()
    assert (output.last_hidden_state[mask == 0] == 0).all()
    for states, others in zip(actual, reference, strict=True):
        torch.testing.assert_close(states, others, **CLOSE, msg=lambda text: f"{pattern}: {text}")
    results = [gradients_of(model, states) for states in (actual, reference)]
    compare_gradients(*results, pattern)


@st.composite
def batches(draw):
    num_places = draw(st.integers(1, 40))
    rows = draw(st.lists(st.sampled_from(("left", "right", "holes", "full", "empty")), min_size=1, max_size=4))
    places = []
    for kind in rows:
        size = {"full": num_places, "empty": 0}.get(kind, draw(st.integers(1, num_places)))
        if kind == "holes":
            places.append(sorted(draw(st.permutations(range(num_places)))[:size]))
        else:
            places.append(list(range(num_places))[num_places - size if kind == "left" else 0 :][:size])
    return num_places, places


# Without shrinking, which would run models for minutes.
@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(pattern=patterns(), batch=batches(), is_gathered=st.booleans())
def test_a_document_is_the_same_wherever_it_stands(pattern, batch, is_gathered):
    num_places, places = batch
    model = build(num_representatives_per_block=2)
    documents = make_documents(map(len, places))
    inputs = placed(documents, places, num_places)
    with pytest.MonkeyPatch.context() as patch:
        if is_gathered:
            for module in (block_attention_module, hst_attention_module):
                patch.setattr(module, "runs_on_cpu", lambda states: False)
        patch.setattr("ernie_sparse.block_plan.MAX_DENSE_LENGTH", 0)
        output = model(**inputs, pattern=pattern)
    if any(places):
        compare_with_alone(model, documents, pattern, output, inputs["attention_mask"])
    else:
        assert (output.last_hidden_state == 0).all()


@every_backend
@some_patterns
@pytest.mark.parametrize(
    "sizes", [(60, 9, 30), *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((11, 11), (1, 60)))]
)
def test_padding_on_either_side_changes_nothing(sizes, pattern, backend):
    model, documents, num_places = build(backend), make_documents(sizes), max(sizes) + 3
    for first in (lambda size: 0, lambda size: num_places - size, lambda size: 2):
        places = [list(range(first(size), first(size) + size)) for size in sizes]
        inputs = placed(documents, places, num_places)
        compare_with_alone(model, documents, pattern, model(**inputs, pattern=pattern), inputs["attention_mask"])


@every_backend
@some_patterns
@pytest.mark.parametrize(
    "sizes", [(33, 20, 7), *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((16, 16), (1, 40)))]
)
def test_several_documents_in_a_row_do_not_see_each_other(sizes, pattern, backend):
    model, documents = build(backend), make_documents(sizes)
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_position_ids=False)
    flat = collate([{"input_ids": document[0].tolist()} for document in documents])
    types = torch.cat([document[1] for document in documents])[None]
    output = model(flat["input_ids"], token_type_ids=types, cu_seq_lens_q=flat["cu_seq_lens_q"], pattern=pattern)
    expected = alone(model, documents, pattern)
    actual = [*output.last_hidden_state[0].split(sizes), *output.pooler_output]
    reference = [
        *(single.last_hidden_state[0] for single in expected),
        *(single.pooler_output[0] for single in expected),
    ]
    for states, others in zip(actual, reference, strict=True):
        torch.testing.assert_close(states, others, **CLOSE)
    compare_gradients(*(gradients_of(model, states) for states in (actual, reference)), pattern)
    # As DataCollatorWithFlattening gives them, positions are the same.
    with_positions = DataCollatorWithFlattening(return_flash_attn_kwargs=True)(
        [{"input_ids": d[0].tolist()} for d in documents]
    )
    again = model(
        flat["input_ids"],
        token_type_ids=types,
        position_ids=with_positions["position_ids"],
        cu_seq_lens_q=flat["cu_seq_lens_q"],
        pattern=pattern,
    )
    assert torch.equal(again.last_hidden_state, output.last_hidden_state)


def test_a_row_of_documents_may_be_longer_than_a_document(tiny_config):
    model, documents = build(), make_documents((80, 80))
    ids = torch.cat([document[0] for document in documents])[None]
    model(ids, cu_seq_lens_q=torch.tensor([0, 80, 160]))
    with pytest.raises(ValueError, match="160 tokens, more than this model's max_position_embeddings=80"):
        model(ids)
    with pytest.raises(ValueError, match=r"cu_seq_lens_q has a document of 81 tokens, more than .*=80"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 79, 160]))
    with pytest.raises(ValueError, match="cu_seq_lens_q has to rise from 0 to 160"):
        model(ids, cu_seq_lens_q=torch.tensor([0, 80]))


def test_the_loss_of_documents_in_a_row_is_that_of_the_documents():
    model, documents = build(model_class=ErnieSparseForMaskedLM).train(), make_documents((33, 20, 7))
    labels = [torch.where(torch.rand(document.shape[1]) < 0.3, document[0], -100) for document in documents]
    flat = DataCollatorWithFlattening(return_flash_attn_kwargs=True, separator_id=-100)(
        [{"input_ids": d[0].tolist(), "labels": own.tolist()} for d, own in zip(documents, labels, strict=True)]
    )
    together = model(**flat)
    flat_labels = flat["labels"][0].split((33, 20, 7))
    num_items = (flat["labels"] != -100).sum()
    apart = sum(
        model(d[0][None], labels=own[None], num_items_in_batch=num_items).loss
        for d, own in zip(documents, flat_labels, strict=True)
    )
    torch.testing.assert_close(together.loss, apart)


@every_backend
def test_linear_layers_see_what_is_real_alone(backend):
    model, seen = build(backend), []
    for layer in model.encoder.layer:
        layer.intermediate.dense.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[0]))
    mask = torch.zeros(3, 60, dtype=torch.long)
    mask[0, :17], mask[1, 50:] = 1, 1
    model(torch.ones(3, 60, dtype=torch.long), mask)
    # 17 tokens in 3 blocks, 10 tokens in 2.
    assert seen == [17 + 3 + 10 + 2] * 3


@pytest.mark.parametrize("asked", [{}, {"output_hidden_states": True}], ids=["", "hidden_states"])
@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e38])
@every_backend
def test_embeddings_of_padding_may_be_anything(backend, poison, asked):
    mask = torch.ones(4, 30, dtype=torch.long)
    mask[0, 20:], mask[1, :9], mask[2, 5:25], mask[3] = 0, 0, 0, 0
    config = build().config
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


def test_embeddings_of_padding_may_be_anything_where_padding_is_in_the_stream():
    model, mask = build(), torch.ones(2, 30, dtype=torch.long)
    mask[1, 9:] = 0
    embeddings = torch.randn(2, 30, 16)
    plan = plan_batch(model.config.pattern, 1, mask.shape, torch.device("cpu"), mask, is_static=True)
    expected = model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    embeddings = embeddings.masked_fill(mask[..., None] == 0, math.nan)
    output = model(inputs_embeds=embeddings, attention_mask=mask, pattern=plan)
    torch.testing.assert_close(output.last_hidden_state, expected, **CLOSE)


@some_patterns
def test_what_is_pooled_is_the_first_token(pattern):
    model, (document,) = build(), make_documents((30,))
    output = model(document[0][None], pattern=pattern)
    torch.testing.assert_close(output.pooler_output, model.pooler(output.last_hidden_state[:, 0]))


@every_backend
@some_patterns
def test_recorded_states_have_the_shape_of_the_batch_and_lie_on_the_way(pattern, backend):
    model, sizes = build(backend), (30, 8, 17)
    documents = make_documents(sizes)
    inputs = placed(documents, [list(range(33 - size, 33)) for size in sizes], 33)
    output, plain = model(**inputs, pattern=pattern, output_hidden_states=True), model(**inputs, pattern=pattern)
    torch.testing.assert_close(output.last_hidden_state, plain.last_hidden_state)
    assert len(output.hidden_states) == 4
    for row, single in enumerate(documents):
        expected = model(single[0][None], token_type_ids=single[1][None], pattern=pattern, output_hidden_states=True)
        for states, others in zip(output.hidden_states, expected.hidden_states, strict=True):
            assert states.shape == (3, 33, 16)
            torch.testing.assert_close(states[row, 33 - sizes[row] :], others[0], **CLOSE)
            assert (states[row, : 33 - sizes[row]] == 0).all()
    for states in output.hidden_states:
        states.retain_grad()
    output.hidden_states[-1].sum().backward()
    assert all(states.grad is not None and states.grad.any() for states in output.hidden_states[:-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", [pytest.param(p, marks=[pytest.mark.slow] * (p != SOME_PATTERNS[1])) for p in SOME_PATTERNS], ids=str
)
def test_programs_whose_shapes_do_not_depend_on_padding_give_the_same(pattern):
    model = build(num_hidden_layers=2)
    model.config.pattern = pattern
    sizes = (30, 8, 17)
    inputs = placed(make_documents(sizes), [list(range(30 - size, 30)) for size in sizes], 30)
    is_real = inputs["attention_mask"].bool()
    expected = model(**inputs).last_hidden_state.detach()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)(**inputs).last_hidden_state
    exported = torch.export.export(model, (), inputs, strict=False).module()(**inputs).last_hidden_state
    # A tracer takes no weights that need gradients.
    model.requires_grad_(False)
    arguments = tuple(inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    call = lambda ids, mask, types: model(ids, mask, types, return_dict=False)[0]  # noqa: E731
    traced = torch.jit.trace(call, arguments, check_trace=False)(*arguments)
    for states in (compiled, exported, traced):
        torch.testing.assert_close(states, expected, **CLOSE)
        assert (states[~is_real] == 0).all()
    assert model.to("meta")(**{name: values.to("meta") for name, values in inputs.items()}).last_hidden_state.is_meta


def head_results(model, batch, **kwargs):
    model.zero_grad()
    output = model(**batch, **kwargs)
    output.loss.backward()
    return output, {name: parameter.grad for name, parameter in model.named_parameters()}


def build_head(name, tiny_config, backend="sdpa", **overrides):
    head = HEADS[name]
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return randomise(head.model(tiny_config(attn_implementation=backend, **{**no_dropout, **head.config, **overrides})))


@pytest.mark.parametrize("is_training", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("consistency", [None, SparsePattern(4, 1, 0, 1, 3)], ids=["one_pass", "two_passes"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_give_the_reference_of_a_padded_batch(name, consistency, is_training, tiny_config):
    head, model = HEADS[name], build_head(name, tiny_config).train(is_training)
    reference = build_head(name, tiny_config, "eager").train(is_training)
    reference.load_state_dict(model.state_dict())
    batch = make_batch(name, lengths=(60, 9, 30, 3))
    (output, gradients), (expected, expected_gradients) = (
        head_results(each, batch, consistency_pattern=consistency) for each in (model, reference)
    )
    for loss in ("loss", "task_loss", "consistency_loss"):
        if expected.get(loss) is None:
            assert output.get(loss) is None
        else:
            torch.testing.assert_close(output[loss], expected[loss], rtol=1e-5, atol=1e-6)
    compare_gradients(gradients, expected_gradients, name)
    found = [key for key in head.outputs if output.get(key) is not None]
    assert found or head is HEADS["masked_lm"]
    for key in found:
        torch.testing.assert_close(output[key], expected[key], **CLOSE)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", HEADS)
def test_gradient_checkpointing_of_a_padded_batch(name, dropout, tiny_config):
    model = build_head(name, tiny_config, attention_probs_dropout_prob=dropout, hidden_dropout_prob=dropout).train()
    batch, results = make_batch(name, lengths=(60, 9, 30, 3)), []
    for is_checkpointing in (False, True):
        if is_checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        results.append(head_results(model, batch))
    (expected, expected_gradients), (output, gradients) = results
    assert torch.equal(output.loss, expected.loss)
    compare_gradients(gradients, expected_gradients, name)


@some_patterns
def test_attention_dropout_of_a_padded_batch(pattern):
    model = build(attention_probs_dropout_prob=0.5).train()
    inputs = placed(make_documents((30, 8, 17)), [list(range(size)) for size in (30, 8, 17)], 33)
    is_real = inputs["attention_mask"].bool()

    def step(seed):
        torch.manual_seed(seed)
        model.zero_grad()
        output = model(**inputs, pattern=pattern).last_hidden_state
        output[is_real].square().sum().backward()
        assert output.isfinite().all() and (output[~is_real] == 0).all()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        return [output.detach(), *gradients]

    first, same, other = step(3), step(3), step(4)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert (first[0] != other[0])[is_real].any(dim=-1).all()
