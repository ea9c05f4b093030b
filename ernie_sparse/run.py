# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A run of a command that trains: its output folder, whether it may go on there, and what it leaves."""

import json
from collections.abc import Mapping
from pathlib import Path

from transformers import Trainer, TrainerCallback

from .checkpoints import is_complete, last_checkpoint
from .errors import InputError
from .results import Record, environments, plot_history, print_table, write_json
from .training_arguments import RunArguments

# What a run is, in its folder.
FILE_NAME = "run.json"
# A run may go on for longer, ...
MAY_GROW = ("num_train_epochs", "max_steps")
# ... beside runs with other seeds, or with other processes to read its rows.
MAY_CHANGE = ("seeds", "preprocessing_processes")


class Run:
    """
    One run in one output folder. Every command that trains goes through it, so that all agree on what is the same run and on
    what may change when it goes on. What it is stands in `run.json` beside its checkpoints.

    Args:
        record ([`Record`]): The command and what it runs on.
        training ([`RunArguments`]): Of which the output folder and `resume_from_checkpoint` count.
        identity (`Mapping`): What makes the run the one it is.
    """

    def __init__(self, record: Record, training: RunArguments, identity: Mapping):
        self.record = record
        self.folder = Path(training.output_dir)
        self.resumes_from = training.resume_from_checkpoint
        self.is_main_process = training.process_index == 0
        # As JSON has it.
        content = {name: value for name, value in identity.items() if name not in MAY_CHANGE}
        self.identity = json.loads(json.dumps(content, default=str))

    def finished_results(self) -> dict | None:
        """
        The results of this run where it is to go on and has been brought to its end already, and says so.

        Raises:
            [`InputError`]: The folder holds another run.
        """
        path = self.folder / "results.json"
        if self.resumes_from != "last" or not path.is_file() or self.check_same(self.folder) != self.identity:
            return None
        if self.is_main_process:
            print_table([("finished already", path)])
        return json.loads(path.read_text())

    def checkpoint(self) -> str | None:
        """
        The checkpoint to go on from, if any: `last` starts a run that has none yet.

        Raises:
            [`InputError`]: The folder holds checkpoints and nothing says whether to go on from them; there is no such
                checkpoint; or it is of another run.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"--output-dir {self.folder} is a file")
        last, asked = last_checkpoint(self.folder), self.resumes_from
        if asked is None:
            if last is not None:
                raise InputError(
                    f"--output-dir {self.folder} holds checkpoints of an earlier run: pass --resume-from-checkpoint last "
                    "to go on from the newest one, or name another folder"
                )
            return None
        if asked == "last":
            asked = last
        elif not Path(asked).is_dir():
            raise InputError(f"--resume-from-checkpoint {asked}: there is no such folder")
        elif not is_complete(Path(asked)):
            raise InputError(f"--resume-from-checkpoint {asked}: its trainer_state.json is missing or cut off")
        if asked is not None or (self.resumes_from and (self.folder / FILE_NAME).is_file()):
            self.check_same(self.folder if asked is None else Path(asked).parent)
        return asked

    def check_same(self, folder: Path) -> dict:
        """What the run in `folder` is; an [`InputError`] unless this one may go on with it."""
        path = folder / FILE_NAME
        try:
            earlier = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            raise InputError(
                f"{path} is missing or damaged: it says which run the checkpoints of {folder} are of, and without it none "
                "can go on"
            ) from None
        changed = [
            f"{name} {earlier.get(name)} and not {value}"
            for name, value in self.identity.items()
            if earlier.get(name) != value and not (name in MAY_GROW and _is_more(value, earlier.get(name)))
        ]
        if changed:
            raise InputError(f"{folder} holds another run, of {', '.join(changed)}: name another folder")
        return earlier

    def train(self, trainer: Trainer, checkpoint: str | None):
        """
        Train, from a checkpoint if one is given.

        Raises:
            [`InputError`]: A checkpoint that cannot be read, is another model's, or is beyond the end of this run; or
                arguments with which no training can begin.
        """
        progress = _Progress(self)
        trainer.add_callback(progress)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except InputError:
            raise
        except Exception as error:
            if progress.has_begun:
                raise
            if checkpoint is not None:
                reason = " ".join(str(error).split())[:200]
                raise InputError(
                    f"{checkpoint} is damaged or another model's: {type(error).__name__}: {reason}"
                ) from error
            if isinstance(error, ValueError | TypeError | ImportError):
                # Such as an optimizer that is not installed, or a schedule's arguments.
                raise InputError(str(error)) from error
            raise

    def write_identity(self):
        """Say in the folder of which run its checkpoints are."""
        write_json(self.folder / FILE_NAME, self.identity)

    def remove_if_empty(self):
        """Leave no folder behind where nothing was made to go on from."""
        if self.is_main_process and self.folder.is_dir() and not any(self.folder.glob("checkpoint-*")):
            (self.folder / FILE_NAME).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def finish(self, results: dict, rows: list[tuple[str, object]], history: list[dict]):
        """Write `results.json` and, where matplotlib is installed, `training.png`, and print the table of `rows`."""
        path, picture = self.folder / "results.json", self.folder / "training.png"
        content = {**results, **self.record.facts(), "environments": environments(history)}
        write_json(path, {**content, "history": [entry for entry in history if "hardware" not in entry]})
        rows = [*rows, ("results", path)]
        if plot_history(history, picture):
            rows.append(("training curves", picture))
        print_table(rows)


def _is_more(value, earlier) -> bool:
    return isinstance(value, int | float) and isinstance(earlier, int | float) and value > earlier


class _Progress(TrainerCallback):
    """
    Notes that a training has begun: everything of a checkpoint but the random state has been read by then. From here on the
    folder says of which run its checkpoints are, and the log what each part of the training ran on.
    """

    def __init__(self, run: Run):
        self.run = run
        self.has_begun = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.has_begun = True
        if state.global_step > state.max_steps:
            raise InputError(
                f"the checkpoint is of update {state.global_step}, and this run is to end at {state.max_steps}: ask for a "
                "longer one"
            )
        if state.is_world_process_zero:
            self.run.write_identity()
        here, earlier = self.run.record.environment(), environments(state.log_history)
        if state.global_step < state.max_steps and not (earlier and earlier[-1].items() >= here.items()):
            # In the log, a checkpoint carries it along, and forgets what came after the checkpoint.
            state.log_history.append({"step": state.global_step, **here})
