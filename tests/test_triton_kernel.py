# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The kernels beside the dense reference: on a CPU by Triton's interpreter, on a GPU compiled."""

import os
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
import triton
import triton.language as tl
from distributed_training import CHECKPOINTING

from ernie_sparse import ErnieSparseForMaskedLM, SparsePattern, block_kernel, block_plan
from ernie_sparse.block_kernel import KernelTables, _kept, kernel_block_attention, plain_block_attention
from ernie_sparse.block_plan import BlockPlan, plan_batch
from ernie_sparse.hst_attention import eager_hst_attention

# Where there is a GPU kernels are compiled, and then nothing interprets them.
INTERPRETED = ["cpu"] if os.environ.get("TRITON_INTERPRET") == "1" else []
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), *INTERPRETED]
# Two of a batch that is half padding, and three documents in two rows.
PADDING = torch.tensor([[1] * 33 + [0] * 15, [0] * 29 + [1] * 19])
BOUNDS = torch.tensor([0, 48, 67, 96], dtype=torch.int32)


class Case(NamedTuple):
    """
    What the kernels are given.

    Args:
        part (`int`): Positions after which a document is divided for a global block.
    """

    pattern: SparsePattern = SparsePattern(block_size=16)
    num_representatives: int = 1
    shape: tuple[int, int] = (1, 60)
    attention_mask: torch.Tensor | None = None
    cu_seq_lens: torch.Tensor | None = None
    is_static: bool = False
    head_dim: int = 16
    num_heads: int = 1
    dtype: torch.dtype = torch.float16
    part: int = 1024

    def plan(self, device: str) -> BlockPlan:
        masks = (None if mask is None else mask.to(device) for mask in (self.attention_mask, self.cu_seq_lens))
        plan = plan_batch(
            self.pattern, self.num_representatives, self.shape, torch.device(device), *masks, self.is_static
        )
        most = int(plan.block_bounds[plan.document_bounds].diff().max())
        return plan._replace(tables=KernelTables.of(plan, most), visible=None)


def blocks(size: int = 16, **fields) -> SparsePattern:
    return SparsePattern(block_size=size, **fields)


CASES = {
    "default": Case(dtype=torch.float32),
    "last-block-short": Case(shape=(1, 70)),
    "one-block": Case(shape=(1, 9)),
    "block-of-no-power-of-two": Case(blocks(20, block_shift=7)),
    "block-of-two-tiles": Case(blocks(70), shape=(1, 150)),
    "wide-window": Case(blocks(num_window_blocks=5, num_global_blocks=0), shape=(1, 100)),
    "window-of-one": Case(blocks(num_window_blocks=1)),
    "shift": Case(blocks(block_shift=15)),
    "no-global-block": Case(blocks(num_global_blocks=0)),
    "two-global-blocks": Case(blocks(num_global_blocks=2), shape=(1, 80)),
    "all-global": Case(SparsePattern.full(16, hierarchical=True), part=32),
    "parts": Case(shape=(1, 70), part=32),
    "parts-of-documents": Case(blocks(num_global_blocks=2), 3, (2, 48), PADDING, part=16),
    "random": Case(blocks(num_global_blocks=0, num_random_blocks=2, num_window_blocks=1), shape=(1, 100)),
    "random-of-many-representatives": Case(blocks(num_random_blocks=1), 3, shape=(1, 90)),
    "flat": Case(blocks(hierarchical=False)),
    "flat-random": Case(blocks(hierarchical=False, num_random_blocks=1, block_shift=3), shape=(1, 90)),
    "representatives": Case(num_representatives=3),
    "sixteen-representatives": Case(num_representatives=16, shape=(1, 40)),
    "batch": Case(shape=(2, 48)),
    "padding": Case(shape=(2, 48), attention_mask=PADDING),
    "padding-in-the-stream": Case(blocks(num_random_blocks=1), 1, (2, 48), PADDING, is_static=True, part=32),
    "row-of-padding": Case(shape=(2, 48), attention_mask=PADDING * torch.tensor([[1], [0]]), is_static=True),
    "documents-in-a-row": Case(shape=(2, 48), cu_seq_lens=BOUNDS),
    "head-of-24": Case(head_dim=24),
    "head-of-80": Case(head_dim=80, shape=(1, 40)),
    "head-of-80-in-single-precision": Case(head_dim=80, shape=(1, 20), dtype=torch.float32),
    "half-precision": Case(num_heads=2),
    "single-precision": Case(blocks(num_random_blocks=1), shape=(1, 80), dtype=torch.float32, part=32),
    "single-precision-of-padding": Case(shape=(2, 48), attention_mask=PADDING, dtype=torch.float32, is_static=True),
}
# What its neighbours nearly say.
SLOW = (
    *("batch", "wide-window", "window-of-one", "last-block-short", "two-global-blocks", "half-precision", "shift"),
    *("random-of-many-representatives", "single-precision-of-padding", "head-of-80-in-single-precision"),
    *("no-global-block", "all-global", "representatives", "padding", "block-of-two-tiles", "flat-random", "head-of-24"),
    *("block-of-no-power-of-two", "one-block", "parts", "sixteen-representatives"),
)


def states(case: Case, plan: BlockPlan, device: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Query, key and value, and the gradient of the output: of padding there is none."""
    shape = (plan.position_blocks.shape[0], case.num_heads, case.head_dim)
    *inputs, upstream = (torch.randn(shape, device=device).to(case.dtype) for _ in range(4))
    return inputs, upstream if plan.is_real is None else upstream * plan.is_real[:, None, None]


def outcome(attention, inputs: list[torch.Tensor], upstream: torch.Tensor, is_real: torch.Tensor | None):
    """The output where something real stands, and the gradients."""
    leaves = [part.detach().clone().requires_grad_() for part in inputs]
    output = attention(*leaves)
    gradients = torch.autograd.grad(output, leaves, upstream.to(output.dtype))
    return output.detach() if is_real is None else output.detach()[is_real], *gradients


def wide(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [part.double() for part in inputs]


def assert_same(found, expected, dtype: torch.dtype):
    tolerance = {torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_triton_outputs_and_gradients_are_those_of_the_dense_reference(name, device, monkeypatch):
    case = CASES[name]
    monkeypatch.setattr(block_kernel, "PART", case.part)
    plan = case.plan(device)
    inputs, upstream = states(case, plan, device)
    scaling = case.head_dim**-0.5
    found = outcome(lambda *parts: kernel_block_attention(*parts, plan, scaling), inputs, upstream, plan.is_real)
    module = torch.nn.Module().eval()
    dense = lambda *parts: eager_hst_attention(module, *parts, plan, scaling=scaling)[0]  # noqa: E731
    assert_same(found, outcome(dense, wide(inputs), upstream, plan.is_real), case.dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["default", "random", "padding-in-the-stream"])
def test_triton_tables_read_plainly_give_the_dense_reference(name, device):
    case = CASES[name]
    plan = case.plan(device)
    inputs, _ = states(case, plan, device)
    found = plain_block_attention(*wide(inputs), plan, 0.25)
    expected, _ = eager_hst_attention(torch.nn.Module().eval(), *wide(inputs), plan, scaling=0.25)
    is_real = slice(None) if plan.is_real is None else plan.is_real
    torch.testing.assert_close(found[is_real], expected[is_real])


@triton.jit
def every_weight(output, seed, length, dropout, LENGTH: tl.constexpr):
    head, place = tl.program_id(0), tl.arange(0, LENGTH)
    kept = _kept(place[:, None], place[None, :], head, dropout, tl.load(seed))
    pointers = output + head * length * length + place[:, None] * length + place[None, :]
    tl.store(pointers, kept, mask=(place < length)[:, None] & (place < length)[None, :])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name",
    ["one-block", *(pytest.param(name, marks=pytest.mark.slow) for name in ("parts", "random", "representatives"))],
)
def test_triton_dropout_is_the_same_in_both_directions_and_keeps_the_mean(name, device, monkeypatch):
    case = CASES[name]._replace(num_heads=2)
    monkeypatch.setattr(block_kernel, "PART", case.part)
    plan = case.plan(device)
    inputs, upstream = states(case, plan, device)
    length, seed = inputs[0].shape[0], torch.tensor([2**61 + 7], device=device)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: seed)
    kept = torch.empty(2, length, length, device=device)
    every_weight[(2,)](kept, seed, length, 0.3, LENGTH=triton.next_power_of_2(length))
    found = outcome(lambda *parts: kernel_block_attention(*parts, plan, 0.25, 0.3), inputs, upstream, None)
    plain = lambda *parts: plain_block_attention(*parts, plan, 0.25, kept.double())  # noqa: E731
    assert_same(found, outcome(plain, wide(inputs), upstream, None), case.dtype)
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    # Within three standard errors of what chance gives.
    margin = 3 * 0.5 / length
    assert float((kept == 0).float().mean()) == pytest.approx(0.3, abs=margin)
    assert float((kept[0] == kept[1]).float().mean()) == pytest.approx(0.7**2 + 0.3**2, abs=margin)


def test_triton_dropout_draws_its_seed_from_the_generator_of_torch(monkeypatch):
    seeds = []
    monkeypatch.setattr(block_kernel, "_attend", lambda *args: seeds.append(args[4].item()) or [args[0]])
    plan = CASES["one-block"].plan("cpu")
    inputs, _ = states(CASES["one-block"], plan, "cpu")
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        kernel_block_attention(*inputs, plan, 0.25, 0.5)
    assert seeds[0] == seeds[1] != seeds[2] and max(seeds) > 2**32


@pytest.mark.parametrize("device", DEVICES)
def test_triton_model_under_sdpa_is_that_of_the_dense_reference(device, tiny_config, monkeypatch):
    """Padding, gradient checkpointing and parts; where there is a GPU, `sdpa` takes the kernels by itself."""
    monkeypatch.setattr(block_plan, "runs_on", lambda *args: True)
    monkeypatch.setattr(block_kernel, "PART", 32)
    taken = []
    attend = block_kernel._attend
    monkeypatch.setattr(block_kernel, "_attend", lambda *args: taken.append(len(args)) or attend(*args))
    model = (
        ErnieSparseForMaskedLM(
            tiny_config(block_size=16, num_attention_heads=1, num_hidden_layers=1, hidden_dropout_prob=0.0)
        )
        .to(device)
        .train()
    )
    getattr(model, f"{CHECKPOINTING}_enable")()
    input_ids = torch.randint(5, 99, (2, 50), device=device)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 20:] = 0

    def outcome_of(implementation: str) -> list[torch.Tensor]:
        model.set_attn_implementation(implementation)
        model.zero_grad()
        loss = model(input_ids, attention_mask, labels=input_ids.masked_fill(attention_mask == 0, -100)).loss
        loss.backward()
        return [loss.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]

    expected = outcome_of("eager")
    assert not taken
    found = outcome_of("sdpa")
    # Once more in the backward pass.
    assert len(taken) == 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_triton_is_taken_where_it_can_compute(monkeypatch):
    plan = CASES["default"].plan("cpu")
    query = torch.randn(plan.position_blocks.shape[0], 1, 16)
    assert block_kernel.can_take(query, plan)
    assert not block_kernel.can_take(query.double(), plan) and not block_kernel.can_take(query[..., :8], plan)
    assert not block_kernel.can_take(query.repeat(1, 1, 9), plan)
    assert not block_kernel.can_take(query, plan._replace(tables=None))
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert block_kernel.runs_on(gpu, 16, 16) and not block_kernel.runs_on(cpu, 64, 1)
    assert not block_kernel.runs_on(gpu, 15, 1) and not block_kernel.runs_on(gpu, 64, 17)
    monkeypatch.setattr(block_kernel, "triton", None)
    assert not block_kernel.runs_on(gpu, 64, 1)


@pytest.mark.slow
def test_triton_is_not_needed_to_import_the_model():
    code = (
        "import sys; sys.modules['triton'] = None; import torch\n"
        "from ernie_sparse import ErnieSparseConfig, ErnieSparseModel\n"
        "model = ErnieSparseModel(ErnieSparseConfig(hidden_size=32, num_attention_heads=2, num_hidden_layers=1))\n"
        "model(torch.ones(1, 700, dtype=torch.long)).last_hidden_state.sum().backward()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
