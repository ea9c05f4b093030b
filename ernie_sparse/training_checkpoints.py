# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The checkpoints that a training leaves in its folder: which is the newest, and whether one can be gone on from."""

import shutil
from collections.abc import Collection
from pathlib import Path

from transformers import TrainingArguments
from transformers.utils import logging

from .errors import InputError, reason_of
from .files import fault_of_form, read_json
from .results import file_digest, write_json

logger = logging.get_logger(__name__)

STATE = "trainer_state.json"
# Of which at least a run that goes on makes use.
STATE_FIELDS = ("epoch", "global_step", "max_steps", "log_history", "stateful_callbacks")
# What they and others may be.
STATE_TYPES = {
    **dict.fromkeys(("global_step", "max_steps", "num_input_tokens_seen"), (int,)),
    **dict.fromkeys(("epoch", "total_flos", "logging_steps", "eval_steps", "save_steps"), (int, float)),
    "log_history": (list,),
    "stateful_callbacks": (dict,),
    "best_model_checkpoint": (str, type(None)),
}
DIGESTS = "digests.json"
# What lies in a checkpoint and is not read by a run that goes on.
UNREAD = ("README.md", "training_args.bin")


def all_checkpoints(folder: str | Path) -> list[Path]:
    """The folders of checkpoints, the newest first, whatever is in them."""
    steps = {}
    for path in Path(folder).glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if number.isdecimal():
            steps[path] = int(number)
    return sorted(steps, key=steps.get, reverse=True)


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint that was written to its end, if any."""
    return next((str(path) for path in all_checkpoints(folder) if is_complete(path)), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: Trainer writes its state last."""
    try:
        return isinstance(read_json(checkpoint / STATE)["global_step"], int)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def check_whole(
    checkpoint: str | Path, training: TrainingArguments, may_lack: bool = False, needed: Collection[str] = ()
):
    """
    Look at every file of a checkpoint from which a training is to go on, before any is used.

    Args:
        may_lack (`bool`): Whether it may lack what an exact continuation needs.
        needed (`Collection[str]`): What that needs beside the files of Trainer.

    Raises:
        [`InputError`]: A file is damaged, or missing. The newest checkpoint beside it that is whole is named.
    """
    checkpoint = Path(checkpoint)
    fault = _fault(checkpoint, training, may_lack, needed)
    if fault is not None:
        raise InputError(f"{checkpoint}: {fault}{_whole_one_beside(checkpoint, training, needed)}")
    # With which a run ends that has not found a better one.
    best = Path(read_json(checkpoint / STATE).get("best_model_checkpoint") or checkpoint)
    if best.is_dir() and best.resolve() != checkpoint.resolve() and (damaged := _problems(best, training)[0]):
        raise InputError(
            f"{best}, the best checkpoint before {checkpoint}: {_listed(damaged)}; the run could not end with it: begin anew in "
            "another folder"
        )


def newest_whole(
    folder: str | Path, training: TrainingArguments, may_lack: bool = False, needed: Collection[str] = ()
) -> str | None:
    """
    The newest checkpoint from which a training can go on. Newer ones that are not whole are named in a warning; `None` where
    there are none, or none of them was written to its end.

    Raises:
        [`InputError`]: None is whole, of those that were written to their end.
    """
    faults = {}
    for checkpoint in all_checkpoints(folder):
        fault = _fault(checkpoint, training, may_lack, needed)
        if fault is None:
            break
        faults[checkpoint] = fault
    else:
        checkpoint = next(filter(is_complete, faults), None)
        if checkpoint is not None:
            raise InputError(f"{checkpoint}: {faults[checkpoint]}; no other checkpoint beside it is whole")
    if training.process_index == 0:
        for torn, fault in faults.items():
            logger.warning("%s: %s; going on from %s", torn, fault, checkpoint or "the beginning")
    return None if checkpoint is None else str(checkpoint)


def remove_newer(folder: str | Path, checkpoint: str | None):
    """
    Remove the checkpoints that [`newest_whole`] has passed over for `checkpoint`: the run that goes on from there writes them anew.
    """
    for newer in all_checkpoints(folder):
        if newer == Path(checkpoint or ""):
            break
        shutil.rmtree(newer)


def _fault(checkpoint: Path, training: TrainingArguments, may_lack: bool, needed: Collection[str]) -> str | None:
    """Why a training cannot go on from a checkpoint."""
    if not is_complete(checkpoint):
        return f"its {STATE} is missing or cut off"
    damaged, missing = _problems(checkpoint, training, needed)
    if damaged:
        return _listed(damaged)
    if missing and not may_lack:
        return (
            f"it lacks {', '.join(missing)}, and the run would go on otherwise than if it had not been stopped; "
            "--resume-incomplete true goes on all the same"
        )
    return None


def _listed(damaged: dict[str, str]) -> str:
    return ", ".join(f"{name} is damaged ({reason})" for name, reason in damaged.items())


def _whole_one_beside(checkpoint: Path, training: TrainingArguments, needed: Collection[str]) -> str:
    for other in all_checkpoints(checkpoint.parent):
        if other != checkpoint and _fault(other, training, False, needed) is None:
            return f"; the newest whole checkpoint is {other}: pass --resume-from-checkpoint {other} to go on from it"
    return "; no other checkpoint beside it is whole"


def write_digests(checkpoint: Path):
    """Leave beside the files of a checkpoint, when all of them are there, what each of them holds."""
    write_json(checkpoint / DIGESTS, {name: file_digest(path) for name, path in _files(checkpoint).items()})


def _files(checkpoint: Path) -> dict[str, Path]:
    """All that a training reads of a checkpoint, by its name there."""
    paths = {path.relative_to(checkpoint).as_posix(): path for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    return {name: path for name, path in paths.items() if _is_read(name) and name != DIGESTS}


def _is_read(name: str) -> bool:
    # The code beside a model is for those who do not have this package.
    return Path(name).name not in UNREAD and not name.endswith(".py")


def _problems(
    checkpoint: Path, training: TrainingArguments, needed: Collection[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """What is damaged, with the reason, and what is missing for an exact continuation."""
    damaged, files, digests = {}, _files(checkpoint), {}
    try:
        digests = read_json(checkpoint / DIGESTS)
    except FileNotFoundError:
        # Killed before they were written, or no command's: each file has to be whole by itself.
        pass
    except (OSError, ValueError) as error:
        damaged[DIGESTS] = reason_of(error, 100)
    for name, path in files.items():
        fault = _fault_of_contents(path, digests[name]) if name in digests else fault_of_form(path)
        if fault is not None:
            damaged[name] = fault
    if STATE not in damaged and (fault := _fault_of_state(checkpoint)) is not None:
        damaged[STATE] = fault
    lost = [name for name in digests if name not in files and _is_read(name)]
    damaged |= {name: "there is none" for name in lost if not name.endswith((".pt", ".pth"))}
    if training.is_sharded:
        # They have files of their own.
        return damaged | dict.fromkeys(lost, "there is none"), []
    if not files.keys() & {"model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"}:
        damaged["model.safetensors"] = "there is none"
    if "model.safetensors.index.json" in files and "model.safetensors.index.json" not in damaged:
        shards = set(read_json(checkpoint / "model.safetensors.index.json").get("weight_map", {}).values())
        damaged |= dict.fromkeys(shards - files.keys(), "there is none")
    processes = training.world_size
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{i}.pth" for i in range(processes)]
    needed = ["optimizer.pt", "scheduler.pt", *states, *(["scaler.pt"] if training.fp16 else []), *needed]
    return damaged, [name for name in needed if name not in files]


def _fault_of_contents(path: Path, digest: str) -> str | None:
    try:
        return None if file_digest(path) == digest else "it is not what was written"
    except OSError as error:
        return reason_of(error, 100)


def _fault_of_state(checkpoint: Path) -> str | None:
    """Why a training cannot go on from a state that is JSON."""
    if not is_complete(checkpoint):
        return "it is missing or cut off"
    state, step = read_json(checkpoint / STATE), checkpoint.name.removeprefix("checkpoint-")
    lacking = [name for name in STATE_FIELDS if name not in state]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    wrong = [name for name, types in STATE_TYPES.items() if name in state and not _may_be(state[name], types, name)]
    if wrong:
        return f"its {wrong[0]} cannot be {str(state[wrong[0]])[:40]!r}"
    is_of_step = not step.isdecimal() or state["global_step"] == int(step)
    return None if is_of_step else f"it is of update {state['global_step']}"


def _may_be(value, types: tuple[type, ...], name: str) -> bool:
    if type(value) not in types:
        return False
    if isinstance(value, int | float):
        # No training has as many updates, epochs or tokens; of operations there are more.
        return abs(value) < (1e40 if name == "total_flos" else 2**53)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(isinstance(part, dict | list) for part in parts)
