# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From files to splits of rows with one column per role, and from labels to classes."""

import dataclasses
import json
import math
from collections import Counter

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_sparse.errors import InputError
from ernie_sparse.finetune import data
from ernie_sparse.finetune.data import (
    Split,
    check_labels,
    class_names,
    find_split_files,
    hold_out,
    load_splits,
    repeated_rows,
    row_by_role,
    row_features,
    without_blanks,
)
from ernie_sparse.finetune.tasks import OWN_FILES, TASKS

datasets.disable_progress_bars()

OWN = OWN_FILES["single_label"]


def with_columns(task=OWN, **columns):
    return dataclasses.replace(task, columns={**task.columns, **columns})


def labelled(values: list, feature=None) -> Dataset:
    rows = {"text": ["t"] * len(values), "label": values}
    return Dataset.from_dict(rows, features=feature and Features({"text": Value("string"), "label": feature}))


# Where the files are.


@pytest.mark.parametrize(
    "task, files, expected",
    [
        ("imdb", ["train.csv", "test.csv"], {"train": ["train.csv"], "test": ["test.csv"]}),
        ("imdb", ["imdb/train.jsonl"], {"train": ["imdb/train.jsonl"]}),
        ("imdb", ["data/train.json"], {"train": ["data/train.json"]}),
        ("rte", ["glue/rte/train.parquet", "train.csv"], {"train": ["glue/rte/train.parquet"]}),
        (
            "imdb",
            ["train-00001-of-00002.parquet", "train-00000-of-00002.parquet", "test-00000-of-00001.parquet"],
            {
                "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
                "test": ["test-00000-of-00001.parquet"],
            },
        ),
        (
            "mnli",
            ["train.jsonl", "validation_matched.jsonl", "validation_mismatched-00000-of-00001.jsonl"],
            {
                "train": ["train.jsonl"],
                "validation": ["validation_matched.jsonl"],
                "validation_mismatched": ["validation_mismatched-00000-of-00001.jsonl"],
            },
        ),
        # What is no split of the task, or no table, is not read.
        ("imdb", ["train.csv", "unsupervised.csv", "trainer.csv", "test.txt"], {"train": ["train.csv"]}),
        # Of two formats of a split one is read.
        ("imdb", ["train.csv", "train.parquet"], {"train": ["train.csv"]}),
    ],
)
def test_a_task_finds_its_files_where_they_may_lie(tmp_path, task, files, expected):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_split_files(str(tmp_path), TASKS[task])
    assert found == {split: [str(tmp_path / name) for name in names] for split, names in expected.items()}


def test_a_folder_without_the_data_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        find_split_files(str(tmp_path / "nowhere"), TASKS["imdb"])
    (tmp_path / "validation.csv").touch()
    with pytest.raises(ValueError, match=r"no train\{\.csv,\.tsv,\.jsonl,\.json,\.parquet\} was found in .*"):
        find_split_files(str(tmp_path), TASKS["imdb"])


def test_splits_are_loaded_from_a_folder_under_the_names_of_roles(tmp_path):
    rows = {"premise": ["a"], "hypothesis": ["b"], "label": [2], "idx": [7]}
    for name in ("train", "validation_matched", "validation_mismatched"):
        Dataset.from_dict(rows).to_json(tmp_path / f"{name}.jsonl")
    splits = load_splits(TASKS["mnli"], files={}, data_dir=str(tmp_path))
    assert set(splits) == {"train", "validation", "validation_mismatched"}
    assert splits["validation"].rows[0] == {"id": "7", "text": "a", "text_pair": "b", "label": "contradiction"}


def test_files_without_a_training_split_are_refused(tmp_path):
    Dataset.from_dict({"text": ["a"], "label": ["x"]}).to_csv(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="there is no train split, only validation"):
        load_splits(OWN, files={"train": None, "validation": [str(tmp_path / "a.csv")]})


# Rows.


def by_role(row: dict, task=OWN, is_labelled: bool = True, names=(), number: int = 7) -> dict:
    found = row_by_role(row, number, task, is_labelled, names)
    assert list(found) == list(row_features(task, is_labelled))
    return {role: value for role, value in found.items() if role != "label_kind"}


def splits_of(tmp_path, task=OWN, **files: str | list[dict]) -> dict[str, Split]:
    """Splits of files, as text of csv or rows of jsonl; `train__2` is a second file of train."""
    paths = {}
    for name, content in files.items():
        path = tmp_path / f"{name}.{'csv' if isinstance(content, str) else 'jsonl'}"
        lines = content if isinstance(content, str) else "".join(f"{json.dumps(row)}\n" for row in content)
        path.write_text(lines, encoding="utf-8")
        paths.setdefault(name.partition("__")[0], []).append(str(path))
    return load_splits(task, files=paths)


def test_columns_get_the_names_of_their_roles_and_the_rest_goes():
    row = {"review": "a", "stars": "x", "name": "n1", "junk": 0}
    found = by_role(row, with_columns(text="review", label="stars", id="name"))
    assert found == {"text": "a", "label": "x", "id": "n1"}


def test_columns_that_bear_each_others_names_are_swapped():
    found = by_role({"text": "x", "label": "long a"}, with_columns(text="label", label="text"))
    assert found["text"] == "long a" and found["label"] == "x"


def test_ids_are_strings_and_the_numbers_of_rows_where_there_are_none():
    row = {"text": "a", "label": "x", "id": 10}
    assert by_role(row, with_columns(id="id"))["id"] == "10" and by_role(row)["id"] == "10"
    assert by_role({**row, "id": None})["id"] == "7"
    del row["id"]
    assert by_role(row, with_columns(id="id"))["id"] == "7"


@pytest.mark.parametrize(
    "row, columns, message",
    [
        ({"text": "a"}, {}, "there is no column 'label' for the label, only 'text'"),
        ({}, {}, "there is no column 'text' for the text, nor any other$"),
        ({"the body": "a", "label": 1}, {}, "no column 'text' for the text, only 'the body', 'label'"),
        ({"text": "a", "label": 1}, {"id": "name"}, "no column 'name' for the id, only 'text', 'label'"),
        ({"text": "a", "label": 1}, {"text_pair": "other"}, "no column 'other' for the text_pair, only"),
        ({"text": " \n", "label": 1}, {}, "column 'text' is empty"),
        ({"text": None, "label": 1}, {}, "column 'text' is empty"),
        ({"text": "a", "label": None}, {}, "column 'label' is empty"),
        ({"text": "a", "label": "  "}, {}, "column 'label' is empty"),
        ({"text": "a", "other": None, "label": "x"}, {"text_pair": "other"}, "column 'other' is empty"),
        ({"text": "half \ud83d", "label": "x"}, {}, "column 'text' holds half of a character at place 5"),
    ],
)
def test_rows_that_lack_something_are_refused_by_name(row, columns, message):
    with pytest.raises(InputError, match=message):
        by_role(row, with_columns(**columns))


def test_two_roles_cannot_share_a_column():
    with pytest.raises(InputError, match="cannot share a column: 'text' is given for text and text_pair"):
        row_features(with_columns(text_pair="text"), True)


QA = {"question": "who?", "context": "Bob is here"}


@pytest.mark.parametrize(
    "task_type, row, message",
    [
        ("single_label", {"text": 5, "label": 1}, r"column 'text' holds 5 \(int\): a text is needed"),
        ("single_label", {"text": ["a"], "label": 1}, r"column 'text' holds \['a'\] \(list\): a text is needed"),
        ("token_classification", {"tokens": "a b", "labels": ["O"]}, "holds 'a b' .*: a list of texts is needed"),
        ("token_classification", {"tokens": [1], "labels": ["O"]}, "has a list that holds 1"),
        ("token_classification", {"tokens": ["a", None], "labels": ["O"]}, "a list with nothing in one of its places"),
        ("question_answering", {"question": "a", "context": 3}, "column 'context' holds 3 .*: a text is needed"),
        ("question_answering", {**QA, "answers": "c"}, "column 'answers' holds 'c' .*: SQuAD's form is needed"),
        ("question_answering", {**QA, "answers": ["c"]}, "SQuAD's form is needed"),
        ("question_answering", {**QA, "answers": {"text": "Bob", "answer_start": 0}}, "SQuAD's form is needed"),
        ("question_answering", {**QA, "answers": {"text": ["Bob"], "answer_start": ["0"]}}, "SQuAD's form is needed"),
        ("question_answering", {**QA, "answers": {"text": ["Bob"], "answer_start": [0.0]}}, "SQuAD's form is needed"),
        ("question_answering", {**QA, "answers": {"text": [5]}}, "SQuAD's form is needed"),
        ("question_answering", {**QA, "aliases": "c"}, "column 'aliases' holds 'c' .*: a list of texts"),
        (
            "candidate_choice",
            {"query": "q", "candidates": "ab", "supports": ["s"], "answer": "a"},
            "column 'candidates' holds 'ab' .*: a list of texts",
        ),
        (
            "candidate_choice",
            {"query": "q", "candidates": ["a"], "supports": "s", "answer": "a"},
            "column 'supports' holds 's' .*: a list of texts",
        ),
    ],
)
def test_columns_of_another_type_are_refused_by_name(task_type, row, message):
    with pytest.raises(InputError, match=message):
        by_role(row, OWN_FILES[task_type])


def test_columns_in_which_nothing_stands_are_fine_where_that_is_allowed():
    row = {"question": "a", "context": None, "answers": None, "aliases": []}
    assert by_role(row, OWN_FILES["question_answering"]) == {**row, "id": "7"}
    row = {"query": "q", "candidates": ["a"], "supports": [], "answer": "a"}
    assert by_role(row, OWN_FILES["candidate_choice"])["supports"] == []
    for answers in ({"text": ["Bob"], "answer_start": [0]}, {"text": [], "answer_start": []}):
        assert by_role({**QA, "answers": answers}, OWN_FILES["question_answering"])["answers"] == answers
    unheard = by_role({**QA, "answers": {"text": ["Bob"]}}, OWN_FILES["question_answering"])["answers"]
    assert unheard == {"text": ["Bob"], "answer_start": []}


def test_to_predict_no_labels_are_needed_and_none_are_kept():
    for row in ({"text": "a"}, {"text": "a", "label": None}):
        assert by_role(row, is_labelled=False) == {"text": "a", "id": "7"}
    with pytest.raises(InputError, match="no column 'text'"):
        by_role({"body": "a"}, is_labelled=False)


def test_a_question_may_come_without_a_document():
    assert by_role({"question": "who?", "context": ""}, OWN_FILES["question_answering"])["context"] == ""


# Labels.

TOKENS = dataclasses.replace(OWN_FILES["token_classification"], columns={"tokens": "tokens", "label": "label"})


@pytest.mark.parametrize(
    "label, task, names, expected",
    [
        ("007", OWN, (), "007"),
        (7, OWN, (), "7"),
        (True, OWN, (), "True"),
        # A number means a class where the data or the task says so.
        (1, OWN, ("neg", "pos"), "pos"),
        (1, OWN, ("1", "2"), "2"),
        (1, TASKS["imdb"], (), "pos"),
        ("1", TASKS["imdb"], (), "pos"),
        ("pos", TASKS["imdb"], (), "pos"),
        ("other", TASKS["imdb"], (), "other"),
        ("sport|politics", OWN_FILES["multi_label"], (), ["sport", "politics"]),
        (" sport | ", OWN_FILES["multi_label"], (), ["sport"]),
        (["a|b"], OWN_FILES["multi_label"], (), ["a|b"]),
        ([], OWN_FILES["multi_label"], (), []),
        ([0, 1], TOKENS, ("O", "B-X"), ["O", "B-X"]),
        (["O", "O"], TOKENS, (), ["O", "O"]),
        (-100.0, OWN_FILES["regression"], (), -100.0),
        ("1.5", OWN_FILES["regression"], (), 1.5),
        (3, OWN_FILES["regression"], (), 3.0),
    ],
)
def test_what_a_label_means(label, task, names, expected):
    row = {"text": "t", "tokens": ["t"], "label": label}
    assert by_role(row, task, names=names)["label"] == expected


@pytest.mark.parametrize(
    "label, task, names, message",
    [
        (0.5, OWN, (), r"holds 0.5 \(float\): classes are texts or whole numbers \(--kind regression takes other"),
        (["a"], OWN, (), r"holds lists, \['a'\] \(list\): use --kind multi_label or token_classification"),
        ({"x": 1}, OWN, (), "classes are texts or whole numbers"),
        (-1, OWN, ("neg", "pos"), r"holds -1 \(int\): the classes are 0 to 1, neg, pos"),
        (2, TASKS["imdb"], (), r"holds 2 \(int\): the classes are 0 to 1, neg, pos"),
        (["a", None], OWN_FILES["multi_label"], (), "is empty"),
        ("half \ud83d", OWN, (), "holds half of a character"),
        (["a", 1], OWN_FILES["multi_label"], (), "has a list with a text and a number"),
        ("a", TOKENS, (), "token classification needs a list of labels per row"),
        ("many", OWN_FILES["regression"], (), "holds 'many' .*: regression needs finite numbers"),
        ("12_5", OWN_FILES["regression"], (), "holds '12_5' .*: regression needs finite numbers"),
        ("١٢", OWN_FILES["regression"], (), "regression needs finite numbers"),
        ("00", TASKS["imdb"], (), r"holds '00' \(str\): the classes are 0 to 1, neg, pos"),
        ("+1", TASKS["imdb"], (), "the classes are 0 to 1, neg, pos"),
        ("9" * 5000, TASKS["imdb"], (), "the classes are 0 to 1, neg, pos"),
        (math.nan, OWN_FILES["regression"], (), "regression needs finite numbers"),
        ("inf", OWN_FILES["regression"], (), "regression needs finite numbers"),
        (None, OWN_FILES["regression"], (), "is empty"),
        ([1.0], OWN_FILES["regression"], (), "regression needs finite numbers"),
        (True, OWN_FILES["regression"], (), "regression needs finite numbers"),
    ],
)
def test_labels_that_are_none_are_refused(label, task, names, message):
    with pytest.raises(InputError, match=f"column 'label' .*{message}"):
        by_role({"text": "t", "tokens": ["t"], "label": label}, task, names=names)


def test_labels_of_csv_are_texts_in_every_split_and_part(tmp_path):
    splits = splits_of(
        tmp_path, train="text,label\na,01\nb,02\n", train__2="text,label\nc,1\nd,X1\n", validation="text,label\na,01\n"
    )
    assert class_names(splits["train"], OWN) == ("01", "02", "1", "X1")
    assert splits["validation"].rows["label"][:] == ["01"]
    splits = splits_of(tmp_path, train="text,label\na,TRUE\nb,FALSE\nc,MIXED\n", validation="text,label\na,TRUE\n")
    assert class_names(splits["train"], OWN) == ("FALSE", "MIXED", "TRUE")
    check_labels(splits["validation"], ("FALSE", "MIXED", "TRUE"))


def test_labels_of_one_split_are_of_one_kind(tmp_path):
    rows = [{"text": "a", "label": ["x"]}, {"text": "b", "label": []}, {"text": "c", "label": "x"}]
    with pytest.raises(
        InputError, match=r"a list, of a text each in .*train.jsonl, row 0 and a text in .*jsonl, row 2"
    ):
        splits_of(tmp_path, OWN_FILES["multi_label"], train=rows)
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": 1}]
    with pytest.raises(
        InputError, match=r"'label' holds a text in .*train.jsonl, row 0 and a number in .*train.jsonl, row 1"
    ):
        splits_of(tmp_path, train=rows)


@pytest.mark.parametrize(
    "labels, names, task, expected",
    [
        (["no", "yes"], ("no", "yes", "maybe"), OWN, ("no", "yes", "maybe")),
        (["10", "9", "-1"], (), OWN, ("-1", "9", "10")),
        (["10", "9", "x"], (), OWN, ("10", "9", "x")),
        (["10", "9", "--1"], (), OWN, ("--1", "10", "9")),
        (["10", "9" * 5000], (), OWN, ("10", "9" * 5000)),
        (["pos", "neg"], (), TASKS["imdb"], ("neg", "pos")),
        (["b", "a", "b"], (), TASKS["imdb"], ("a", "b")),
        ([["b"], [], ["a", "b"]], (), OWN_FILES["multi_label"], ("a", "b")),
        ([["a"], ["a"]], (), OWN_FILES["multi_label"], ("a",)),
    ],
)
def test_classes_are_the_datas_own_names_the_tasks_or_the_sorted_labels(labels, names, task, expected):
    assert class_names(split_of(labels, names), task) == expected


def split_of(labels: list, names=()) -> Split:
    return Split(labelled(labels), names, lambda number: f"row {number} of dev")


def test_a_single_class_is_refused():
    for labels in (["a", "a"], [["a"], ["a"]]):
        with pytest.raises(InputError, match="a single class, 'a': there is nothing to learn"):
            class_names(split_of(labels), OWN if labels[0] == "a" else TOKENS)
    with pytest.raises(InputError, match="no row of the training set has anything in column 'label'"):
        class_names(Split(labelled([[], []], List(Value("string"))), (), str), OWN_FILES["multi_label"])


@pytest.mark.parametrize(
    "labels, number, label", [(["a", "west"], 1, "west"), ([["a"], ["b", "c"]], 1, "c"), (["0"], 0, "0")]
)
def test_a_label_that_training_has_not_seen_is_refused(labels, number, label):
    message = f"row {number} of dev: the label '{label}' is none of the training set's: a, b"
    with pytest.raises(InputError, match=message):
        check_labels(split_of(labels), ("a", "b"))
    check_labels(split_of(labels), ("a", "b", "c", "west", "0"))


def test_names_in_training_and_numbers_in_validation_end_with_file_and_row(tmp_path):
    train = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    splits = splits_of(tmp_path, train=train, validation=[{"text": "c", "label": 1}])
    with pytest.raises(InputError, match=r"validation.jsonl, row 0: the label '1' is none of the training set's: x, y"):
        check_labels(splits["validation"], class_names(splits["train"], OWN))


def test_blanks_around_a_label_make_no_class():
    rows = labelled([" neg", "neg", "pos "]).add_column("id", ["1", "2", "3"])
    stripped, changed = without_blanks(rows)
    assert stripped["label"][:] == ["neg", "neg", "pos"] and changed == ["1", "3"]
    assert without_blanks(stripped)[1] == []
    rows = labelled([["O ", "B"]]).add_column("id", ["1"])
    assert without_blanks(rows)[0]["label"][:] == [["O", "B"]]


def test_a_column_that_nobody_asked_for_decides_nothing(tmp_path):
    rows = [{"text": "a", "label": 1, "page": 5 if i < 3000 else "xii"} for i in range(3002)]
    assert len(splits_of(tmp_path, OWN_FILES["regression"], train=rows)["train"].rows) == 3002


def test_what_comes_first_does_not_decide_the_type(tmp_path):
    empty, full = [{"text": "a", "label": []}] * 2, [{"text": "a", "label": ["x", "y"]}]
    assert splits_of(tmp_path, OWN_FILES["multi_label"], train=empty, train__2=full)["train"].rows["label"][2] == [
        "x",
        "y",
    ]
    numbers = [{"text": "a", "label": 1}] * 1500 + [{"text": "a", "label": 3.5}]
    assert splits_of(tmp_path, OWN_FILES["regression"], train=numbers)["train"].rows["label"][-1] == 3.5
    none = {"text": [], "answer_start": []}
    rows = [{**QA, "answers": answers} for answers in (None, none, {"text": ["Bob"], "answer_start": [0]})]
    found = splits_of(tmp_path, OWN_FILES["question_answering"], train=rows)["train"].rows
    assert found["answers"][:] == [None, none, {"text": ["Bob"], "answer_start": [0]}]
    # Not even looked for where no row has them.
    assert "aliases" not in found.column_names
    with pytest.raises(InputError, match=r"there is no column 'names' for the aliases in .*train\.jsonl"):
        splits_of(tmp_path, with_columns(OWN_FILES["question_answering"], aliases="names"), train=rows)


def test_parquet_says_what_its_numbers_mean(tmp_path):
    paths = {}
    for split, names in (("train", ["no", "yes"]), ("validation", ["yes", "no"])):
        labelled([0, 1], ClassLabel(names=names)).to_parquet(tmp_path / f"{split}.parquet")
        paths[split] = [str(tmp_path / f"{split}.parquet")]
    splits = load_splits(OWN, files=paths)
    assert class_names(splits["train"], OWN) == ("no", "yes")
    # The names decide, not the numbers: the same classes may be numbered otherwise in another split.
    assert splits["validation"].rows["label"][:] == ["yes", "no"]


@pytest.mark.parametrize("other", [ClassLabel(names=["yes", "no"]), ClassLabel(names=["no", "yes", "maybe"]), None])
def test_files_of_a_split_that_name_other_classes_are_refused(other, tmp_path):
    paths = [str(tmp_path / f"train-{number}.parquet") for number in range(3)]
    for path, feature in zip(paths, [ClassLabel(names=["no", "yes"])] * 2 + [other], strict=True):
        labelled([0, 1], feature).to_parquet(path)
    assert load_splits(OWN, files={"train": paths[:2]})["train"].rows["label"][:] == ["no", "yes"] * 2
    for found in (paths, paths[::-1]):
        with pytest.raises(
            InputError, match=r"column 'label' names .* in .*parquet and .*: the files of a split have to"
        ):
            load_splits(OWN, files={"train": found})


def test_large_lists_are_lists(tmp_path):
    table = pa.table(
        {"tokens": pa.array([["a", "b"]] * 2, pa.large_list(pa.large_string())), "labels": [["O", "X"]] * 2}
    )
    pa.parquet.write_table(table, tmp_path / "train.parquet")
    rows = load_splits(OWN_FILES["token_classification"], files={"train": [str(tmp_path / "train.parquet")]})[
        "train"
    ].rows
    assert rows["tokens"][0] == ["a", "b"]


# Which rows.


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 40), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_what_is_held_out_is_drawn_by_the_seed_and_is_in_no_other_split(count, fraction, seed):
    rows = Dataset.from_dict({"text": [str(i) for i in range(count)]})
    if not 1 <= max(1, round(count * fraction)) < count:
        return
    parts, again = (hold_out({"train": rows, "test": rows}, fraction, seed) for _ in range(2))
    assert parts["train"]["text"][:] == again["train"]["text"][:]
    assert sorted(parts["train"]["text"][:] + parts["validation"]["text"][:]) == sorted(rows["text"][:])
    assert len(parts["validation"]) == max(1, round(count * fraction)) and parts["test"] is rows


def test_another_seed_holds_out_other_rows_and_a_validation_set_is_left_alone():
    rows = Dataset.from_dict({"text": [str(i) for i in range(50)]})
    assert (
        hold_out({"train": rows}, 0.2, 0)["validation"]["text"]
        != hold_out({"train": rows}, 0.2, 1)["validation"]["text"]
    )
    splits = {"train": rows, "validation": rows}
    assert hold_out(splits, 0.2, 0) is splits
    with pytest.raises(ValueError, match="one training document is too few"):
        hold_out({"train": rows.select([0])}, 0.2, 0)
    with pytest.raises(
        ValueError, match=r"--validation-fraction 0.991 of 50 training documents leaves none to train on"
    ):
        hold_out({"train": rows}, 0.991, 0)


def test_every_class_has_its_share_of_what_is_held_out():
    labels = ["a"] * 80 + ["b"] * 16 + ["c"] * 3 + ["d"]
    parts = hold_out({"train": labelled(labels)}, 0.25, 0)
    counts = Counter(parts["validation"]["label"][:])
    assert counts["a"] + counts["d"] == 20 and counts["b"] == 4 and counts["c"] == 1
    # There is no place for all of them.
    assert len(hold_out({"train": labelled(labels)}, 0.02, 0)["validation"]) == 2


def test_training_rows_that_stand_in_another_split_are_found_by_all_of_their_texts():
    def pairs(*rows):
        return Dataset.from_dict({"text": [a for a, _ in rows], "text_pair": [b for _, b in rows]})

    splits = {
        "train": pairs(("a", "b"), ("b", "a"), ("a", "c"), ("a", "b")),
        "validation": pairs(("a", "b"), ("x", "y")),
        "test": pairs(("c", "a")),
    }
    roles = ["text", "text_pair", "tokens"]
    assert repeated_rows(splits, roles) == {"validation": {0, 3}, "test": set()}
    # "ab" + "c" is not "a" + "bc".
    splits = {"train": pairs(("ab", "c")), "validation": pairs(("a", "bc"))}
    assert repeated_rows(splits, roles) == {"validation": set()}
    lists = {split: Dataset.from_dict({"tokens": [["a", "b"], ["c"]]}) for split in ("train", "test")}
    assert repeated_rows(lists, roles) == {"test": {0, 1}}


def test_a_hub_data_set_gives_its_labelled_splits_and_a_task_those_it_names(monkeypatch):
    splits = ("train", "test", "unsupervised")
    hub = DatasetDict({split: Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}) for split in splits})
    asked = []
    monkeypatch.setattr(data, "load_hub_rows", lambda name, config: asked.append((name, config)) or hub)
    own = load_splits(OWN_FILES["single_label"], files={}, dataset="some/set", dataset_config="small")
    imdb = load_splits(TASKS["imdb"], files={})
    arxiv = load_splits(TASKS["arxiv"], files={}, dataset_config="no_ref")
    assert set(own) == set(imdb) == set(arxiv) == {"train", "test"}
    assert asked == [("some/set", "small"), ("stanfordnlp/imdb", None), ("ccdv/arxiv-classification", "no_ref")]


def test_a_folder_as_data_set_is_read_as_files_are(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,01\nb,02\n")
    (tmp_path / "test.csv").write_text("text,label\na,01\n")
    splits = load_splits(OWN, files={}, dataset=str(tmp_path))
    assert set(splits) == {"train", "test"} and splits["test"].rows["label"][:] == ["01"]
    # Not in that layout: as datasets finds it.
    (tmp_path / "train.csv").rename(tmp_path / "my_train.csv")
    assert set(load_splits(OWN, files={}, dataset=str(tmp_path))) == {"train", "test"}


def test_a_csv_cell_that_reads_none_is_a_label_and_an_empty_one_is_missing(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\nsnow,None\nNA,NA\n")
    rows = load_splits(OWN, files={"train": [str(path)]})["train"].rows
    assert rows["label"][:] == ["None", "NA"] and rows["text"][:] == ["snow", "NA"]
    path.write_text("text,label\nsnow,None\nwind,\n")
    with pytest.raises(InputError, match=r"train\.csv, row 1: column 'label' is empty"):
        load_splits(OWN, files={"train": [str(path)]})


def test_digits_are_text_where_text_is_looked_for(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("id,text,label\n007,0012,1\n8,13,2\n")
    rows = load_splits(with_columns(id="id"), files={"train": [str(path)]})["train"].rows
    assert rows["text"][:] == ["0012", "13"] and rows["id"][:] == ["007", "8"] and rows["label"][:] == ["1", "2"]


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
    (tmp_path / "train.CSV").write_text("text,label\na,1\n")
    assert find_split_files(str(tmp_path), TASKS["imdb"]) == {"train": [str(tmp_path / "train.CSV")]}
    assert load_splits(OWN, files={"train": [str(tmp_path / "train.CSV")]})["train"].rows["text"][:] == ["a"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("twice.csv", "text,label,text\na,1,b\n", "the header of .*twice.csv names the column 'text' twice"),
        ("head.csv", "text,label\n", "head.csv: there are no rows"),
        ("none.json", "[]", "none.json: there are no rows"),
        ("", "", "is a folder: a file is needed"),
    ],
)
def test_files_that_hold_no_table_are_named(name, content, message, tmp_path):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_splits(OWN, files={"train": [str(tmp_path / name)]})
