# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Compiled and exported models against the model as it is, at lengths and patterns they were not made with."""

import dataclasses
import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from test_modeling_ernie_sparse import (
    HEADS,
    compare_gradients,
    gradients,
    make_batch,
    make_labels,
    randomise,
    without_labels,
)

from ernie_sparse import (
    ErnieSparseForMaskedLM,
    ErnieSparseForSequenceClassification,
    ErnieSparseModel,
    SparsePattern,
)
from ernie_sparse.block_plan import plan_batch

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
DYNAMIC = torch.export.Dim.DYNAMIC
# Multiples of the block size 8 and others, down to three blocks.
LENGTHS = (128, 71, 33, 17)
PATTERNS = {
    "plain": SparsePattern(8),
    "shifted": SparsePattern(8, block_shift=3),
    "random_and_shifted": SparsePattern(8, 3, 1, 2, 5, seed=3),
    "flat": SparsePattern(8, 3, 0, hierarchical=False),
}
HALF = [torch.bfloat16, torch.float16]


@pytest.fixture
def build(tiny_config):
    """Builds a model in eval mode, all parameters random and no dropout."""

    def build_model(model: type, pattern=PATTERNS["plain"], **overrides):
        sizes = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
        return randomise(model(tiny_config(**{**sizes, **dataclasses.asdict(pattern), **overrides}))).eval()

    return build_model


def make_inputs(batch_size: int, num_tokens: int) -> dict:
    """The last document is padded on the right to half its length."""
    mask = torch.ones(batch_size, num_tokens, dtype=torch.long)
    mask[-1, (num_tokens + 1) // 2 :] = 0
    return {"input_ids": torch.randint(1, 99, mask.shape), "attention_mask": mask}


every_pattern = pytest.mark.parametrize("pattern", [PATTERNS[n] for n in PATTERNS if n != "shifted"], ids=str)


def exported(model):
    sizes = {0: DYNAMIC, 1: DYNAMIC}
    shapes = {"input_ids": sizes, "attention_mask": sizes}
    return torch.export.export(model, (), make_inputs(2, 100), dynamic_shapes=shapes, strict=False).module()


@pytest.mark.slow
@every_pattern
def test_an_exported_head_takes_any_batch_and_length(pattern, build):
    model = build(ErnieSparseForSequenceClassification, pattern)
    program = exported(model)
    for batch_size, num_tokens in itertools.product((1, 3), LENGTHS):
        inputs = make_inputs(batch_size, num_tokens)
        torch.testing.assert_close(program(**inputs).logits, model(**inputs).logits, **CLOSE)


@pytest.mark.slow
def test_an_exported_base_model_returns_all_states_for_any_batch_and_length(build):
    model = build(ErnieSparseModel, PATTERNS["random_and_shifted"])
    program = exported(model)
    for batch_size, num_tokens in itertools.product((1, 3), LENGTHS):
        inputs = make_inputs(batch_size, num_tokens)
        output, expected = program(**inputs), model(**inputs)
        is_real = inputs["attention_mask"].bool()
        torch.testing.assert_close(output.last_hidden_state[is_real], expected.last_hidden_state[is_real], **CLOSE)
        torch.testing.assert_close(output.pooler_output, expected.pooler_output, **CLOSE)
        is_kept = (expected.representative_hidden_state != 0).any(-1)
        assert is_kept.sum() > batch_size
        actual, reference = (states.representative_hidden_state[is_kept] for states in (output, expected))
        torch.testing.assert_close(actual, reference, **CLOSE)


def compiled(model, **kwargs):
    # Programs of earlier tests would count against the limit on recompilations.
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, dynamic=True, **kwargs)


def static_plan(pattern, inputs):
    shape, mask = inputs["input_ids"].shape, inputs["attention_mask"]
    return plan_batch(pattern, 1, shape, torch.device("cpu"), mask, is_static=True)


def compare_with_plans(program, model, pattern, batch_size, num_tokens, has_mask):
    inputs = make_inputs(batch_size, num_tokens)
    is_real = inputs["attention_mask"].bool()
    if not has_mask:
        inputs["attention_mask"] = None
    plan = static_plan(pattern, inputs)
    with torch.no_grad():
        actual = program(**inputs, pattern=plan).last_hidden_state[is_real]
        expected = model(**inputs, pattern=pattern).last_hidden_state[is_real]
    torch.testing.assert_close(actual, expected, **CLOSE, msg=lambda text: f"{pattern}, {num_tokens}: {text}")


FIRST = (SparsePattern(8), SparsePattern(8, num_global_blocks=3, hierarchical=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    "first, has_mask",
    [
        (FIRST[1], False),
        pytest.param(FIRST[0], True, marks=pytest.mark.slow),
        pytest.param(FIRST[0], False, marks=pytest.mark.slow),
        pytest.param(FIRST[1], True, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_one_program_for_every_length_and_pattern(first, has_mask, build):
    model = build(ErnieSparseModel, num_hidden_layers=1)
    program = compiled(model, backend="eager")
    compare_with_plans(program, model, first, 2, 100, has_mask)
    others = {
        "num_window_blocks": (5, 1, 7),
        "num_random_blocks": (1, 3),
        "block_shift": (1, 3, 7),
        "block_size": (4, 16, 5),
        "seed": (9,),
    }
    patterns = [dataclasses.replace(first, **{name: value}) for name, values in others.items() for value in values]
    patterns.append(SparsePattern(6, 5, first.num_global_blocks, 2, 1, first.hierarchical, seed=3))
    full = SparsePattern.full(8, first.hierarchical)
    with torch._dynamo.config.patch(error_on_recompile=True):
        # Lengths that fill their blocks and others.
        for num_tokens in (128, 71, 99, 64):
            compare_with_plans(program, model, first, 2, num_tokens, has_mask)
        for batch_size in (3, 5):
            compare_with_plans(program, model, first, batch_size, 100, has_mask)
        for pattern in patterns:
            compare_with_plans(program, model, pattern, 2, 100, has_mask)
        compare_with_plans(program, model, patterns[-1], 4, 87, has_mask)
        with pytest.raises(torch._dynamo.exc.RecompileError):
            compare_with_plans(program, model, full, 2, 100, has_mask)
    # What sees everything is compiled anew.
    compare_with_plans(program, model, full, 2, 100, has_mask)


@pytest.mark.slow
def test_a_pattern_itself_compiles_as_well(build):
    model = build(ErnieSparseModel, PATTERNS["shifted"], num_hidden_layers=1)
    program = compiled(model, backend="eager")
    for num_tokens in (100, 71):
        inputs = make_inputs(2, num_tokens)
        is_real = inputs["attention_mask"].bool()
        with torch.no_grad():
            actual, expected = (call(**inputs).last_hidden_state[is_real] for call in (program, model))
        torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_plan_for_another_length_is_refused(is_compiled, build):
    model = build(ErnieSparseModel, num_hidden_layers=1)
    program = compiled(model, backend="eager") if is_compiled else model
    plan = static_plan(PATTERNS["plain"], make_inputs(2, 40))
    inputs = make_inputs(2, 48)
    with pytest.raises(
        (ValueError, torch._dynamo.exc.Unsupported) if is_compiled else ValueError,
        match="the plan is for 40 tokens, but the input has 48",
    ):
        program(**inputs, pattern=plan)


@pytest.mark.slow
@every_pattern
def test_onnx(pattern, build, tmp_path):
    model = build(ErnieSparseForSequenceClassification, pattern)
    file = tmp_path / "model.onnx"
    sizes = {0: DYNAMIC, 1: DYNAMIC}
    inputs = make_inputs(2, 100)
    torch.onnx.export(
        model,
        tuple(inputs.values()),
        file,
        dynamo=True,
        input_names=list(inputs),
        output_names=["logits"],
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file)
    for batch_size, num_tokens in ((2, 100), (1, 128), (3, 64), (3, 71), (2, 33), (1, 49)):
        inputs = make_inputs(batch_size, num_tokens)
        (logits,) = session.run(None, {name: values.numpy() for name, values in inputs.items()})
        np.testing.assert_allclose(logits, model(**inputs).logits.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked_lm", "single_label"])
def test_compiled_inference(name, build):
    head = HEADS[name]
    model = build(head.model, num_hidden_layers=1)
    program = compiled(model)
    with torch.no_grad():
        for pattern, batch_size, num_tokens in (
            (PATTERNS["plain"], 2, 100),
            (PATTERNS["plain"], 3, 71),
            (PATTERNS["random_and_shifted"], 2, 128),
        ):
            inputs = make_inputs(batch_size, num_tokens)
            actual = program(**inputs, pattern=static_plan(pattern, inputs)).logits
            expected = model(**inputs, pattern=pattern).logits
            if head.is_per_token:
                actual, expected = (logits[inputs["attention_mask"].bool()] for logits in (actual, expected))
            torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("model", [ErnieSparseForSequenceClassification, ErnieSparseForMaskedLM])
def test_compiled_training_step(model, build):
    name = "masked_lm" if model is ErnieSparseForMaskedLM else "single_label"
    model = build(model, num_hidden_layers=1).train()
    program = compiled(model)
    for pattern, lengths in ((PATTERNS["plain"], (100, 51)), (PATTERNS["random_and_shifted"], (71, 30, 9))):
        batch = make_batch(name, lengths=lengths)
        losses, results = [], []
        for call in (program, model):
            model.zero_grad()
            loss = call(**batch, pattern=static_plan(pattern, batch)).loss
            loss.backward()
            losses.append(loss.detach())
            results.append(gradients(model))
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
        compare_gradients(*results)


PADDINGS = {
    "right": lambda mask: mask[:, :, 23:].zero_(),
    "left": lambda mask: mask[:, :, :-9].zero_(),
    "holes": lambda mask: mask[:, :, 3:27].zero_(),
    "all": lambda mask: mask.zero_(),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", HEADS)
def test_half_precision_is_finite_under_every_padding(name, padding, attn_implementation, dtype, tiny_config):
    head = HEADS[name]
    model = head.model(tiny_config(attn_implementation=attn_implementation, **head.config)).to(dtype).train()
    inputs = without_labels(make_batch(name, lengths=(40, 40)))
    # Every document, and then the first alone.
    for documents in (slice(None), slice(1)):
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
        mask = inputs["attention_mask"][documents]
        PADDINGS[padding](mask if mask.dim() == 3 else mask[:, None])
        batch = {**inputs, **make_labels(name, inputs)}
        if name == "question_answering":
            batch["start_positions"] = batch["end_positions"] = inputs["attention_mask"].argmax(dim=1)
        patterns = (PATTERNS["plain"], PATTERNS["random_and_shifted"], SparsePattern(8, 1, 0, 0, 3, hierarchical=False))
        for pattern in patterns:
            model.zero_grad()
            output = model(**batch, pattern=pattern)
            output.loss.backward()
            assert output.loss.isfinite(), pattern
            found = [output[prediction] for prediction in head.outputs if output.get(prediction) is not None]
            assert found or name == "masked_lm"
            assert all(values.isfinite().all() for values in found), pattern
            for parameter_name, parameter in model.named_parameters():
                assert parameter.grad is None or parameter.grad.isfinite().all(), (parameter_name, pattern)
