# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The command line from end to end on tiny files: what it leaves, how it goes on, and what it says of bad input."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from datasets import Dataset
from huggingface_hub import logging as hub_logging
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from ernie_sparse import SparsePattern, __version__, cli
from ernie_sparse.errors import InputError, is_hub_error
from ernie_sparse.help import HELP
from ernie_sparse.trainer import DivergedError, SaorTrainer

SENTENCES = {
    "north": "The north wind carried snow over the frozen harbour and the ships waited in the ice. ",
    "south": "In the southern orchard the lemons ripened while the bees hummed in the warm grass. ",
}
SIZES = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=48,hidden_dropout_prob=0.0"


def documents(count: int) -> list[dict]:
    labels = [list(SENTENCES)[number % 2] for number in range(count)]
    return [
        {"text": f"{number}: " + SENTENCES[label] * (3 + number % 3), "label": label}
        for number, label in enumerate(labels)
    ]


def write_jsonl(path, rows: list[dict]):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path, rows: list[dict]):
    Dataset.from_list(rows).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with text, a pretrained model and classification files."""
    folder = tmp_path_factory.mktemp("cli")
    for name, sentence in SENTENCES.items():
        (folder / f"{name}.txt").write_text(sentence * 60)
    write_jsonl(folder / "train.jsonl", documents(32))
    write_jsonl(folder / "dev.jsonl", documents(8))
    assert run(pretrain_arguments(folder, folder / "pretrained")) == 0
    return folder


def run(argv) -> int:
    return cli.main([str(word) for word in argv])


def pretrain_arguments(folder, output_dir, *more):
    return [
        *("pretrain", "--train-file", folder / "north.txt", folder / "south.txt", "--train-tokenizer", 300),
        *("--config", SIZES, "--pattern", "block_size=16", "--max-length", 64, "--output-dir", output_dir),
        *("--max-steps", 6, "--per-device-train-batch-size", 4, "--logging-steps", 2, "--disable-tqdm", "true"),
        *("--save-strategy", "steps", "--save-steps", 3, "--learning-rate", 1e-3, *more),
    ]


def finetune_arguments(folder, output_dir, *more):
    return [
        *("finetune", "--model", folder / "pretrained", "--train-file", folder / "train.jsonl"),
        *("--validation-file", folder / "dev.jsonl", "--output-dir", output_dir, "--disable-tqdm", "true"),
        *("--num-train-epochs", 8, "--per-device-train-batch-size", 8, "--learning-rate", 3e-3, *more),
    ]


def test_pretrain_leaves_a_loadable_model_results_and_a_picture(workspace):
    out = workspace / "pretrained"
    model = AutoModelForMaskedLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    results = json.loads((out / "results.json").read_text())
    assert str(model.config.pattern).startswith("block_size=16,")
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 64
    assert model.config.vocab_size == len(tokenizer) <= 300
    assert tokenizer.decode(tokenizer("snow over")["input_ids"]) == "[CLS]snow over[SEP]"
    logged = [entry for entry in results["history"] if "consistency_loss" in entry]
    assert len(logged) == 3 and all(e["loss"] == pytest.approx(e["task_loss"] + e["consistency_loss"]) for e in logged)
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert results["command"].startswith("ernie-sparse pretrain --train-file")
    assert (out / "training.png").stat().st_size > 5000


def test_finetune_learns_evaluates_the_test_file_and_reloads(workspace, tmp_path):
    out = tmp_path / "classifier"
    assert run(finetune_arguments(workspace, out, "--test-file", workspace / "dev.jsonl")) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["accuracy"] == 1.0 and results["f1"] == 1.0 and results["evaluated_on"] == "test"
    assert results["largest_class"] == 0.5
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert model.config.id2label == {0: "north", 1: "south"}
    batch = AutoTokenizer.from_pretrained(out)(SENTENCES["south"], return_tensors="pt", truncation=True)
    with torch.no_grad():
        assert model(**batch).logits.argmax().item() == 1


@pytest.mark.slow
def test_csv_and_parquet_and_integer_labels_give_the_same_model_as_jsonl(workspace, tmp_path):
    import pandas

    frame = pandas.DataFrame(documents(16))
    frame["label"] = (frame["label"] == "south").astype(int)
    frame.to_csv(tmp_path / "train.csv", index=False)
    frame.to_parquet(tmp_path / "train.parquet")
    write_jsonl(tmp_path / "train.json", frame.to_dict("records"))
    losses = []
    for suffix in ("csv", "parquet", "json"):
        out = tmp_path / suffix
        arguments = finetune_arguments(workspace, out, "--max-steps", 2)
        arguments[arguments.index(workspace / "train.jsonl")] = tmp_path / f"train.{suffix}"
        at = arguments.index("--validation-file")
        del arguments[at : at + 2]
        assert run(arguments) == 0
        losses.append(json.loads((out / "results.json").read_text())["loss"])
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.slow
def test_a_resumed_pretraining_ends_where_an_uninterrupted_one_does(workspace, tmp_path, capsys):
    out = tmp_path / "resumed"
    assert run(pretrain_arguments(workspace, out)) == 0
    for name in ("model.safetensors", "results.json"):
        (out / name).unlink()
    for leftover in (out / "checkpoint-6").iterdir():
        leftover.unlink()
    (out / "checkpoint-6").rmdir()
    assert run(pretrain_arguments(workspace, out, "--learning-rate", "1e-9")) == 2
    assert (
        f"{out} holds another run, with learning_rate 0.001 and not 1e-09: name another folder"
        in capsys.readouterr().err
    )
    assert run(pretrain_arguments(workspace, out)) == 0
    expected = AutoModelForMaskedLM.from_pretrained(workspace / "pretrained").state_dict()
    actual = AutoModelForMaskedLM.from_pretrained(out).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, msg=name)
    checkpoint = str(out / "checkpoint-3")
    by_path = pretrain_arguments(workspace, tmp_path / "elsewhere", "--resume-from-checkpoint", checkpoint)
    assert run([*by_path, "--learning-rate", "1e-9"]) == 2
    assert f"{out} holds another run, with learning_rate" in capsys.readouterr().err
    assert run(by_path) == 0
    assert (tmp_path / "elsewhere" / "checkpoint-6").is_dir() and not (tmp_path / "elsewhere" / "checkpoint-3").exists()
    written = (out / "results.json").stat().st_mtime_ns
    assert run(pretrain_arguments(workspace, out)) == 0
    assert "finished already" in capsys.readouterr().out and (out / "results.json").stat().st_mtime_ns == written
    # For longer than it was first told, not for less.
    assert run(pretrain_arguments(workspace, out, "--max-steps", "2")) == 2
    assert "with max_steps 6 and not 2" in capsys.readouterr().err
    assert run(pretrain_arguments(workspace, out, "--max-steps", "12")) == 0
    assert (out / "checkpoint-12").is_dir()


def test_pretraining_on_a_table_is_pretraining_on_its_column(workspace, tmp_path):
    losses = []
    for name, write in (("rows.jsonl", write_jsonl), ("rows.parquet", write_parquet)):
        path = write(tmp_path / name, [{"title": "no words of it", "body": text * 60} for text in SENTENCES.values()])
        arguments = pretrain_arguments(workspace, tmp_path / f"{name}.out", "--text-column", "body")
        at = arguments.index("--train-file")
        arguments[at + 1 : at + 3] = [path]
        assert run(arguments) == 0
        losses.append(json.loads((tmp_path / f"{name}.out" / "results.json").read_text())["eval_loss"])
    # The same two documents as in the text files of the workspace.
    expected = json.loads((workspace / "pretrained" / "results.json").read_text())["eval_loss"]
    assert losses == pytest.approx([expected, expected])


def test_help_and_version(capsys):
    assert cli.main(["--help"]) == 0
    assert "pretrain" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ernie-sparse {__version__}\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_short_and_says_what_the_parser_does(command, capsys):
    assert cli.main([command, "--help"]) == cli.main([command, "-h"]) == 0
    text, again = capsys.readouterr().out.split(f"usage: ernie-sparse {command} ")[1:]
    assert text == again and len(text.splitlines()) <= 40
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help-all"])
    every_flag = capsys.readouterr().out
    assert stop.value.code == 0 and f"examples:\n{HELP[command].examples}" in every_flag
    # An entry begins with the names of its flag.
    entries = {}
    for entry in re.findall(r"^  (?:-|[A-Z]+ ).*(?:\n {4}.*)*", every_flag, flags=re.MULTILINE):
        names = re.findall(r"^[A-Z]+|(?<!\S)--?[\w-]+", re.split(r"  |\n", entry.strip())[0])
        entries |= dict.fromkeys(names, " ".join(entry.split()))
    for flag, what in HELP[command].flags.items():
        entry = entries[flag.split()[0]]
        # The defaults of flags that are one number.
        if default := re.search(r"\(([\d.e-]+)(?:\)|, or)", what):
            assert re.search(rf"\((?:default: )?{default[1]}(?:\.0)?[,)]", entry), flag
    assert {*re.findall(r"--[\w-]+", HELP[command].examples)} <= {*entries, "--list"}


def test_help_has_the_defaults_of_a_pattern():
    said = dict(re.findall(r"(\w+)=(\w+)", HELP["show"].short("show").partition("PATTERN names fields")[2]))
    assert said == dict(field.split("=") for field in str(SparsePattern()).split(","))


@pytest.mark.slow
def test_help_takes_no_time():
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "ernie_sparse", "finetune", "--help"], check=True, capture_output=True)
    assert time.monotonic() - begin < 3


def test_a_run_says_what_it_is_and_how_its_loss_falls(workspace, tmp_path, capsys):
    flags = ("--max-steps", "23", "--max-length", "64", "--eval-strategy", "no", "--save-strategy", "no")
    assert run(finetune_arguments(workspace, tmp_path / "out", *flags)) == 0
    text = capsys.readouterr().out
    before, *after = re.split(r"update +1 of 23: loss ", text)
    facts = dict(re.split("  +", line.strip(), maxsplit=1) for line in before.splitlines() if "  " in line.strip())
    assert facts["rows"] == "train 32, validation 8" and facts["classes"] == "north, south"
    assert re.fullmatch(r"train \d+, validation \d+: only the head is read", facts["longer than 64 tokens"])
    assert facts["updates"].startswith("23 of ") and "fp32" in facts["runs on"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert facts["parameters"] == f"{model.num_parameters():,}"
    assert str(model.config.pattern) == facts["pattern"]
    assert len(after) == 1 and text.count(": loss ") == 23 and "training took" in after[0]


@pytest.mark.slow
def test_it_is_said_how_long_a_training_will_take(workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ernie_sparse.terminal.WORTH_SAYING", 0)
    assert run(finetune_arguments(workspace, tmp_path / "out", "--max-steps", "8", "--logging-steps", "4")) == 0
    said = capsys.readouterr().out
    assert re.search(r"^about \d+ seconds to go, without evaluations$", said, re.MULTILINE)
    assert said.count(": loss ") == 2


def test_a_run_is_the_same_where_a_default_is_spelt_out(workspace, capsys):
    out = workspace / "pretrained"
    results = (out / "results.json").read_bytes()
    more = ("--pattern", "block_size=16,num_window_blocks=3", "--sample-by", "document")
    assert run(pretrain_arguments(workspace, out, *more)) == 0
    assert "finished already" in capsys.readouterr().out and (out / "results.json").read_bytes() == results


def test_an_interrupted_command_says_so_without_a_traceback(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("ernie_sparse.finetune.runner.main", interrupted)
    assert cli.main(["finetune"]) == 130
    assert capsys.readouterr().err == "ernie-sparse finetune: interrupted\n"


@pytest.mark.parametrize("command", [pretrain_arguments, finetune_arguments])
def test_an_error_stands_on_a_line_of_its_own(command, workspace, tmp_path, capfd, monkeypatch):
    flags = ("--disable-tqdm", "false", "--report-to", "none", "--max-steps", 4, "--logging-steps", 9)
    for name, error, message in (
        ("divergence", DivergedError("far"), "error: far"),
        ("key", KeyboardInterrupt(), "interr"),
    ):

        def finish(self, *args, error=error):
            if self.state.global_step == 2:
                raise error

        monkeypatch.setattr(SaorTrainer, "_finish_gradient", finish)
        assert run(command(workspace, tmp_path / name, *flags)) == (130 if name == "key" else 2)
        said = capfd.readouterr().err
        assert "2/4" in said
        assert [line for line in said.split("\n") if line.startswith("ernie-sparse ") and message in line], said


def test_a_fault_of_ours_keeps_its_traceback(workspace, tmp_path, monkeypatch, capsys):
    def at_fault(*args, **kwargs):
        raise ValueError("shapes that do not fit")

    monkeypatch.setattr("ernie_sparse.head_outputs.saor_loss", at_fault)
    with pytest.raises(ValueError, match="shapes that do not fit") as fault:
        run(pretrain_arguments(workspace, tmp_path / "out"))
    assert not isinstance(fault.value, InputError) and "error:" not in capsys.readouterr().err


def test_a_configs_error_is_no_matter_of_the_hub():
    assert is_hub_error(HfHubHTTPError.__new__(HfHubHTTPError))
    assert not is_hub_error(StrictDataclassError("hidden_size"))


@pytest.mark.slow
def test_what_the_hub_refuses_ends_in_one_line(workspace, tmp_path):
    push = ("--push-to-hub", "true", "--hub-model-id", "you/x", "--max-steps", "1")
    command = [sys.executable, "-m", "ernie_sparse", *map(str, finetune_arguments(workspace, tmp_path / "out", *push))]
    # No hub answers there.
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_of_a_test"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    (line,) = [line for line in result.stderr.splitlines() if ": error: " in line]
    assert result.returncode == 2 and "Traceback" not in result.stderr and not (tmp_path / "out").exists()
    assert line.startswith("ernie-sparse finetune: error: the hub refuses this or cannot be reached: ")


@pytest.mark.parametrize("verbosity", [None, "info"])
def test_the_hubs_client_logs_each_try_only_when_asked(verbosity, monkeypatch):
    was, seen = hub_logging.get_verbosity(), []
    monkeypatch.delenv("HF_HUB_VERBOSITY", raising=False)
    if verbosity is not None:
        monkeypatch.setenv("HF_HUB_VERBOSITY", verbosity)
    hub_logging.set_verbosity(hub_logging.INFO)
    try:
        assert cli.run_command("x", lambda argv: seen.append(hub_logging.get_verbosity()), []) == 0
    finally:
        hub_logging.set_verbosity(was)
    assert seen == [hub_logging.INFO if verbosity else hub_logging.ERROR]


def test_what_the_operating_system_refuses_ends_in_one_line(monkeypatch, capsys):
    def no_room(argv):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("ernie_sparse.finetune.runner.main", no_room)
    assert cli.main(["finetune"]) == 2
    assert capsys.readouterr().err == (
        "ernie-sparse finetune: error: [Errno 28] No space left on device: 'model.safetensors'\n"
    )


@pytest.mark.slow
def test_the_module_exits_with_the_commands_code():
    result = subprocess.run([sys.executable, "-m", "ernie_sparse", "knit"], capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr and "knit" in result.stderr


@pytest.mark.parametrize("flag", ["--help", pytest.param("--list", marks=pytest.mark.slow)])
def test_a_reader_that_goes_away_is_no_error(flag):
    command = [sys.executable, "-m", "ernie_sparse", "finetune", flag]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 141)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_commands_keep_the_memory_that_tensors_free():
    program = (
        "import resource, torch\n"
        "from ernie_sparse.allocator import keep_freed_memory\n"
        "def pages():\n"
        "    torch.ones(2**24)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(2**23)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "pages(), print(pages()), keep_freed_memory(), pages(), print(pages())\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, result.stdout.split())
    assert before > 1000 and after < 100
