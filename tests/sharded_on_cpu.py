# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse` where Accelerate shards a training over processes without a GPU, which it does not do by itself: torch and DeepSpeed can."""

import os
import sys

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from transformers import TrainingArguments

from ernie_sparse import cli


def take_processes_for_devices():
    """Have Accelerate look for a config of FSDP, as it does where each process has a GPU."""
    begin = AcceleratorState.__init__

    def begun(self, *args, **kwargs):
        state = PartialState._shared_state
        if state.get("distributed_type") == DistributedType.MULTI_CPU:
            state["distributed_type"] = DistributedType.MULTI_XPU
        begin(self, *args, **kwargs)

    AcceleratorState.__init__ = begun


def let_deepspeed_have_processes():
    """Have Accelerate begin DeepSpeed, which it does where it is not told that there are CPUs alone."""
    check = TrainingArguments.__post_init__

    def checked(self):
        self.use_cpu = False
        check(self)

    TrainingArguments.__post_init__ = checked
    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_CPU)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        let_deepspeed_have_processes()
    else:
        take_processes_for_devices()
    sys.exit(cli.main(sys.argv[1:]))
