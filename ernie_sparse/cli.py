# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse COMMAND`: each command is the `main(argv)` of a module, loaded only when it is called."""

import importlib
import os
import signal
import sys
from collections.abc import Callable

from .allocator import keep_freed_memory

COMMANDS = {
    "convert": (
        "ernie_sparse.conversion",
        "a BERT, RoBERTa, ERNIE, ELECTRA, BigBird or Longformer checkpoint as ERNIE-Sparse",
    ),
    "pretrain": ("ernie_sparse.pretraining.runner", "masked-LM pretraining with SAOR on text files or a hub data set"),
    "finetune": (
        "ernie_sparse.finetune.runner",
        "GLUE, IMDb, Hyperpartisan, arXiv, TriviaQA, WikiHop, SQuAD, or files of your own",
    ),
    "predict": ("ernie_sparse.finetune.predict", "a fine-tuned model on a file of any size"),
    "robustness": (
        "ernie_sparse.robustness.runner",
        "a model under other sparse patterns, and the cheapest that keeps its score",
    ),
    "show": ("ernie_sparse.show", "a sparse pattern as a picture: who sees whom, and what that costs"),
    "export": ("ernie_sparse.export", "a model as ONNX, in fp32 and int8, compared with PyTorch"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command of `ernie-sparse`; its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or [None]
    if name in (None, "-h", "--help"):
        code = _say(_help())
        return code if name else code or 2
    if name == "--version":
        from . import __version__

        return _say(f"ernie-sparse {__version__}")
    if name not in COMMANDS:
        from .errors import without_secrets

        print(without_secrets(f"ernie-sparse: error: {name!r} is not one of {', '.join(COMMANDS)}"), file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(rest):
        from .help import HELP

        return _say(HELP[name].short(name))
    keep_freed_memory()
    return run_command(
        f"ernie-sparse {name}", lambda words: importlib.import_module(COMMANDS[name][0]).main(words), rest
    )


def _say(text: str) -> int:
    """Print a text, which the reader may leave; the exit code."""
    return run_command("ernie-sparse", lambda words: print(text), [])


def run_command(prog: str, command: Callable[[list[str]], object], argv: list[str]) -> int:
    """
    Run `command(argv)`; its exit code. What the user can mend (an [`InputError`], or what the operating system refuses) ends in
    one line on standard error and code 2; `ERNIE_SPARSE_TRACEBACK=1` shows where it came from. Anything else is a fault of
    ours and keeps its traceback.
    """
    # Not at the top: it imports the hub's client.
    from huggingface_hub import logging

    from .errors import InputError, is_dead_process, is_hub_error, is_no_room, without_secrets
    from .signals import StopSignals, speaks

    if "HF_HUB_VERBOSITY" not in os.environ:
        # Each try that fails is two lines of warnings, and the last one is an error anyway.
        logging.set_verbosity_error()
    try:
        for stream in (sys.stdout, sys.stderr):
            # What a terminal's locale has no sign for is no reason to stop.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        with StopSignals():
            try:
                command(argv)
            finally:
                sys.stdout.flush()
            _leave_process_group()
    except KeyboardInterrupt as stopped:
        if speaks():
            print(without_secrets(f"{prog}: {str(stopped) or 'interrupted'}"), file=sys.stderr)
        return 128 + getattr(stopped, "number", signal.SIGINT)  # as a shell has it
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does: Python must not try to write the rest of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as a shell has it
    except Exception as error:
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno is not None):
            text = str(error)
        elif is_no_room(error):
            text = f"there is no room left to write: {error}"
        elif is_hub_error(error):
            text = f"the hub refuses this or cannot be reached: {error}"
        elif is_dead_process(error):
            text = f"a process that prepares or loads rows has died: {error}; where memory ran out, take fewer of them"
        else:
            raise
        if os.environ.get("ERNIE_SPARSE_TRACEBACK"):
            raise
        print(without_secrets(f"{prog}: error: {' '.join(text.split())}"), file=sys.stderr)
        return 2
    return 0


def _leave_process_group():
    """Several processes: none ends while another still talks to it."""
    if "torch" in sys.modules:
        distributed = sys.modules["torch"].distributed
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: ernie-sparse COMMAND [options]\n\n"
        "ERNIE-Sparse: a long-document encoder for Hugging Face Transformers.\n\n"
        f"commands:\n{commands}\n\n"
        "`ernie-sparse COMMAND --help` explains a command, `--help-all` with every flag; `ernie-sparse --version` prints the version.\n"
        "Several processes: `torchrun --nproc_per_node 2 -m ernie_sparse COMMAND …`"
    )
