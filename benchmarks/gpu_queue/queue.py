# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The measurements, in the order of their worth, and what a result stays good for."""

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from ernie_sparse import SparsePattern

from ..lra.comparisons import COMPARISONS as LRA_COMPARISONS
from ..lra.models import MODELS as LRA_MODELS
from ..lra.tasks import TASKS as LRA_TASKS
from ..speed.models import MODERNBERT_FLEX, NO_ATTENTION
from . import ROOT
from .attention import measure_attention
from .commands import files_with_gpu_tests, measure_finetuning, measure_lra, measure_tests
from .longest import measure_longest
from .steps import OURS_SDPA, measure_profile, measure_steps

# The files that decide how fast a step is: with others of these a result is of earlier kernels.
KERNELS = ("block_*.py", "hst_*.py", "sparse_pattern.py", "modeling_*.py")
PEERS = ("bigbird", "longformer")
# Building the first of these tells transformers of an attention function, behind which a compiled model would be compiled anew.
COMPARED = (NO_ATTENTION, OURS_SDPA, "dense", MODERNBERT_FLEX)
# Guesses, before anything was seen: updates of Long Range Arena in a second, without graphs and with them, and seconds to read
# data and to test.
UPDATES_PER_SECOND, TEST_SECONDS = {False: 30, True: 100}, 90
LRA_SEEDS, FINETUNING_SEEDS = (0,), (0, 1, 2)
IMDB_ROWS = (
    *("source, 512 tokens", "ERNIE-Sparse, 512 tokens", "ERNIE-Sparse, 2,048 tokens", "ERNIE-Sparse, 1,024 tokens"),
    *("ERNIE-Sparse, 512 tokens, SAOR", "ERNIE-Sparse, 512 tokens, R-Drop"),
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """
    Args:
        measure (`Callable`): `(settings, say)` to the results; `say` prints a line of progress.
        modules (`tuple[str, ...]`): What has to be installed beside torch and transformers.
        has_kernels (`bool`): Whether the result is of the kernels of its commit, and no longer good for others.
    """

    measure: Callable[[dict, Callable[[str], None]], dict]
    modules: tuple[str, ...] = ()
    has_kernels: bool = True


KINDS = {
    "tests": Kind(measure_tests, ("pytest",)),
    "profile": Kind(measure_profile),
    "attention": Kind(measure_attention),
    "steps": Kind(measure_steps),
    "longest": Kind(measure_longest),
    "lra": Kind(measure_lra, ("datasets",), has_kernels=False),
    "finetuning": Kind(measure_finetuning, ("datasets", "evaluate", "sklearn", "seqeval"), has_kernels=False),
}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """
    Args:
        name (`str`): Also of its file.
        kind (`str`): One of [`KINDS`].
        seconds (`float`): What it is expected to take, its process's start included.
        settings (`dict`): What is measured, and how.
        data (`str`, *optional*): What has to lie in the folder of data for it.
    """

    name: str
    kind: str
    seconds: float
    settings: dict
    data: str | None = None

    def digest(self) -> str:
        """Of what its result depends on: another digest, another measurement."""
        digest = hashlib.blake2b(json.dumps([self.kind, self.settings], sort_keys=True).encode(), digest_size=16)
        paths = kernel_files() if KINDS[self.kind].has_kernels else []
        for path in [*paths, *(files_with_gpu_tests() if self.kind == "tests" else [])]:
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def hindrance(self, data_dir: Path) -> str | None:
        """Why it cannot be measured here, if it cannot."""
        missing = [name for name in KINDS[self.kind].modules if importlib.util.find_spec(name) is None]
        if missing:
            return f"needs {', '.join(missing)}, not installed"
        if self.data is not None and not (data_dir / self.data).is_dir():
            return f"no folder {data_dir / self.data}"
        return None


def kernel_files() -> list[Path]:
    folder = ROOT / "ernie_sparse"
    return sorted(path for pattern in KERNELS for path in folder.glob(pattern))


@dataclasses.dataclass(frozen=True)
class Scale:
    """
    How large everything is.

    Args:
        sizes (`dict`): Of the models.
        tokens (`int`): In a step, by rows of one length.
        lengths (`tuple[int, ...]`): The most wanted first.
        profiled, alone (`tuple[int, ...]`): Lengths at which ours is profiled, and at which attention is measured alone.
        compiler (`str`): Backend of `torch.compile`.
        longest (`dict`): The search for the longest row.
        time (`float`): What everything takes, over what it takes at full size.
    """

    sizes: dict
    dtype: str
    tokens: int
    lengths: tuple[int, ...]
    profiled: tuple[int, ...]
    alone: tuple[int, ...]
    runs: int
    compiler: str
    matmul_size: int
    copy_bytes: int
    longest: dict
    time: float = 1.0


FULL = Scale(
    sizes={"hidden_size": 768, "num_layers": 12, "num_heads": 12, "vocab_size": 30522},
    dtype="bfloat16",
    tokens=65536,
    lengths=(4096, 32768, 512, 8192, 65536, 16384),
    profiled=(4096, 65536),
    alone=(512, 4096, 16384, 65536),
    runs=7,
    compiler="inductor",
    matmul_size=8192,
    copy_bytes=2**32,
    longest={"first": 2**16, "step": 2**13, "most": 2**22, "memory_bytes": 80 * 10**9},
)
# Every kind of measurement in little time on a CPU: figures of nothing, but the way to them is the same.
TINY = Scale(
    sizes={"hidden_size": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 99},
    dtype="float32",
    tokens=256,
    lengths=(256, 64),
    profiled=(256,),
    alone=(256,),
    runs=2,
    compiler="aot_eager",
    matmul_size=64,
    copy_bytes=2**16,
    longest={"first": 64, "step": 64, "most": 256, "memory_bytes": 10**9},
    time=0.4,
)
TINY_LRA_FLAGS = (
    *("--max-steps", "2", "--train-size", "8", "--validation-size", "4", "--test-size", "4", "--eval-patterns", "none"),
    *("--per-device-train-batch-size", "2"),
)
TINY_FINETUNING_FLAGS = (
    *("--max-train-documents", "8", "--max-validation-documents", "4", "--max-test-documents", "4"),
    *("--max-steps", "1", "--max-length", "64", "--bf16", "false"),
)


def build_queue(is_tiny: bool, device: str, lra_results: Path) -> list[Measurement]:
    """All measurements, the most wanted first."""
    scale = TINY if is_tiny else FULL
    first, *others = scale.lengths
    search = [_longest(scale, device, checkpointing) for checkpointing in (False, True)]
    queue = [
        Measurement("gpu-tests", "tests", 120, {"flags": ["--collect-only"] if is_tiny else []}),
        *(_profile(scale, device, length) for length in scale.profiled),
        _attention(scale, device),
        *_steps(scale, device, [first], ("training", "forward")),
        *_steps(scale, device, others[:3], ("training", "forward")),
        *_steps(scale, device, [first], ("training", "forward"), is_compiled=True),
        *_steps(scale, device, [first], ("saor",)),
        *search,
        *_steps(scale, device, others[3:], ("training", "forward")),
        *_steps(scale, device, others, ("training", "forward"), is_compiled=True),
        *_steps(scale, device, others, ("saor",)),
        *_steps(scale, device, scale.lengths, ("saor",), is_compiled=True),
        *_steps(scale, device, scale.lengths, ("training", "forward"), is_compiled=True, peers=True),
        *_finetunings(is_tiny),
        *_lra_cells(is_tiny, device, lra_results),
    ]
    return [dataclasses.replace(measurement, seconds=scale.time * measurement.seconds) for measurement in queue]


def _shared(scale: Scale, device: str) -> dict:
    pattern = str(SparsePattern())
    shared = {"sizes": scale.sizes, "pattern": pattern, "device": device, "dtype": scale.dtype, "tokens": scale.tokens}
    return {**shared, "runs": scale.runs, "seed": 0}


def _profile(scale: Scale, device: str, length: int) -> Measurement:
    return Measurement(f"profile-{length}", "profile", 25, {**_shared(scale, device), "length": length})


def _attention(scale: Scale, device: str) -> Measurement:
    settings = {"lengths": scale.alone, "matmul_size": scale.matmul_size, "copy_bytes": scale.copy_bytes}
    return Measurement("attention", "attention", 40, {**_shared(scale, device), **settings, "runs": 4 * scale.runs})


def _longest(scale: Scale, device: str, checkpointing: bool) -> Measurement:
    settings = {**_shared(scale, device), **scale.longest, "checkpointing": checkpointing}
    return Measurement(f"longest{'-checkpointing' * checkpointing}", "longest", 75, settings)


def _steps(
    scale: Scale, device: str, lengths: Iterable[int], tasks: tuple[str, ...], is_compiled=False, peers=False
) -> Iterable[Measurement]:
    """
    Args:
        peers (`bool`): Under a compiler BigBird and Longformer take long, and go by themselves, beside ours.
    """
    models = COMPARED if is_compiled else (*COMPARED, *PEERS)
    models = (*COMPARED[:2], *PEERS) if peers else models
    for length in lengths:
        for task in tasks:
            settings = {"task": task, "length": length, "seconds_per_step": 5.0}
            settings["models"] = [OURS_SDPA] if task == "saor" else list(models)
            settings["compiler"] = scale.compiler if is_compiled else None
            seconds = {"forward": 35, "training": 50, "saor": 25}[task] + length // 2048
            if is_compiled:
                seconds += {"forward": 60, "training": 120, "saor": 150}[task] * (2 if peers else 1)
            name = f"{task}{'-compiled' * is_compiled}{'-peers' * peers}-{length}"
            yield Measurement(name, "steps", seconds, {**_shared(scale, device), **settings})


def _finetunings(is_tiny: bool) -> Iterable[Measurement]:
    flags = list(TINY_FINETUNING_FLAGS) if is_tiny else []
    for seed in FINETUNING_SEEDS[: 1 if is_tiny else None]:
        for row in IMDB_ROWS[: 1 if is_tiny else None]:
            words = row.lower().replace("ernie-sparse", "ours").replace(",", "").replace("-", "").split()
            settings = {"comparisons": ["imdb"], "row": row, "seed": seed, "flags": flags}
            name = "-".join(["finetuning-imdb", *words, f"seed-{seed}"])
            yield Measurement(name, "finetuning", 240, settings, "imdb")
        if not is_tiny:
            settings = {"comparisons": ["squad", "triviaqa"], "row": None, "seed": seed, "flags": flags}
            yield Measurement(f"finetuning-triviaqa-seed-{seed}", "finetuning", 240, settings, "triviaqa")


def _lra_cells(is_tiny: bool, device: str, lra_results: Path) -> Iterable[Measurement]:
    """The cells that Long Range Arena's table does not have yet."""
    for task, recipe in LRA_TASKS.items():
        for comparison in ("models", "self-pretrained"):
            for name, words in LRA_COMPARISONS[comparison].items():
                for seed in LRA_SEEDS:
                    if is_tiny and (task, name) != ("listops", "hst"):
                        continue
                    if not is_tiny and (lra_results / task / f"{name}-seed-{seed}.json").is_file():
                        continue
                    settings = {"task": task, "comparison": comparison, "model": words[1], "seed": seed}
                    settings["flags"] = list(TINY_LRA_FLAGS) if is_tiny else []
                    settings["graphs"] = device == "cuda" and LRA_MODELS[words[1]].not_captured is None
                    updates = recipe.recipe.max_steps
                    seconds = TEST_SECONDS + updates // UPDATES_PER_SECOND[settings["graphs"]]
                    if comparison == "self-pretrained":
                        # That part has no graphs.
                        seconds += updates // UPDATES_PER_SECOND[False]
                    yield Measurement(f"lra-{task}-{name}-seed-{seed}", "lra", seconds, settings, f"lra/{task}")
