# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A run of a command that trains: its output folder, whether it may go on there, and what it leaves."""

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from filelock import FileLock, Timeout
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from .errors import InputError, is_dead_process, is_no_room
from .files import check_folder, read_json
from .results import Record, as_json, contents_digest, environments, plot_history, print_table, write_json
from .stopping import stops_at_updates
from .terminal import in_words, report_in_terminal
from .training_arguments import RunArguments
from .training_checkpoints import (
    all_checkpoints,
    check_whole,
    is_complete,
    last_checkpoint,
    newest_whole,
    remove_newer,
    write_digests,
)

# What a run is, in its folder.
FILE_NAME = "run.json"
LOCK_NAME = ".lock"
# What a run leaves beside the first of these that was stopped before its first checkpoint: a new one begins there.
BEGINNINGS = (FILE_NAME, LOCK_NAME, "runs", "search", "search.json")
RESULTS = "results.json"
# What may be another when a run goes on, and how its result may differ then from that of a run that was never stopped.
MAY_CHANGE = {
    "num_train_epochs": "it may grow: the rate falls more slowly from there on, where it falls with the length of the run",
    "max_steps": "it may grow: as with num_train_epochs",
    "seeds": "not at all: every seed is a run of its own",
    "preprocessing_processes": "not at all: rows come out alike",
    **dict.fromkeys(
        ("train_file", "validation_file", "test_file", "data_dir", "dataset", "dataset_config"),
        "not at all: what stands in the files has to be the same",
    ),
}
MAY_GROW = ("num_train_epochs", "max_steps")


class Run:
    """
    One run in one output folder. Every command that trains goes through it, so that all agree on what is the same run and on
    what may change when it goes on. What it is stands in `run.json` beside its checkpoints.

    Args:
        record ([`Record`]): The command and what it runs on.
        training ([`RunArguments`]): Of which the output folder and what is said of resuming count.
        identity (`Mapping`): What makes the run the one it is, beside its data ([`Run.check_data`]).
        parts (`Collection[str]`): Names of what else the command leaves in the folder before its first checkpoint.
        checkpoint_files (`Collection[str]`): What its checkpoints have beside the files of Trainer, and cannot do without.
    """

    def __init__(
        self,
        record: Record,
        training: RunArguments,
        identity: Mapping,
        parts: Collection[str] = (),
        checkpoint_files: Collection[str] = (),
    ):
        self.record = record
        self.training = training
        self.folder = Path(training.output_dir)
        self.resumes_from = training.resume_from_checkpoint
        self.is_main_process = training.process_index == 0
        self.parts = (*BEGINNINGS, *parts)
        self.checkpoint_files = checkpoint_files
        # As JSON has it.
        content = {name: value for name, value in identity.items() if name not in MAY_CHANGE or name in MAY_GROW}
        self.identity = json.loads(json.dumps(as_json(content)))
        self._earlier: Path | None = None
        self._made_folders: list[Path] = []
        self._lock = FileLock(self.folder / LOCK_NAME, blocking=False)

    def checkpoint(self) -> str | None:
        """
        The checkpoint to go on from, if any: by `last` the newest one that is whole, and a run begins that has none yet. From
        here on no other run can have the folder.

        Raises:
            [`InputError`]: The folder holds something else, or another run, or is another run's at this moment. There is no
                such checkpoint; it is of another run; or it is damaged.
        """
        asked, training = self.resumes_from, self.training
        if asked != "last":
            if not Path(asked).is_dir():
                raise InputError(f"--resume-from-checkpoint {asked}: there is no such folder")
            if not is_complete(Path(asked)):
                check_whole(asked, training)
            self._earlier = Path(asked).parent
            if self._earlier.resolve() == self.folder.resolve():
                self._earlier = self.folder
        elif (self.folder / FILE_NAME).is_file() or all_checkpoints(self.folder):
            self._earlier = self.folder
        if self._earlier is not None:
            try:
                self.check_same(self._earlier)
            except InputError:
                is_run = all_checkpoints(self.folder) or (self._is_own_record() and self._others_in_folder(BEGINNINGS))
                if asked != "last" or is_run:
                    raise
                # Nothing is lost of a run that was stopped before its first checkpoint.
                self._earlier = None
        if not self.goes_on and self.is_main_process:
            self._check_empty()
        if (self.folder / RESULTS).is_dir():
            raise InputError(
                f"{self.folder / RESULTS} is a folder, and the results are to be written there: move it away"
            )
        if asked == "last":
            asked = newest_whole(self.folder, training, training.resume_incomplete, self.checkpoint_files)
        if asked is not None:
            check_whole(asked, training, training.resume_incomplete, self.checkpoint_files)
        self._take_folder()
        return asked

    @property
    def goes_on(self) -> bool:
        """Whether an earlier run in this very folder goes on."""
        return self._earlier == self.folder

    def _check_empty(self):
        check_folder(self.folder, "--output-dir")
        others = self._others_in_folder(self.parts)
        if others:
            shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            raise InputError(f"--output-dir {self.folder} is not empty: it holds {shown}; name another folder")

    def _others_in_folder(self, parts: Collection[str]) -> list[str]:
        """What lies in the folder, but for some `parts` of a run of this command."""
        own = set()
        if (self.folder / FILE_NAME).is_file():
            if self._is_own_record():
                own = {*parts}
        elif not (self.folder / LOCK_NAME).is_file() or (self.folder / LOCK_NAME).stat().st_size == 0:
            # Killed before it could say what it is.
            own = {LOCK_NAME, f"{FILE_NAME}.partial"}
        names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        return [name for name in names if not {name, name.removesuffix(".partial")} & own]

    def _is_own_record(self) -> bool:
        """Whether what lies there as `run.json` says of a run of this command what it is."""
        try:
            return self.identity.keys() <= read_json(self.folder / FILE_NAME).keys()
        except (OSError, ValueError):
            return False

    def _take_folder(self):
        if not self.is_main_process:
            return
        self._made_folders = [folder for folder in (self.folder, *self.folder.parents) if not folder.is_dir()]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise InputError(f"--output-dir {self.folder}: another run is writing into this folder") from None
        if not self.goes_on:
            # Before anything else: whatever is found there without it is somebody else's.
            self.write_identity()

    def check_same(self, folder: Path) -> dict:
        """What the run in `folder` is; an [`InputError`] unless this one may go on with it."""
        path = folder / FILE_NAME
        try:
            earlier = read_json(path)
        except (OSError, ValueError):
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
            raise InputError(f"{folder} holds another run, with {', '.join(changed)}: name another folder")
        return earlier

    def check_data(self, data: Mapping[str, Iterable[Dataset] | str]):
        """
        Add what is trained and evaluated on, by its contents, to what the run is.

        Args:
            data (`Mapping[str, Iterable[Dataset] | str]`): By split: the rows, or their digest where they are too many to read.

        Raises:
            [`InputError`]: The run that is to go on had other rows, or in another order.
        """
        now = self.identity["data"] = {
            split: parts if isinstance(parts, str) else contents_digest(*parts) for split, parts in data.items()
        }
        # None where it was stopped before its rows were read.
        before = None if self._earlier is None else read_json(self._earlier / FILE_NAME).get("data")
        changed = [split for split in {**before, **now} if before.get(split) != now.get(split)] if before else []
        if changed:
            raise InputError(
                f"{self._earlier} holds a run on other data: {', '.join(changed)} has other rows now, or in another order; "
                "name another folder"
            )
        if self.is_main_process and (not self.goes_on or before is None):
            self.write_identity()

    def earlier_results(self) -> dict | None:
        """
        The results in the folder, where this run is to go on there and there are any.

        Raises:
            [`InputError`]: The file is damaged.
        """
        path = self.folder / RESULTS
        if not self.goes_on or not path.is_file():
            return None
        try:
            return read_json(path)
        except ValueError:
            raise InputError(f"{path} is damaged: delete it, and the same command writes it anew") from None

    def finished_results(self) -> dict | None:
        """The results of this very run, where it is to go on and has come to its end already; then it says so."""
        results = self.earlier_results()
        if results is None:
            return None
        earlier = read_json(self.folder / FILE_NAME)
        # All else has been found to be the same.
        if any(earlier.get(name) != self.identity.get(name) for name in MAY_GROW):
            return None
        if self.is_main_process:
            for path in self.folder.glob("*.partial"):
                # Such as of a picture, which comes after the results.
                path.unlink()
            print_table([("finished already", self.folder / RESULTS)])
        return results

    def train(self, trainer: Trainer, checkpoint: str | None, facts: Iterable[tuple[str, object]] = ()):
        """
        Train, from a checkpoint if one is given.

        Args:
            facts (`Iterable[tuple[str, object]]`, *optional*): What is said first, as rows of a table.

        Raises:
            [`InputError`]: A checkpoint that cannot be read, is another model's, or is beyond the end of this run; or
                arguments with which no training can begin.
            [`Stopped`]: A signal has stopped it behind a checkpoint.
        """
        if self.resumes_from == "last" and self.is_main_process:
            remove_newer(self.folder, checkpoint)
        progress = _Progress(self, trainer.args.save_total_limit)
        trainer.add_callback(progress)
        report_in_terminal(trainer, facts)
        # Once more where it goes on, early stopping would count it.
        evaluates_first, limit = trainer.args.eval_on_start, trainer.args.save_total_limit
        trainer.args.eval_on_start = evaluates_first and checkpoint is None
        # Trainer would remove those with the oldest dates, and a clock that was set back makes the newest one such.
        trainer.args.save_total_limit = None
        try:
            with stops_at_updates(trainer):
                trainer.train(resume_from_checkpoint=checkpoint)
            if self.is_main_process and limit == 1 and (best := trainer.state.best_model_checkpoint) is not None:
                # As Trainer has it: at the end the best one is enough.
                for other in all_checkpoints(self.folder):
                    if other.resolve() != Path(best).resolve():
                        shutil.rmtree(other)
        except InputError:
            raise
        except Exception as error:
            if progress.has_begun:
                if is_no_room(error):
                    raise self._no_room(trainer, error) from error
                if is_dead_process(error):
                    raise InputError(
                        f"a process that loads rows has died ({_line(error)}): where memory ran out, take fewer by "
                        f"--dataloader-num-workers; the same command {self._how_to_go_on()}"
                    ) from error
                raise
            if checkpoint is not None:
                raise InputError(
                    f"{checkpoint} is damaged or another model's: {type(error).__name__}: {_line(error)}"
                ) from error
            if isinstance(error, ValueError | TypeError | ImportError):
                # Such as an optimizer that is not installed, or a schedule's arguments.
                raise InputError(str(error)) from error
            raise
        finally:
            trainer.args.eval_on_start, trainer.args.save_total_limit = evaluates_first, limit

    def _no_room(self, trainer: Trainer, error: Exception) -> InputError:
        """A full disk: what was written in part is no checkpoint, and takes room."""
        part = self.folder / f"checkpoint-{trainer.state.global_step}"
        if self.is_main_process and part.is_dir() and not is_complete(part):
            shutil.rmtree(part, ignore_errors=True)
        return InputError(
            f"there is no room left to write update {trainer.state.global_step} into {self.folder} ({_line(error)}): when "
            f"there is, the same command {self._how_to_go_on()}"
        )

    def _how_to_go_on(self) -> str:
        whole = last_checkpoint(self.folder)
        return f"resumes from {whole}, which is whole" if whole else "starts again, for there is no checkpoint"

    def write_identity(self):
        """Say in the folder of which run its checkpoints are."""
        write_json(self.folder / FILE_NAME, self.identity)

    def release(self):
        """Let other runs have the folder; leave no folder behind that holds nothing to go on from."""
        if not self._lock.is_locked:
            return
        if {path.name for path in self.folder.iterdir()} <= {FILE_NAME, LOCK_NAME}:
            (self.folder / FILE_NAME).unlink(missing_ok=True)
            (self.folder / LOCK_NAME).unlink(missing_ok=True)
            with suppress(OSError):  # Something else lies there by now.
                for folder in self._made_folders:
                    folder.rmdir()
        # Otherwise the lock's file stays: without it, whoever has opened it and waits would lock what is no longer there.
        self._lock.release()

    def finish(
        self,
        results: dict,
        rows: list[tuple[str, object]],
        history: list[dict],
        pictures: Mapping[str, Callable[[Path], bool]] | None = None,
    ):
        """
        Write `results.json`, then draw pictures where matplotlib is installed, `training.png` among them, and print the table
        of `rows`.

        Args:
            pictures (`Mapping[str, Callable]`, *optional*):
                By file name: functions that draw into a path, and say whether there was anything to draw.
        """
        path = self.folder / RESULTS
        content = {**results, **self.record.facts(), "environments": environments(history)}
        write_json(path, {**content, "history": [entry for entry in history if "hardware" not in entry]})
        pictures = {**(pictures or {}), "training.png": lambda picture: plot_history(history, picture)}
        drawn = [self.folder / name for name, draw in pictures.items() if draw(self.folder / name)]
        seconds = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
        took = [("training took", in_words(seconds[-1]))] if seconds else []
        print_table([*rows, *took, ("results", path), *(("picture", picture) for picture in drawn)])
        self.release()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _is_more(value, earlier) -> bool:
    return isinstance(value, int | float) and isinstance(earlier, int | float) and value > earlier


class _Progress(TrainerCallback):
    """
    Notes that a training has begun: everything of a checkpoint but the random state has been read by then. From here on the
    log says what each part of the training ran on, and every checkpoint what its files hold; the `limit` newest ones are kept, and
    the best.
    """

    def __init__(self, run: Run, limit: int | None):
        self.run = run
        self.limit = limit
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

    def on_save(self, args, state, control, **kwargs):
        # Each process writes its own random state.
        PartialState().wait_for_everyone()
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and checkpoint.is_dir():
            write_digests(checkpoint)
        if state.is_world_process_zero:
            rotate_checkpoints(args.output_dir, self.limit, state.best_model_checkpoint)
