# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""How much memory an operation asks for, at most."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation inside makes; a view of another makes none."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        is_view = function._schema.returns and function._schema.returns[0].alias_info is not None
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor) and not is_view:
                self.numel = max(self.numel, output.numel())
        return outputs
