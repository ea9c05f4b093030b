# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
Folders of models whose files are damaged: one line that names the file. And what commands write: whole or not at all, for everyone
whom the user's umask lets read it.
"""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_conversion import build as build_source
from test_conversion import save_tokenizer
from test_export import build, write_model
from test_finetune_predict import arguments as finetune_arguments
from test_finetune_predict import make_rows, make_tokenizer, write_jsonl
from transformers.utils import logging

from ernie_sparse import ErnieSparseForMaskedLM, cli, conversion, export, files
from ernie_sparse.errors import InputError
from ernie_sparse.files import open_to_readers, whole_file, whole_folder, write_text
from ernie_sparse.run import Run
from ernie_sparse.trainer import SaorTrainer
from ernie_sparse.training_arguments import RunArguments

KINDS = ("single_label", "question_answering", "token_classification")


def run(argv) -> int:
    return cli.main([str(word) for word in argv])


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Folders as commands leave them, of models that have learned nothing, and rows for them."""
    root = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    for kind in KINDS:
        write_model(root / kind, kind)
        write_jsonl(root / f"{kind}.jsonl", make_rows(kind, 8, 0))
    build(ErnieSparseForMaskedLM).save_pretrained(root / "masked_lm")
    make_tokenizer().save_pretrained(root / "masked_lm")
    (root / "masked_lm.txt").write_text("north snow ice lemon bee wind . " * 30)
    build_source("Bert", "ForMaskedLM").save_pretrained(root / "bert")
    save_tokenizer(root / "bert")
    for code in root.glob("*/*.py"):
        code.unlink()
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has come to its end after one update."""
    out = tmp_path_factory.mktemp("trained") / "out"
    assert run(finetune_arguments(out, "--max-steps", 1)) == 0
    return out


def command(name: str, model: Path, given: Path, out: Path) -> list:
    """A command that reads the model in `model`."""
    kind = model.name
    rows = given / (f"{kind}.jsonl" if kind in KINDS else "masked_lm.txt")
    training = ("--output-dir", out, "--max-steps", 1, "--report-to", "none", "--disable-tqdm", "true")
    task = kind if kind in KINDS else "single_label"
    return {
        "convert": ["convert", model, out, "--max-length", 100],
        "export": ["export", model, out],
        "finetune": ["finetune", "--model", model, "--kind", task, "--train-file", given / f"{task}.jsonl", *training],
        "predict": ["predict", "--model", model, "--input-file", rows, "--output-file", out / "out.jsonl"],
        "pretrain": ["pretrain", "--model", model, "--train-file", given / "masked_lm.txt", *training],
        "robustness": [
            *("robustness", "--model", model, "--validation-file", rows, "--output-dir", out),
            *("--patterns", "hierarchical=false", "--timing", "false"),
        ],
        "show": ["show", "--model", model],
    }[name]


def half(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder_instead(path: Path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "half": half,
    "empty": lambda path: path.write_bytes(b""),
    "10 bytes": lambda path: path.write_bytes(path.read_bytes()[:10]),
    "garbage": lambda path: path.write_bytes(b"\xff\x00garbage" * 50),
    "null": lambda path: path.write_text("null"),
    "a list": lambda path: path.write_text("[]"),
    "a text": lambda path: path.write_text('"x"'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a folder": folder_instead,
}
OF_JSON = {
    "half": "is damaged (it is no JSON: ",
    "empty": "is damaged (it is empty)",
    "10 bytes": "is damaged (it is no JSON: ",
    "garbage": "is damaged (it is no text in UTF-8)",
    "null": "is damaged (it is no JSON object)",
    "a list": "is damaged (it is no JSON object)",
    "a text": "is damaged (it is no JSON object)",
    "deep": "is damaged (it is nested too deeply)",
}
# What the others nearly say: of files that one function reads.
NEARLY = [damage for damage in OF_JSON if damage not in ("half", "deep")]
OF_WEIGHTS = dict.fromkeys(("half", "empty", "10 bytes", "garbage", "null", "a folder"), "is damaged (")
READERS = ("convert", "export", "finetune", "pretrain", "robustness")


def field(name: str, *value):
    """Another value of a field of JSON; none where it is to be missing."""

    def change(path: Path):
        content = json.loads(path.read_text())
        content.pop(name)
        path.write_text(json.dumps({**content, **({name: value[0]} if value else {})}))

    return change


def of(kind: str):
    """The file of another model."""
    return lambda path: shutil.copyfile(path.parent.parent / kind / path.name, path)


def labelled(*names):
    return field("id2label", dict(enumerate(names)))


# Model, file, damage, command: a part of the message, in which {path} is the file and {folder} its folder.


def of_damage(kind: str, name: str, damage: str, *others):
    return pytest.param(kind, name, damage, *others, marks=[pytest.mark.slow] * (damage in NEARLY))


ROWS = [
    *(("single_label", "config.json", how, "predict", f"{{path}} {says}") for how, says in OF_JSON.items()),
    *(
        ("masked_lm", "config.json", "empty", name, "{path} is damaged (it is empty)")
        for name in (*READERS[1:], "show")
    ),
    ("bert", "config.json", "empty", "convert", "{path} is damaged (it is empty)"),
    ("bert", "config.json", "null", "convert", "{path} is damaged (it is no JSON object)"),
    ("single_label", "config.json", "a folder", "show", "there is no config.json in this folder"),
    *(
        of_damage("single_label", name, how, "predict", f"{{path}} {says}")
        for name in files.TOKENIZER_FILES[:2]
        for how, says in OF_JSON.items()
    ),
    *(("masked_lm", "tokenizer.json", "half", name, "{path} is damaged (it is no JSON") for name in READERS[1:]),
    *(("bert", name, "half", "convert", "{path} is damaged (it is no JSON") for name in files.TOKENIZER_FILES[:2]),
    *(("single_label", "model.safetensors", how, "predict", f"{{path}} {says}") for how, says in OF_WEIGHTS.items()),
    *(("masked_lm", "model.safetensors", "half", name, "{path} is damaged (") for name in READERS[1:]),
    ("bert", "model.safetensors", "half", "convert", "{path} is damaged ("),
    *(
        of_damage(
            "single_label",
            "finetune.json",
            how,
            "predict",
            f"{{path}} is not a file of `ernie-sparse finetune`: {says[12:-1]}",
        )
        for how, says in OF_JSON.items()
    ),
    ("question_answering", "finetune.json", "half", "robustness", "{path} is not a file of `ernie-sparse finetune`: "),
    ("single_label", "finetune.json", "a folder", "predict", "{folder} has no finetune.json"),
]
FIELDS = [
    ("config.json", field("model_type"), "{path}: model_type None is no name"),
    ("config.json", field("model_type", ["bert"]), "{path}: model_type ['bert'] is no name"),
    ("config.json", of("bert"), "is a bert checkpoint: an ernie_sparse one is needed"),
    ("config.json", field("id2label", []), "{path}: id2label=[] is not allowed"),
    ("config.json", field("id2label", {"a": "north"}), "{path}: id2label="),
    ("config.json", labelled("north", ["south"]), "{path}: id2label holds ['north', ['south']]: names are needed"),
    ("config.json", labelled("north", None), "{path}: id2label holds"),
    (
        "config.json",
        labelled("north", "south", "west"),
        "has shapes that do not fit its config.json: classifier.bias",
    ),
    ("config.json", labelled("north"), "{path}: "),
    ("config.json", labelled("north", "north"), "id2label in config.json names the class 'north' twice"),
    ("config.json", field("architectures", 3), "{path}: "),
    ("config.json", field("architectures", [None]), "{path}: architectures holds [None]: names are needed"),
    ("config.json", field("dtype", "x"), "{path}: "),
    ("config.json", field("hidden_size", "32"), "{path}: Field 'hidden_size' expected int"),
    ("config.json", field("bos_token_id", "x"), "{path}: "),
    ("tokenizer.json", field("model"), "{path} is damaged ("),
    ("tokenizer.json", field("added_tokens", None), "{path} is damaged ("),
    ("tokenizer.json", lambda path: path.write_text("{}"), "{path} is damaged (it lacks added_tokens)"),
    ("tokenizer.json", Path.unlink, "cannot be read (there is no tokenizer.json): "),
    ("tokenizer.json", field("model", {"type": "WordPiece", "vocab": {}}), "{path} is damaged ("),
    ("tokenizer_config.json", field("pad_token", -1), "{path}: TypeError: Special token"),
    (
        "tokenizer_config.json",
        field("pad_token", None),
        "has no pad token, which its tokenizer_config.json should name: batches need one",
    ),
    ("tokenizer_config.json", field("model_max_length", "x"), "{path}: model_max_length 'x' is no number of tokens"),
    ("tokenizer_config.json", field("model_max_length", 0.5), "{path}: model_max_length 0.5 is no number of tokens"),
    ("tokenizer_config.json", field("model_max_length", 0), "{path}: model_max_length 0 is no number of tokens"),
    ("model.safetensors", of("masked_lm"), "lacks: classifier.bias, classifier.weight"),
    ("model.safetensors", of("bert"), "lacks: classifier.bias, classifier.weight"),
    ("model.safetensors", Path.unlink, "model.safetensors"),
    ("finetune.json", of("token_classification"), "tokens"),
    ("finetune.json", Path.unlink, "has no finetune.json: it was not written by `ernie-sparse finetune`"),
    ("finetune.json", field("task_type", "poetry"), "task_type 'poetry' is not one of single_label, "),
    ("finetune.json", field("task_type", ["regression"]), "task_type ['regression'] is not one of single_label, "),
    ("finetune.json", field("columns"), "{path} is not a file of `ernie-sparse finetune`: columns None is no mapping"),
    ("finetune.json", field("columns", ["text"]), "columns ['text'] is no mapping of roles to names"),
    ("finetune.json", field("columns", {"text": 3}), "columns {{'text': 3}} is no mapping of roles to names"),
    ("finetune.json", field("columns", {"label": "y"}), "columns has none for text"),
    ("finetune.json", field("stride", "x"), "stride 'x' is no whole number from 0"),
    ("finetune.json", field("stride", -1), "stride -1 is no whole number from 0"),
    ("finetune.json", field("num_best", True), "num_best True is no whole number from 1"),
    ("finetune.json", field("num_best", 10**30), "is no whole number from 1"),
    ("finetune.json", field("max_answer_length", 0), "max_answer_length 0 is no whole number from 1"),
    ("finetune.json", field("long_documents", "x"), "long_documents 'x' is not one of head, tail"),
    ("finetune.json", field("null_threshold", "x"), "null_threshold 'x' is no number"),
    ("finetune.json", field("null_threshold", float("inf")), "null_threshold inf is no number, or too large a one"),
]


def assert_refused(argv, expected: str, capsys):
    capsys.readouterr()
    assert run(argv) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1 and expected in errors[0], errors
    assert "weights_only" not in errors[0] and len(errors[0]) < 1000


@pytest.fixture
def no_training(monkeypatch):
    """A damaged folder is found before anything is trained or traced."""

    def never(*args):
        raise AssertionError("it has begun")

    monkeypatch.setattr(Run, "train", never)
    monkeypatch.setattr(export, "trace", never)


def copied(given: Path, kind: str, tmp_path: Path) -> Path:
    """A folder to damage, with the others beside it."""
    tmp_path.mkdir(exist_ok=True)
    for other in given.iterdir():
        if other.name == kind:
            shutil.copytree(other, tmp_path / kind)
        else:
            (tmp_path / other.name).symlink_to(other)
    return tmp_path / kind


@pytest.mark.parametrize("kind, name, damage, reader, expected", ROWS, ids=lambda value: str(value)[:30])
def test_a_damaged_file_is_named_in_one_line(
    kind, name, damage, reader, expected, given, tmp_path, capsys, no_training
):
    folder = copied(given, kind, tmp_path)
    DAMAGES[damage](folder / name)
    argv = command(reader, folder, given, tmp_path / "out")
    assert_refused(argv, expected.format(path=folder / name, folder=folder), capsys)


@pytest.mark.parametrize("number", range(len(FIELDS)), ids=lambda number: f"{FIELDS[number][0]}-{number}")
def test_a_file_that_holds_something_else_is_named(number, given, tmp_path, capsys):
    name, change, expected = FIELDS[number]
    folder = copied(given, "single_label", tmp_path)
    change(folder / name)
    argv = command("predict", folder, given, tmp_path / "out")
    assert_refused(argv, expected.format(path=folder / name, folder=folder), capsys)


CHECKPOINT = [
    *("config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "tokenizer.json"),
    *("tokenizer_config.json", "trainer_state.json"),
]


@pytest.mark.parametrize("digests", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", ["half", *(pytest.param(how, marks=pytest.mark.slow) for how in ("empty", "null"))])
@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_damaged_file_of_a_checkpoint_is_named(name, damage, digests, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "out", ignore=shutil.ignore_patterns("results.json"))
    checkpoint = tmp_path / "out" / "checkpoint-1"
    if not digests:
        # As of a run that was killed before it wrote them.
        (checkpoint / "digests.json").unlink()
    DAMAGES[damage](checkpoint / name)
    argv = finetune_arguments(tmp_path / "out", "--max-steps", 2, "--resume-from-checkpoint", checkpoint)
    says = "its trainer_state.json is missing or cut off" if name == "trainer_state.json" else f"{name} is damaged ("
    assert_refused(argv, f"{checkpoint}: {says}", capsys)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("epoch", None), ("log_history", [3]), ("stateful_callbacks", {"a": 1}), ("best_model_checkpoint", 0.5)),
        *(
            pytest.param(name, value, marks=pytest.mark.slow)
            for name, values in {
                "epoch": (10**30, float("inf")),
                "log_history": (3, {"a": 1}),
                "stateful_callbacks": ([],),
                "logging_steps": ("x",),
                "total_flos": ([],),
                "num_input_tokens_seen": ("x",),
            }.items()
            for value in values
        ),
    ],
)
def test_a_state_that_holds_something_else_is_named(name, value, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "out", ignore=shutil.ignore_patterns("results.json", "digests.json"))
    checkpoint = tmp_path / "out" / "checkpoint-1"
    field(name, value)(checkpoint / "trainer_state.json")
    argv = finetune_arguments(tmp_path / "out", "--max-steps", 2)
    expected = f"{checkpoint}: trainer_state.json is damaged (its {name} cannot be {str(value)!r})"
    assert_refused(argv, expected, capsys)


@pytest.mark.parametrize(
    "damage", [pytest.param(how, marks=[pytest.mark.slow] * (how not in ("half", "null"))) for how in OF_JSON]
)
@pytest.mark.parametrize(
    "name, then", [("run.json", "is missing or damaged"), ("results.json", "is damaged: delete it")]
)
def test_a_damaged_record_of_a_run_is_named(name, then, damage, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "out")
    DAMAGES[damage](tmp_path / "out" / name)
    assert_refused(finetune_arguments(tmp_path / "out", "--max-steps", 1), f"{tmp_path / 'out' / name} {then}", capsys)


def test_weights_that_hold_code_are_refused_without_advice_to_run_it(given, tmp_path, capsys):
    folder = copied(given, "bert", tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Poisoned(tmp_path / "it ran")}, folder / "pytorch_model.bin")
    expected = f"{folder / 'pytorch_model.bin'}: it is no file of weights, or holds more than weights"
    assert_refused(command("convert", folder, given, tmp_path / "out"), expected, capsys)
    assert not (tmp_path / "it ran").exists()


class Poisoned:
    """What makes a folder where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "masked_lm", "bert"])
def test_no_damage_of_any_file_ends_in_a_traceback(kind, given, tmp_path, no_training):
    names = [path.name for path in (given / kind).iterdir() if path.suffix in (".json", ".safetensors", ".txt")]
    readers = ("convert",) if kind == "bert" else (*READERS[1:], *(["predict"] if kind in KINDS else []), "show")
    other = "single_label" if kind == "bert" else "bert"
    tried = 0
    for name in names:
        changes = {**DAMAGES, "missing": Path.unlink}
        if (given / other / name).exists():
            changes["of another model"] = of(other)
        for damage, change in changes.items():
            for reader in readers:
                folder = copied(given, kind, tmp_path / f"{tried}")
                change(folder / name)
                try:
                    code = run(command(reader, folder, given, folder.parent / "out"))
                except AssertionError as error:
                    # Nothing was wrong with what this command needs.
                    assert str(error) == "it has begun"
                    code = 0
                assert code in (0, 2), (name, damage, reader)
                shutil.rmtree(folder.parent)
                tried += 1
    assert tried > 40


def test_of_a_checkpoint_with_tied_weights_none_is_called_missing(given, tmp_path, caplog, monkeypatch):
    argv = command("pretrain", given / "masked_lm", given, tmp_path / "out")
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    caplog.set_level("WARNING", logger="transformers")
    assert run([*argv, "--save-steps", 1, "--save-strategy", "steps"]) == 0
    argv[argv.index("--max-steps") + 1] = 2
    assert run([*argv, "--save-steps", 1, "--save-strategy", "steps"]) == 0
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert not [text for text in said if "missing" in text or "corrupt" in text], said
    # Of weights that are nowhere in it, it is said.
    untied = build(ErnieSparseForMaskedLM, tie_word_embeddings=False)
    trainer = SaorTrainer(
        untied, RunArguments(output_dir=str(tmp_path / "untied"), report_to="none", eval_strategy="no")
    )
    with trainer._ties_unreported():
        trainer._issue_warnings_after_load(untied.load_state_dict({}, strict=False))
    assert "There were missing keys in the checkpoint model loaded" in caplog.text


def modes(folder: Path) -> set[str]:
    return {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("mask, mode", [(0o022, "0o644"), (0o007, "0o660"), (0o077, "0o600")])
def test_files_have_the_mode_that_the_users_umask_gives(mask, mode, given, tmp_path):
    earlier = os.umask(mask)
    try:
        assert run(command("convert", given / "bert", given, tmp_path / "converted")) == 0
        if mask == 0o022:
            assert run(finetune_arguments(tmp_path / "trained", "--max-steps", 1)) == 0
    finally:
        os.umask(earlier)
    assert modes(tmp_path) == {mode}


def test_a_model_that_robustness_saves_is_for_all_readers(given, tmp_path):
    from ernie_sparse.robustness.runner import save

    model = build(ErnieSparseForMaskedLM)
    subject = type("", (), {"model": model, "kind": "masked_lm"})
    save(tmp_path / "saved", str(given / "masked_lm"), "hierarchical=false", subject, make_tokenizer())
    assert modes(tmp_path) == {oct(0o666 & ~_umask())} and not list(tmp_path.glob(".*"))
    assert load_file(tmp_path / "saved" / "model.safetensors").keys()
    shutil.copytree(given / "masked_lm", tmp_path / "own")
    before = json.loads((tmp_path / "own" / "config.json").read_text())
    save(tmp_path / "own", str(tmp_path / "own"), "block_size=16,hierarchical=false", subject, make_tokenizer())
    after = json.loads((tmp_path / "own" / "config.json").read_text())
    assert after["block_size"] == 16 and not after["hierarchical"]
    assert after.keys() == before.keys() and after["vocab_size"] == before["vocab_size"]


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "deep" / "file.txt", "first")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "deep" / "file.txt") as temporary:
        temporary.write_text("sec")
        raise RuntimeError
    assert (tmp_path / "deep" / "file.txt").read_text() == "first"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file.txt"]


@pytest.mark.parametrize("replaces", [True, False])
def test_a_folder_is_written_whole_or_not_at_all(replaces, tmp_path):
    out = tmp_path / "out"
    if replaces:
        out.mkdir()
        (out / "old").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RuntimeError), whole_folder(out, tmp_path, replaces) as complete:
        (complete / "new").touch()
        raise RuntimeError
    assert sorted(tmp_path.rglob("*")) == before
    with whole_folder(out, tmp_path, replaces) as complete:
        (complete / "new").touch()
    assert sorted(tmp_path.rglob("*")) == [out, out / "new"]
    with pytest.raises(OSError), whole_folder(out, tmp_path) as complete:
        # What has come there in the meantime is not written over.
        (complete / "newer").touch()
    assert sorted(tmp_path.rglob("*")) == [out, out / "new"]


def test_what_a_killed_command_has_left_is_removed_by_the_next_one(given, tmp_path, monkeypatch):
    argv = command("convert", given / "bert", given, tmp_path / "out")
    process = os.fork()
    if not process:
        monkeypatch.setattr(conversion, "write_json", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        run(argv)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name == ".out.partial" and (left / "complete" / "model.safetensors").is_file()
    (left / "complete" / "torn.json").touch()
    assert run(argv) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "torn.json").exists()


def test_what_a_running_command_prepares_is_left_alone(tmp_path):
    with whole_folder(tmp_path / "out", tmp_path) as complete:
        (complete / "file").touch()
        process = os.fork()
        if not process:
            try:
                with whole_folder(tmp_path / "out", tmp_path):
                    os._exit(0)
            except InputError as error:
                os._exit(2 if "is being written by another command" in str(error) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2
        assert (complete / "file").exists()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("out"), Path("out/file")]


def test_what_somebody_else_calls_so_is_left_alone(tmp_path):
    for content in ("mine", "complete"):
        shutil.rmtree(tmp_path / ".out.partial", ignore_errors=True)
        (tmp_path / ".out.partial" / content).mkdir(parents=True)
        with (
            pytest.raises(InputError, match=r"is in the way of .*: move it away"),
            whole_folder(tmp_path / "out", tmp_path),
        ):
            pass
        assert (tmp_path / ".out.partial" / content).is_dir()


def test_only_weights_change_their_mode(tmp_path):
    for name in ("model.safetensors", "secret.json"):
        (tmp_path / name).touch(0o600)
    open_to_readers(tmp_path)
    assert (tmp_path / "secret.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~_umask()
