# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The command line from end to end on tiny files: what it leaves, how it goes on, and what it says of bad input."""

import json
import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from test_finetune_predict import arguments as arguments_of_type
from test_finetune_predict import read_jsonl
from test_finetune_predict import workspace as workspace_of_types
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from ernie_sparse import cli
from ernie_sparse.errors import InputError
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
        f"{out} holds another run, of learning_rate 0.001 and not 1e-09: name another folder" in capsys.readouterr().err
    )
    assert run(pretrain_arguments(workspace, out)) == 0
    expected = AutoModelForMaskedLM.from_pretrained(workspace / "pretrained").state_dict()
    actual = AutoModelForMaskedLM.from_pretrained(out).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(actual[name], weight, msg=name)
    checkpoint = str(out / "checkpoint-3")
    by_path = pretrain_arguments(workspace, tmp_path / "elsewhere", "--resume-from-checkpoint", checkpoint)
    assert run([*by_path, "--learning-rate", "1e-9"]) == 2
    assert f"{out} holds another run, of learning_rate" in capsys.readouterr().err
    assert run(by_path) == 0
    assert (tmp_path / "elsewhere" / "checkpoint-6").is_dir() and not (tmp_path / "elsewhere" / "checkpoint-3").exists()
    written = (out / "results.json").stat().st_mtime_ns
    assert run(pretrain_arguments(workspace, out)) == 0
    assert "finished already" in capsys.readouterr().out and (out / "results.json").stat().st_mtime_ns == written
    # For longer than it was first told, not for less.
    assert run(pretrain_arguments(workspace, out, "--max-steps", "2")) == 2
    assert "of max_steps 6 and not 2" in capsys.readouterr().err
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
    assert capsys.readouterr().out.startswith("ernie-sparse ")
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0
        assert "examples:" in capsys.readouterr().out


def replaced(arguments: list, flag: str, value) -> list:
    arguments = list(arguments)
    arguments[arguments.index(flag) + 1] = value
    return arguments


def bad_inputs(folder):
    """Command lines that cannot work, each with a part of what must be said of it."""
    finetune, pretrain = finetune_arguments(folder, folder / "never"), pretrain_arguments(folder, folder / "never")
    (folder / "empty.csv").touch()
    (folder / "ragged.csv").write_text('text,label\na,b\n"c,d,e,f\ng\n')
    (folder / "torn.json").write_text('{"text": "a", "lab')
    write_jsonl(folder / "unseen.jsonl", [{"text": "west", "label": "west"}])
    write_jsonl(folder / "single.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}])
    write_jsonl(folder / "blank.jsonl", [{"text": "a", "label": "x"}, {"text": "", "label": "y"}])
    write_jsonl(folder / "float.jsonl", [{"text": "a", "label": 0.5}, {"text": "b", "label": 0.25}])
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (folder / "short.txt").write_text("too short")
    for value, message in (
        (folder / "nothing.csv", "there is no such file"),
        (folder / "empty.csv", "is empty"),
        (folder / "ragged.csv", "row 1: the quotes of line 3 are wrong"),
        (folder / "torn.json", "torn.json, row 0: it is no JSON: Unterminated string"),
        (folder / "north.txt", "north.txt: csv, tsv, jsonl, json, parquet files can be read"),
        (folder / "single.jsonl", "single class, 'x'"),
        (folder / "blank.jsonl", "blank.jsonl, row 1: column 'text' is empty"),
        (folder / "float.jsonl", "classes are texts or whole numbers"),
    ):
        yield replaced(finetune, "--train-file", value), message
    yield (
        replaced(finetune, "--validation-file", folder / "unseen.jsonl"),
        "unseen.jsonl, row 0: the label 'west' is none of",
    )
    yield replaced(finetune, "--model", folder / "no" / "such" / "model"), "there is no such folder"
    yield replaced(finetune, "--model", folder / "bert"), "is a bert checkpoint"
    yield replaced(finetune, "--output-dir", folder / "dev.jsonl"), "is a file"
    yield [*finetune, "--label-column", "class"], "no column 'class' for the label, only 'text'"
    yield [*finetune, "--max-length", 65], "more than max_position_embeddings=64"
    yield [*finetune, "--seeds", 0, 1, "--push-to-hub", "true"], "--push-to-hub pushes one model"
    yield [*finetune, "--label-col", "label"], "unrecognized arguments: --label-col (ernie-sparse finetune --help"
    yield ["predict"], "the following arguments are required: --model"
    yield [*finetune, "--pattern", "num_window_blocks=2"], "num_window_blocks=2 is not allowed: it must be odd"
    yield [*finetune, "--saor-alpha", -1], "saor_alpha=-1.0 is not allowed"
    yield [*finetune, "--saor-patterns", "sideways"], "'sideways' is not one of shift"
    yield [*finetune, "--regularization", "alignment", "--saor-share", 0.5], "saor_share=0.5 is not for regularization="
    yield [*finetune, "--saor-every", 2], "saor_every=2 is not for regularization=none"
    yield [*finetune, "--resume-from-checkpoint", folder / "checkpoint-1"], "there is no such folder"
    yield [*finetune, "--resume-from-checkpoint", folder], "its trainer_state.json is missing or cut off"
    yield replaced(pretrain, "--train-tokenizer", 100), "a vocabulary of 100 is too small"
    yield replaced(pretrain, "--train-tokenizer", 10**9), "--train-tokenizer 1000000000: it must be at most 10,000,000"
    yield replaced(pretrain, "--config", "hidden_sise=3"), "'hidden_sise' is not one of"
    yield replaced(pretrain, "--config", "hidden_dropout_prob=nan"), "hidden_dropout_prob='nan' is not a finite number"
    yield replaced(pretrain, "--config", "hidden_act=foo"), "--config: hidden_act='foo' is not allowed"
    huge = "hidden_size=65536,num_hidden_layers=100,num_attention_heads=64"
    yield replaced(pretrain, "--config", huge), "ask for smaller sizes"
    yield replaced(pretrain, "--config", "hidden_size=big"), "hidden_size='big' is not of type int"
    yield (
        replaced(pretrain, "--config", "hidden_size=30,num_attention_heads=4"),
        "not a multiple of num_attention_heads",
    )
    yield [*pretrain, "--sample-by", "chapter"], "it must be one of document, paragraph, line"
    yield [*pretrain, "--mlm-probability", 1.5], "it must lie between 0 and 1"
    yield [*pretrain, "--model", folder / "pretrained"], "leave them out with --model"
    yield (
        ["pretrain", "--train-file", folder / "north.txt", "--output-dir", folder / "never"],
        "needs either --tokenizer",
    )
    yield (
        [*pretrain, "--text-column", "body"],
        "north.txt, row 0: --text-column body: there is no such column, only 'text'",
    )
    write_jsonl(folder / "numbers.jsonl", [{"text": "a"}, {"text": 7}])
    numbers = replaced(pretrain, "--train-file", folder / "numbers.jsonl")
    yield numbers, "numbers.jsonl, row 1: column 'text' holds 7 (int): a text is needed"
    yield ["knit"], "'knit' is not one of convert, pretrain, finetune"


def bad_rows_of_task_types(folder):
    """Command lines with rows that are not what their type of task needs, each with a part of what must be said of it."""

    def finetune(task_type, change=None, split="train", more=()):
        flags = list(more)
        if change is not None:
            rows = [{**row, **change(row)} for row in read_jsonl(workspace_of_types() / f"{task_type}-{split}.jsonl")]
            path = write_jsonl(folder / f"rows-{len(list(folder.iterdir()))}.jsonl", rows)
            flags = [f"--{split}-file", path, *flags]
        return arguments_of_type(folder / "never", *flags, task_type=task_type)

    unheard = {"text": ["oslo"], "answer_start": [0]}
    for task_type, change, message in (
        (
            "single_label",
            lambda row: {"label": ["north"]},
            "holds lists, ['north'] (list): use --kind multi_label or token",
        ),
        ("single_label", lambda row: {"label": 1 if row["label"] == "north" else "a"}, "column 'label' holds"),
        ("single_label", lambda row: {"label": None}, "jsonl, row 0: column 'label' is empty"),
        ("single_label", lambda row: {"text": 7}, "column 'text' holds 7 (int): a text is needed"),
        ("regression", lambda row: {"label": "much"}, "holds 'much' (str): regression needs finite numbers"),
        ("multi_label", lambda row: {"label": [*row["label"], None]}, "column 'label' is empty"),
        (
            "token_classification",
            lambda row: {"tokens": "a b"},
            "column 'tokens' holds 'a b' (str): a list of texts is needed",
        ),
        ("token_classification", lambda row: {"labels": "O"}, "needs a list of labels per row"),
        (
            "question_answering",
            lambda row: {"answers": "anna"},
            "column 'answers' holds 'anna' (str): SQuAD's form is needed",
        ),
        (
            "question_answering",
            lambda row: {"answers": unheard},
            "no training row can be used (answer not in the context",
        ),
        ("candidate_choice", lambda row: {"answer": "oslo"}, "no training row can be used (answer not among the cand"),
        (
            "candidate_choice",
            lambda row: {"candidates": "paris"},
            "column 'candidates' holds 'paris' (str): a list of texts is needed",
        ),
    ):
        yield finetune(task_type, change), message
    unseen = finetune("token_classification", lambda row: {"labels": ["B-Q"] * len(row["tokens"])}, "validation")
    yield unseen, "jsonl, row 0: the label 'B-Q' is none of the training set's: B-SIDE, O"
    yield finetune("candidate_choice", lambda row: {"candidates": []}, "validation"), "row c"
    train = workspace_of_types() / "single_label-train.jsonl"
    for more, message in (
        (("--long-documents", "middle"), "'middle' is not one of head, tail, head_tail, windows"),
        (("--long-documents", "windows", "--stride", 62), "--stride 62 must be less than the 62 tokens of a window"),
        (("--stride", -1), "--stride -1: it must be at least 0"),
        (("--max-length", 7), "--max-length 7: it must be at least 8"),
        (("--validation-fraction", 1.5), "--validation-fraction 1.5: it must lie between 0 and 1"),
        (("--class-weights", "heavy"), "'heavy' is not one of none, balanced"),
        (("--seeds", 1, 1), "--seeds 1 1: one of them is given twice"),
        (("--lora-rank", 0), "--lora-rank 0: it must be at least 1"),
        (("--search-trials", 0), "--search-trials 0: it must be at least 1"),
        (("--early-stopping-patience", 1, "--save-strategy", "no"), "needs --load-best-model-at-end true"),
        (("--text-pair-column", "other"), "no column 'other' for the text_pair, only"),
        (("--id-column", "name"), "no column 'name' for the id, only 'id', 'text', 'label'"),
        (("--longer-than", -1), "--longer-than -1: it must be at least 0"),
        (("--null-threshold", 0.5), "--null-threshold is for question answering: here it is single_label"),
        (("--per-device-train-batch-size", 0), "--per-device-train-batch-size 0: it must be at least 1"),
        (("--gradient-accumulation-steps", 0), "--gradient-accumulation-steps 0: it must be at least 1"),
        (("--learning-rate", -1), "--learning-rate -1.0: it must be at least 0"),
        (("--learning-rate", "nan"), "--learning-rate nan: it must be a finite number"),
        (("--adam-beta1", 2), "--adam-beta1 2.0: it must be less than 1"),
        (("--lr-scheduler-kwargs", '{"speed": 1}'), "unexpected keyword argument 'speed'"),
        (("--optim", "adamw_8bit"), "You need to install `bitsandbytes`"),
        (("--dataloader-num-workers", 10**5), "--dataloader-num-workers 100000: it must be at most 1,000"),
        (("--seed", -1), "--seed -1: it must be at least 0"),
        (("--seeds", 0, 2**32), f"--seeds 0 {2**32}: each must be from 0 to {2**32 - 1}"),
        (("--data-seed", 2**32), f"--data-seed {2**32}: it must be less than {2**32}"),
        (("--max-length", "long"), "invalid int value: 'long' (ernie-sparse finetune --help shows every flag)"),
        (("--test-file", train, "--drop-repeated", "true"), "--drop-repeated leaves none"),
        (("--dataset", "imdb"), "--train-file and --dataset were given: rows come from one place"),
        (("--data-dir", folder), "--train-file and --data-dir were given: rows come from one place"),
        (("--task", "imdb"), "--kind is for rows of your own: a task has its own"),
        (("--task", "knitting"), "--task 'knitting' is not one of cola, sst2"),
        (("--kind", "knitting"), "--kind 'knitting' is not one of single_label, multi_label"),
        (("--hub-metrics", str(folder / "none")), "cannot be loaded"),
    ):
        yield finetune("single_label", more=more), message
    for task_type, more, message in (
        ("question_answering", ("--stride", 40), "a stride of 40 tokens makes no progress in windows of 64"),
        ("question_answering", ("--longer-than", 9), "--longer-than is for whole texts"),
        ("question_answering", ("--hub-metrics", "accuracy"), "--hub-metrics are for single_label and regression"),
        ("multi_label", ("--class-weights", "balanced"), "needs classes that exclude each other"),
    ):
        yield finetune(task_type, more=more), message
    model = ("finetune", "--model", workspace_of_types() / "model", "--output-dir", folder / "never")
    yield [*model, "--data-dir", folder], "--data-dir needs --task"
    yield model, "give --task, --train-file (and --validation-file) or --dataset"
    yield [*model, "--task", "imdb", "--data-dir", folder / "none"], "none: there is no such folder"
    yield [*model, "--task", "imdb", "--data-dir", folder], "no train{.csv,.tsv,.jsonl,.json,.parquet} was found in"
    yield [*model, "--task", "glue", "--data-dir", folder], "no GLUE task was found in"
    yield [*model, "--validation-file", train], "there is no train split, only validation"


def assert_refused(argv, message: str, folder, capsys):
    capsys.readouterr()
    assert run(argv) == 2, argv
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 1 and message in errors[0] and errors[0].startswith("ernie-sparse"), (argv, errors)
    assert not any("Traceback" in line or line.startswith("usage:") for line in lines)
    for name in ("results.json", "model.safetensors", "checkpoint*", "*/results.json", "*/checkpoint*"):
        assert not list((folder / "never").glob(name)), (argv, name)


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


def test_what_the_operating_system_refuses_ends_in_one_line(monkeypatch, capsys):
    def no_room(argv):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr("ernie_sparse.finetune.runner.main", no_room)
    assert cli.main(["finetune"]) == 2
    assert capsys.readouterr().err == (
        "ernie-sparse finetune: error: [Errno 28] No space left on device: 'model.safetensors'\n"
    )


def test_bad_input_ends_in_one_clear_line_and_leaves_nothing(workspace, capsys):
    for argv, message in bad_inputs(workspace):
        assert_refused(argv, message, workspace, capsys)


def test_rows_that_are_not_of_their_type_end_so_too(tmp_path, capsys):
    for argv, message in bad_rows_of_task_types(tmp_path):
        assert_refused(argv, message, tmp_path, capsys)
        assert not (tmp_path / "never").exists(), argv


@pytest.mark.slow
def test_the_module_exits_with_the_commands_code():
    result = subprocess.run([sys.executable, "-m", "ernie_sparse", "knit"], capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr and "knit" in result.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "ernie_sparse", "finetune", "--list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 141)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_commands_keep_the_memory_that_tensors_free():
    program = (
        "import resource, torch\n"
        "from ernie_sparse.cli import keep_freed_memory\n"
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
