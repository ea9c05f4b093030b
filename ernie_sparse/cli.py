# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The command `ernie-sparse <verb>`: each verb is the `main(argv)` of a module, loaded only when it is called."""

import importlib
import os
import sys

from huggingface_hub.errors import StrictDataclassError

VERBS = {
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
    "lra": ("ernie_sparse.lra.runner", "Long Range Arena: tasks, models, results"),
    "benchmark": (
        "ernie_sparse.benchmark.runner",
        "time and memory over length, against the floor and against transformers' encoders",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """
    Run a verb. What the user can mend (a bad argument, a missing file, unusable data) ends in one line on standard
    error and exit code 2; `ERNIE_SPARSE_TRACEBACK=1` shows where it came from.
    """
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("ernie-sparse: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as a shell has it
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does: Python must not try to write the rest of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as a shell has it


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    verb, *rest = argv
    if verb == "--version":
        from . import __version__

        print(f"ernie-sparse {__version__}")
        return 0
    if verb not in VERBS:
        print(f"ernie-sparse: error: {verb!r} is not one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        importlib.import_module(VERBS[verb][0]).main(rest)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, StrictDataclassError) as error:
        if os.environ.get("ERNIE_SPARSE_TRACEBACK"):
            raise
        message = " ".join(
            str(error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error).split()
        )
        print(f"ernie-sparse {verb}: error: {message}", file=sys.stderr)
        return 2
    return 0


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items())
    return (
        "usage: ernie-sparse <verb> [options]\n\n"
        "ERNIE-Sparse: a long-document encoder for Hugging Face Transformers.\n\n"
        f"verbs:\n{verbs}\n\n"
        "`ernie-sparse <verb> --help` explains a verb; `ernie-sparse --version` prints the version.\n"
        "Several processes: `torchrun --nproc_per_node 2 -m ernie_sparse <verb> …`"
    )
