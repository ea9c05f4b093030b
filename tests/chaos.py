# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
`python tests/chaos.py`: commands on small files under bad luck. They are killed at random moments, their files are torn, their disk is
full, their workers die, folders cannot be written, the clock jumps, flags are nonsense. What has to hold each time:

- no traceback, no abort, no hang; where a command gives up, one line on a line of its own and exit code 2,
- what was given is as it was, and the same command under good luck ends with exactly what a run leaves that had no bad luck.

What a trial does follows from its seed and its number, and `--only NUMBER` does it again; when, from how long the command takes here. What
a trial has said is in `answers.txt` of its folder.
"""

import argparse
import ctypes
import hashlib
import importlib
import json
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

HOME = tempfile.mkdtemp(prefix="chaos-home-")
os.environ |= {"HF_HOME": HOME, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from forked_commands import Answer, Found, Lost, check_answer, last_line, run
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM

from ernie_sparse import cli
from ernie_sparse.command_line import ArgumentParser

SIZES = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
# What is in the folder that all commands start in; their own output is not of it.
GIVEN = ("text.txt", "docs.jsonl", "rows.jsonl", "more.jsonl", "model", "classifier", "bert")


class Command(NamedTuple):
    words: tuple[str, ...]
    # Which of the files it leaves are the same after every good end.
    leaves: tuple[str, ...] = ()
    reads: tuple[str, ...] = GIVEN


def build(words: str, *leaves: str, reads: str) -> Command:
    return Command(tuple(words.split()), leaves, tuple(reads.split()))


MODEL = ("out/model.safetensors", "out/config.json")
TRAINING = (
    "--output-dir out --max-steps 6 --per-device-train-batch-size 4 --save-strategy steps --save-steps 2 --logging-steps 2 "
    "--report-to none"
)
PRETRAIN = f"pretrain --sample-by line {TRAINING}"
TEXT = "--model model --train-file text.txt docs.jsonl"
FINETUNE = f"finetune --model model --train-file rows.jsonl --validation-file more.jsonl {TRAINING}"
COMMANDS = {
    "pretrain": build(f"{PRETRAIN} {TEXT}", *MODEL, "out/tokenizer.json", reads="text.txt docs.jsonl model"),
    "pretrain, streamed": build(
        f"{PRETRAIN} {TEXT} --streaming true --dataloader-num-workers 2 --eval-strategy no",
        *MODEL,
        reads="text.txt docs.jsonl model",
    ),
    "pretrain, new tokenizer": build(
        f"{PRETRAIN} --train-file text.txt --train-tokenizer 300 --config {SIZES} --max-length 32",
        *(*MODEL, "out/tokenizer.json"),
        reads="text.txt",
    ),
    "finetune": build(f"{FINETUNE} --eval-strategy steps --eval-steps 2", *MODEL, reads="rows.jsonl more.jsonl model"),
    "finetune, workers": build(f"{FINETUNE} --dataloader-num-workers 2", *MODEL, reads="rows.jsonl more.jsonl model"),
    "predict": build(
        "predict --model classifier --input-file rows.jsonl --output-file out.jsonl",
        "out.jsonl",
        reads="rows.jsonl classifier",
    ),
    "convert": build("convert bert out --max-length 64", *MODEL, reads="bert"),
    "robustness": build(
        "robustness --model classifier --validation-file more.jsonl --output-dir out --patterns hierarchical=false --timing false",
        "out/robustness.md",
        reads="more.jsonl classifier",
    ),
    "show": build("show --model model", reads="model"),
    "export": build("export classifier out", reads="classifier"),
}
TRAINED = tuple(name for name in COMMANDS if name.startswith(("pretrain", "finetune")))
WRITING = (*TRAINED, "predict", "convert", "robustness")
WITH_WORKERS = tuple(name for name, command in COMMANDS.items() if "--dataloader-num-workers" in command.words)


def digest(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    if path.is_dir():
        parts = [f"{below.relative_to(path)} {digest(below)}" for below in sorted(path.rglob("*")) if below.is_file()]
        return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "nothing"


class Workspace:
    """
    The files that trials begin with, and what every command leaves where nothing goes wrong.

    Args:
        folder (`Path`): Where they lie.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.given = folder / "given"
        self.seconds, self.digests = {}, {}

    def prepare(self):
        """Write the files and run every command once."""
        self.given.mkdir(parents=True)
        draw = random.Random(0)
        words = [f"{first}{second}" for first in ("har", "le", "win", "sto") for second in ("bour", "mon", "ter", "ne")]

        def text(count: int) -> str:
            return " ".join(draw.choices(words, k=count))

        def write_rows(name: str, count: int, label: bool):
            rows = [
                {"text": text(draw.randint(3, 50))} | ({"label": words[i % 2]} if label else {}) for i in range(count)
            ]
            (self.given / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

        (self.given / "text.txt").write_text("\n".join(text(40) for _ in range(30)))
        write_rows("docs.jsonl", 20, False)
        write_rows("rows.jsonl", 24, True)
        write_rows("more.jsonl", 8, True)
        for name, command in (("model", "pretrain, new tokenizer"), ("classifier", "finetune")):
            answer = run(self.given, COMMANDS[command].words)
            if answer.code:
                sys.exit(answer.text)
            shutil.rmtree(self.given / "cache", ignore_errors=True)
            for checkpoint in self.given.glob("out/checkpoint-*"):
                shutil.rmtree(checkpoint)
            (self.given / "out").rename(self.given / name)
        shutil.copytree(
            self.given / "model", self.given / "bert", ignore=shutil.ignore_patterns("*.safetensors", "*.py")
        )
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        vocab_size = json.loads((self.given / "model/config.json").read_text())["vocab_size"]
        BertForMaskedLM(BertConfig(vocab_size=vocab_size, max_position_embeddings=32, **sizes)).save_pretrained(
            self.given / "bert"
        )
        self.given_digests = {name: digest(self.given / name) for name in GIVEN}
        for name, command in COMMANDS.items():
            place = self.copy(self.folder / "good" / name)
            begin = time.monotonic()
            answer = run(place, command.words)
            if answer.code:
                sys.exit(f"{shlex.join(command.words)}: {answer.text}")
            self.seconds[name] = time.monotonic() - begin
            self.digests[name] = {path: digest(place / path) for path in command.leaves}
        for name in TRAINED:
            self.break_off(name)

    def break_off(self, name: str):
        """A training that was killed behind its second checkpoint, in `half/NAME`."""
        place = self.copy(self.folder / "half" / name)

        def kill(pid: int, seconds: float):
            if (place / "out/checkpoint-4/digests.json").is_file():
                os.kill(pid, signal.SIGKILL)

        if run(place, COMMANDS[name].words, meddle=kill).code != -signal.SIGKILL:
            sys.exit(f"{name} was not killed")

    def copy(self, place: Path, name: str | None = None) -> Path:
        """The files to begin with in a new folder, with the broken-off training of a command's."""
        shutil.copytree(self.folder / "half" / name if name else self.given, place)
        return place

    def check_given(self, place: Path, *but: str):
        """Raise [`Lost`] where something of what was given is no longer as it was."""
        for name in GIVEN:
            if name not in but and digest(place / name) != self.given_digests[name]:
                raise Lost(f"{name} is not as it was")

    def check_end(self, place: Path, name: str):
        """Run a command once more, under good luck, unless it is done: it must end as it always does."""
        if name not in TRAINED and (place / COMMANDS[name].leaves[0]).exists():
            return self.check_result(place, name)
        answer = run(place, COMMANDS[name].words)
        check_answer(answer)
        if answer.code:
            raise Lost(f"does not go on: {last_line(answer.text)}")
        self.check_result(place, name)

    def check_result(self, place: Path, name: str):
        for path, expected in self.digests[name].items():
            if digest(place / path) != expected:
                raise Lost(f"{path} is not what it is without bad luck")
        left = [path.name for path in place.rglob("*.partial")]
        if left:
            raise Found(f"{left} stays")


def checkpoints(place: Path) -> set[str]:
    return {path.name for path in place.glob("out/checkpoint-*")}


def check_checkpoints(place: Path, before: set[str], answer: Answer):
    """What has gone on has newer ones."""
    if answer.code and (missing := before - checkpoints(place)):
        raise Lost(f"{', '.join(sorted(missing))}: gone")


def killed(workspace: Workspace, draw: random.Random, place: Path) -> Iterator[str]:
    name = draw.choice(WRITING)
    workspace.copy(place)
    tried = []
    for _ in range(draw.randint(1, 3)):
        number = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        due = draw.uniform(0, 1.1 * workspace.seconds[name])
        tried.append(f"{number.name} after {due:.2f} s")
        yield f"{name}: {', '.join(tried)}"
        sent = []

        def kill(pid: int, seconds: float, number=number, due=due, sent=sent):
            if seconds >= due and not sent:
                sent.append(os.kill(pid, number))

        check_answer(run(place, COMMANDS[name].words, meddle=kill), number)
        workspace.check_given(place)
    workspace.check_end(place, name)


def damage(draw: random.Random, path: Path) -> str:
    """Do something to a file; what it was."""
    content = path.read_bytes()
    kind = draw.choice(("cut", "empty", "bytes", "gone", "folder", "null", "zeros"))
    if kind == "cut":
        path.write_bytes(content[: draw.randint(0, max(0, len(content) - 1))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "bytes" and content:
        content = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
    elif kind == "null":
        path.write_text(draw.choice(("null", "[]", "{}", '"x"', "-1")))
    elif kind == "zeros":
        path.write_bytes(bytes(len(content)))
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
    return kind


def torn_checkpoint(workspace: Workspace, draw: random.Random, place: Path) -> Iterator[str]:
    name = draw.choice(TRAINED)
    workspace.copy(place, name)
    path = draw.choice(sorted(path for path in place.glob("out/**/*") if path.is_file()))
    before = checkpoints(place)
    yield f"{name}: {path.relative_to(place)} {damage(draw, path)}"
    answer = run(place, COMMANDS[name].words)
    check_answer(answer)
    workspace.check_given(place)
    check_checkpoints(place, before, answer)
    if answer.code == 0:
        workspace.check_result(place, name)
    elif "out" not in last_line(answer.text):
        raise Found(f"which folder? {last_line(answer.text)}")


def torn_input(workspace: Workspace, draw: random.Random, place: Path) -> Iterator[str]:
    name = draw.choice(tuple(COMMANDS))
    workspace.copy(place)
    given = draw.choice(COMMANDS[name].reads)
    paths = (
        [place / given]
        if (place / given).is_file()
        else sorted(path for path in (place / given).rglob("*") if path.is_file())
    )
    path = draw.choice(paths)
    yield f"{name}: {path.relative_to(place)} {damage(draw, path)}"
    check_answer(run(place, COMMANDS[name].words))
    workspace.check_given(place, given)


def full_disk(workspace: Workspace, draw: random.Random, place: Path) -> Iterator[str]:
    name = draw.choice(WRITING)
    is_half = name in TRAINED and draw.random() < 0.5
    workspace.copy(place, name if is_half else None)
    before = checkpoints(place)
    size = int(10 ** draw.uniform(1, 5.3))
    yield f"{name}: files of at most {size} bytes{', behind checkpoints' if is_half else ''}"
    answer = run(place, COMMANDS[name].words, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    check_answer(answer)
    workspace.check_given(place)
    check_checkpoints(place, before, answer)
    workspace.check_end(place, name)


def dead_worker(workspace: Workspace, draw: random.Random, place: Path) -> Iterator[str]:
    name = draw.choice(WITH_WORKERS)
    workspace.copy(place)
    due, which, dead = draw.uniform(0, workspace.seconds[name]), draw.random(), []
    yield f"{name}: a worker after {due:.2f} s"

    def kill(pid: int, seconds: float):
        if seconds >= due and not dead:
            try:
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                if children:
                    dead.append(os.kill(int(children[int(which * len(children))]), signal.SIGKILL))
            except (FileNotFoundError, ProcessLookupError):
                pass

    check_answer(run(place, COMMANDS[name].words, meddle=kill))
    workspace.check_given(place)
    workspace.check_end(place, name)


def read_only(workspace: Workspace, draw: random.Random, place: Path) -> Iterator[str]:
    name = draw.choice(WRITING)
    is_half = name in TRAINED and draw.random() < 0.5
    workspace.copy(place, name if is_half else None)
    before = checkpoints(place)
    (place / "cache").mkdir(exist_ok=True)
    places = [place, place / "cache", *(place / given for given in COMMANDS[name].reads)]
    places += list(place.glob("out/**/*")) + [place / "out"] * 3 * is_half
    path = draw.choice(places)
    mode = draw.choice((0o555, 0o000) if path.is_dir() else (0o444, 0o000))
    yield f"{name}: {path.relative_to(place)} {mode:o}"
    usual = path.stat().st_mode
    path.chmod(mode)
    answer = run(place, COMMANDS[name].words, obey_modes)
    if path.exists():
        path.chmod(usual)
    check_answer(answer)
    workspace.check_given(place)
    check_checkpoints(place, before, answer)
    workspace.check_end(place, name)


def obey_modes():
    """Root may read and write everything, but for what it gives up here (capset(2), by its numbers)."""
    if os.getuid() == 0:
        library = ctypes.CDLL(None, use_errno=True)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        override, search = 1, 2
        if library.capget(header, sets):
            raise OSError(ctypes.get_errno(), "capget")
        sets[0] &= ~(1 << override | 1 << search)
        if library.capset(header, sets):
            raise OSError(ctypes.get_errno(), "capset")


def jumping_clock(workspace: Workspace, draw: random.Random, place: Path) -> Iterator[str]:
    name = draw.choice(TRAINED)
    workspace.copy(place, name)
    seed = draw.random()
    for path in place.glob("out/**/*"):
        moment = draw.uniform(0, 4e9)
        os.utime(path, (moment, moment))
    yield f"{name}: jumps of up to a year"

    def jump():
        now, jumps = time.time, random.Random(seed)
        time.time = lambda: now() + jumps.uniform(-3e7, 3e7)

    check_answer(run(place, COMMANDS[name].words, jump))
    workspace.check_given(place)
    workspace.check_end(place, name)


NUMBERS = (
    "-1",
    "0",
    "1",
    "3",
    "1000000000",
    "1000000000000000000000",
    "nan",
    "inf",
    "-inf",
    "0.5",
    "1e308",
    "1e-308",
    "x",
    "",
)
TEXTS = (
    *(
        "",
        " ",
        "nope",
        "/dev/null",
        "/nope/x",
        "model",
        "text.txt",
        "rows.jsonl",
        ".",
        "..",
        "out",
        "null",
        "[]",
        "{}",
        '{"a": 1}',
    ),
    *(
        "a=1",
        "block_size=0",
        "block_size=-1",
        "\u00fc\u0416",
        "x" * 5000,
        "\udcff",
        "%s{0}",
        "true",
        "-",
        "hf_nope/nope",
        "0",
        "-1",
    ),
)
# What a compiler does takes longer than a trial may.
NOT_DRAWN = ("torch_compile", "torch_compile_backend", "torch_compile_mode", "help_all")


def actions_of(name: str) -> list[argparse.Action]:
    """The flags of a command, as its parser has them."""

    class Seen(BaseException):
        pass

    def parse_known_args(self, args=None, namespace=None):
        raise Seen(self)

    original = ArgumentParser.parse_known_args
    ArgumentParser.parse_known_args = parse_known_args
    try:
        importlib.import_module(cli.COMMANDS[name][0]).main([])
    except Seen as seen:
        return [action for action in seen.args[0]._actions if action.option_strings and action.dest not in NOT_DRAWN]
    finally:
        ArgumentParser.parse_known_args = original
    raise RuntimeError(f"{name} has no parser of ours")


def bad_flags(workspace: Workspace, draw: random.Random, place: Path) -> Iterator[str]:
    name = draw.choice(tuple(COMMANDS))
    workspace.copy(place)
    words = []
    actions = actions_of(COMMANDS[name].words[0])
    for _ in range(draw.choice((1, 1, 1, 2))):
        action = draw.choice(actions)
        words.append(draw.choice(action.option_strings))
        if action.nargs == 0:
            continue
        pool = NUMBERS if action.type in (int, float) else (*TEXTS, *map(str, action.choices or ()))
        words.extend(draw.choice(pool) for _ in range(draw.randint(1, 2) if action.nargs in ("+", "*") else 1))
    yield f"{name}: {shlex.join(words)}"
    sent = []

    def stop(pid: int, seconds: float):
        # A million updates are no mistake.
        if seconds > 15 and not sent:
            sent.append(os.kill(pid, signal.SIGTERM))

    def bound_memory():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 6 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    check_answer(run(place, (*COMMANDS[name].words, *words), bound_memory, stop), signal.SIGTERM)
    workspace.check_given(place)


# How many of 20 trials.
KINDS = {
    killed: 4,
    torn_checkpoint: 3,
    torn_input: 3,
    full_disk: 2,
    dead_worker: 1,
    read_only: 2,
    jumping_clock: 1,
    bad_flags: 4,
}


class Outcome(NamedTuple):
    number: int
    kind: str
    tried: str
    found: str
    is_lost: bool
    seconds: float


def trial(workspace: Workspace, seed: int, number: int) -> Outcome:
    """One trial, which follows from the seed and its number."""
    draw = random.Random(f"{seed} {number}")
    (kind,) = draw.choices(tuple(KINDS), tuple(KINDS.values()))
    place, tried, found, is_lost, begin = workspace.folder / "trials" / str(number), "", "", False, time.monotonic()
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(exist_ok=True)
    try:
        for tried in kind(workspace, draw, place):  # noqa: B007
            pass
    except Found as error:
        found, is_lost = str(error), isinstance(error, Lost)
    except Exception:
        found = f"of the trial itself: {traceback.format_exc()}"
    if not found:
        shutil.rmtree(place, ignore_errors=True)
    return Outcome(number, kind.__name__.replace("_", " "), tried, found, is_lost, time.monotonic() - begin)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="numbers of trials; what they leave stays")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--folder", default="chaos_output", help="removed at the start; what failed trials leave is kept in it"
    )
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    for stream in (sys.stdout, sys.stderr):
        # Flags are drawn that no terminal can show.
        stream.reconfigure(errors="backslashreplace")
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0
    for module, _ in cli.COMMANDS.values():
        importlib.import_module(module)
    folder = Path(args.folder).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    workspace = Workspace(folder)
    workspace.prepare()
    numbers = args.only or range(args.trials)
    tried, found, lost, seconds = Counter(), Counter(), Counter(), Counter()
    with ProcessPoolExecutor(args.jobs, get_context("fork")) as pool, tqdm(total=len(numbers), unit="trial") as bar:
        for future in [pool.submit(trial, workspace, args.seed, number) for number in numbers]:
            future.add_done_callback(lambda _: bar.update())
            outcome = future.result()
            tried[outcome.kind] += 1
            seconds[outcome.kind] += outcome.seconds
            if outcome.found:
                (lost if outcome.is_lost else found)[outcome.kind] += 1
                bar.write(f"#{outcome.number} {outcome.kind} | {outcome.tried} | {outcome.found}")
            elif args.only:
                bar.write(f"#{outcome.number} {outcome.kind} | {outcome.tried} | well")
    print(f"{'':16}{'tried':>8}{'found':>8}{'lost':>8}{'seconds':>9}")
    for kind in sorted(tried):
        print(f"{kind:16}{tried[kind]:8}{found[kind]:8}{lost[kind]:8}{seconds[kind]:9.0f}")
    print(f"{'all':16}{tried.total():8}{found.total():8}{lost.total():8}{seconds.total():9.0f}")
    shutil.rmtree(HOME, ignore_errors=True)
    return int(bool(found or lost))


if __name__ == "__main__":
    sys.exit(main())
