# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python -m benchmarks.kernel_resources`: the GPU kernels compiled to machine code for cards that need not be here, as they are
launched for each variant of their input: registers, spilled bytes, shared memory and products on tensor cores.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import triton
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ernie_sparse import SparsePattern, block_kernel
from ernie_sparse.block_kernel import KernelTables
from ernie_sparse.block_plan import plan_batch
from ernie_sparse.cli import run_command
from ernie_sparse.command_line import ArgumentParser
from ernie_sparse.files import check_folder
from ernie_sparse.results import Record, print_table, write_json

PROG = "python -m benchmarks.kernel_resources"
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {
    **{torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"},
    **{torch.int32: "i32", torch.int64: "i64"},
}
# What a block of threads may have on the card: Ampere (A100) and Hopper (H100, H200).
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}


class Variant(NamedTuple):
    """What of an input decides on the machine code."""

    dtype: torch.dtype = torch.bfloat16
    head_dim: int = 64
    block_size: int = 64
    has_all: bool = False
    has_tf32: bool = False

    def __str__(self) -> str:
        words = ["tf32" if self.has_tf32 else TYPES[self.dtype], f"head {self.head_dim}", f"block {self.block_size}"]
        return ", ".join([*words, *(["random blocks, dropout"] if self.has_all else [])])


VARIANTS = (
    *(Variant(has_all=has_all, head_dim=size) for size in (64, 128) for has_all in (False, True)),
    *(Variant(block_size=size) for size in (16, 32, 128)),
    *(Variant(head_dim=size, has_all=True) for size in (16, 32, 80)),
    Variant(torch.float16, has_all=True),
    *(Variant(torch.float32, size, has_tf32=fast) for size in (32, 64, 128) for fast in (False, True)),
    *(Variant(torch.float32, 64, has_all=True, has_tf32=fast) for fast in (False, True)),
)


class Launch(NamedTuple):
    kernel: triton.JITFunction
    args: tuple
    kwargs: dict


def launches(variant: Variant) -> list[Launch]:
    """All that a forward and a backward pass start."""
    found = []

    def recorded(kernel: triton.JITFunction):
        start = mock.MagicMock()
        start.__getitem__.side_effect = lambda grid: lambda *args, **kwargs: found.append(Launch(kernel, args, kwargs))
        return start

    pattern = SparsePattern(block_size=variant.block_size, num_random_blocks=int(variant.has_all))
    plan = plan_batch(pattern, 1, (1, 4096), torch.device("cpu"))
    tables = list(KernelTables.of(plan, plan.position_blocks.shape[0]))
    query = torch.empty(plan.position_blocks.shape[0], 12, variant.head_dim, dtype=variant.dtype)
    seed = torch.zeros(1, dtype=torch.int64) if variant.has_all else None
    numbers = (tables, seed, 0.125, 0.1 * variant.has_all, 1)
    with mock.patch.object(block_kernel, "wrap_triton", recorded):
        output, norms = block_kernel._attend(query, query, query, *numbers)
        block_kernel._attend_backward(query, query, query, output, norms, query, *numbers)
    return found


def resources(launch: Launch, variant: Variant, capability: int) -> dict:
    """Of one kernel's machine code."""
    names = [parameter.name for parameter in launch.kernel.params]
    values = dict(zip(names, launch.args, strict=False)) | {k: v for k, v in launch.kwargs.items() if k in names}
    if variant.has_tf32 and "PRECISION" in values:
        values["PRECISION"] = "tf32"
    signature, constants, aligned = {}, {}, {}
    for number, name in enumerate(names):
        value = values[name]
        if launch.kernel.params[number].is_constexpr:
            signature[name], constants[(number,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], aligned[(number,)] = f"*{TYPES[value.dtype]}", [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    options = {name: launch.kwargs[name] for name in ("num_warps", "num_stages") if name in launch.kwargs}
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage).groups()
    return {
        "kernel": launch.kernel.__name__.strip("_").removesuffix("_kernel"),
        "variant": str(variant),
        "capability": capability,
        "warps": options.get("num_warps", 4),
        "registers": int(registers),
        "spilled_bytes": int(stack) + int(local),
        "shared_memory": compiled.metadata.shared,
        "warpgroup_products": compiled.asm["ptx"].count("wgmma.mma_async"),
        "warp_products": compiled.asm["ptx"].count("mma.sync"),
    }


def variant_resources(variant: Variant, tick: Callable[[], object] = lambda: None) -> list[dict]:
    """Of every kernel, once each, for every card."""
    rows, seen = [], set()
    for launch in launches(variant):
        if launch.kernel.__name__ not in seen:
            seen.add(launch.kernel.__name__)
            rows += [resources(launch, variant, capability) for capability in SHARED_MEMORY]
            tick()
    return rows


def markdown(rows: list[dict]) -> str:
    """A line for every variant and kernel, the cards side by side."""
    cards = [f"sm_{capability}: registers, spilled bytes, shared KiB" for capability in SHARED_MEMORY]
    lines = [["variant", "kernel", "warps", *cards, "tensor cores (sm_90)"]]
    for first in range(0, len(rows), len(SHARED_MEMORY)):
        parts = rows[first : first + len(SHARED_MEMORY)]
        row = parts[-1]
        cells = [f"{part['registers']}, {part['spilled_bytes']}, {part['shared_memory'] / 1024:.1f}" for part in parts]
        products = "wgmma" if row["warpgroup_products"] else "mma" if row["warp_products"] else "none"
        lines.append([row["variant"], row["kernel"], str(row["warps"]), *cells, products])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(argv: list[str]):
    """Run `python -m benchmarks.kernel_resources` with the arguments `argv`."""
    record = Record(PROG, argv)
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results/kernel"), help="for json and table")
    args = parser.parse_args(argv)
    check_folder(args.output_dir, "--output-dir")
    rows = []
    with tqdm(total=4 * len(VARIANTS), desc="kernels", disable=None) as bar:
        for variant in VARIANTS:
            rows += variant_resources(variant, bar.update)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_json(args.output_dir / "resources.json", {**record.facts(), "triton": triton.__version__, "kernels": rows})
    (args.output_dir / "resources.md").write_text(markdown(rows))
    print_table([(name, args.output_dir / name) for name in ("resources.json", "resources.md")])


if __name__ == "__main__":
    sys.exit(run_command(PROG, main, sys.argv[1:]))
