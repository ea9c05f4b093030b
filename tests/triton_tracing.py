# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
What `torch.compile` makes of a model that takes the kernels: run as a program, it prints the kernels in the graphs of the forward
and of the backward pass, which are made for a card that need not be here and not run.
"""

import collections
import json

import torch
import triton
from torch._functorch.aot_autograd import aot_module_simplified
from torch._functorch.partitioners import min_cut_rematerialization_partition
from triton.backends.compiler import GPUTarget

from ernie_sparse import ErnieSparseConfig, ErnieSparseForMaskedLM, SparsePattern, block_plan
from ernie_sparse.block_plan import plan_batch

NUM_LAYERS = 2
found = collections.defaultdict(list)


class Card:
    """As much of a driver as is asked what to compile for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def backend(module, inputs):
    def compiler(name: str):
        def make(graph, _):
            kernels = [
                torch._higher_order_ops.triton_kernel_wrap.kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
                for node in graph.graph.nodes
                if "triton_kernel" in str(node.target)
            ]
            found[name].append(sorted(kernel.fn.__name__ for kernel in kernels))
            (outputs,) = graph.graph.find_nodes(op="output")
            # In place of running it.
            values = [node.meta["val"] if isinstance(node, torch.fx.Node) else node for node in outputs.args[0]]
            return lambda *_: [torch.zeros([int(n) for n in v.shape]) if hasattr(v, "shape") else v for v in values]

        return make

    compilers = {"fw_compiler": compiler("forward"), "bw_compiler": compiler("backward")}
    return aot_module_simplified(module, inputs, **compilers, partition_fn=min_cut_rematerialization_partition)


def main():
    triton.runtime.driver.set_active(Card())
    torch._functorch.config.force_non_lazy_backward_lowering = True
    block_plan.runs_on = lambda *args: True
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    model = ErnieSparseForMaskedLM(ErnieSparseConfig(**sizes, num_hidden_layers=NUM_LAYERS))
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    patterns = ((1500, SparsePattern()), (2000, SparsePattern(block_shift=7)), (2100, SparsePattern(50)))
    for length, pattern in patterns:
        input_ids = torch.ones(5, length, dtype=torch.long)
        plan = plan_batch(pattern, 1, (5, length), torch.device("cpu"), is_static=True)
        compiled(input_ids, labels=input_ids, pattern=plan)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
