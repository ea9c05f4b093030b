# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""From files to splits of rows with one column per role, and from labels to classes."""

import dataclasses
import math

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_sparse.finetune import data
from ernie_sparse.finetune.data import (
    by_role,
    class_names,
    find_split_files,
    hold_out,
    load_splits,
    repeated_rows,
    split_label_sets,
    with_named_labels,
    with_numeric_labels,
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
    with pytest.raises(ValueError, match=r"no train\{\.parquet,\.jsonl,\.json,\.csv\} was found in .*"):
        find_split_files(str(tmp_path), TASKS["imdb"])


def test_splits_are_loaded_from_a_folder_under_the_names_of_roles(tmp_path):
    rows = {"premise": ["a"], "hypothesis": ["b"], "label": [2], "idx": [7]}
    for name in ("train", "validation_matched", "validation_mismatched"):
        Dataset.from_dict(rows).to_json(tmp_path / f"{name}.jsonl")
    splits = load_splits(TASKS["mnli"], files={}, data_dir=str(tmp_path))
    assert set(splits) == {"train", "validation", "validation_mismatched"}
    assert splits["validation"][0] == {"text": "a", "text_pair": "b", "label": 2, "id": "7"}


def test_files_without_a_training_split_are_refused(tmp_path):
    Dataset.from_dict({"text": ["a"], "label": ["x"]}).to_csv(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="there is no train split, only validation"):
        load_splits(OWN, files={"train": None, "validation": [str(tmp_path / "a.csv")]})


# Columns.


def test_columns_get_the_names_of_their_roles_and_the_rest_goes():
    rows = Dataset.from_dict({"review": ["a", "b"], "stars": [1, 2], "name": ["n1", "n2"], "junk": [0, 0]})
    found = by_role(rows, with_columns(text="review", label="stars", id="name"), "train")
    assert found.to_dict() == {"text": ["a", "b"], "label": [1, 2], "id": ["n1", "n2"]}


def test_columns_that_bear_each_others_names_are_swapped():
    rows = Dataset.from_dict({"text": ["x", "y"], "label": ["long a", "long b"]})
    found = by_role(rows, with_columns(text="label", label="text"), "train")
    assert found["text"][:] == ["long a", "long b"] and found["label"][:] == ["x", "y"]


def test_ids_are_strings_and_the_numbers_of_rows_where_there_are_none():
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1], "id": [10, 20]})
    assert by_role(rows, with_columns(id="id"), "train")["id"][:] == ["10", "20"]
    assert by_role(rows.remove_columns("id"), with_columns(id="id"), "train")["id"][:] == ["0", "1"]
    assert by_role(rows, with_columns(), "train")["id"][:] == ["0", "1"]


@pytest.mark.parametrize(
    "rows, columns, message",
    [
        ({"text": ["a"]}, {}, "no column 'label' for the label in the dev split, only 'text'"),
        (
            {"the body": ["a"], "label": [1]},
            {},
            "no column 'text' for the text in the dev split, only 'the body', 'label'",
        ),
        (
            {"text": ["a"], "label": [1]},
            {"id": "name"},
            "no column 'name' for the id in the dev split, only 'text', 'label'",
        ),
        ({"text": ["a"], "label": [1]}, {"aliases": "names"}, "no column 'names' for the aliases in the dev split"),
        (
            {"text": ["a"], "label": [1]},
            {"text_pair": "other"},
            "no column 'other' for the text_pair in the dev split, only 'text', 'label'",
        ),
        ({"text": ["a", "b", " \n"], "label": [1, 2, 3]}, {}, "column 'text' .* is empty in 1 of 3 rows, .* row 2"),
        ({"text": [None, "b"], "label": [1, 2]}, {}, "column 'text' of the dev split is empty in 1 of 2 .* row 0"),
        ({"text": ["a", "b"], "label": ["x", None]}, {}, "column 'label' of the dev split is empty in 1 of 2 .* row 1"),
        ({"text": [], "label": []}, {}, "the dev split has no rows"),
        ({"text": ["a"], "label": [1]}, {"text_pair": "text"}, "two roles cannot share a column"),
    ],
)
def test_rows_that_lack_something_are_refused_by_name(rows, columns, message):
    with pytest.raises(ValueError, match=message):
        by_role(Dataset.from_dict(rows), with_columns(**columns), "dev")


@pytest.mark.parametrize(
    "task_type, row, message",
    [
        ("single_label", {"text": 5, "label": 1}, "column 'text' of the dev split holds int64: text has to be strings"),
        (
            "single_label",
            {"text": ["a"], "label": 1},
            "column 'text' of the dev split holds List: text has to be strings",
        ),
        ("token_classification", {"tokens": "a b", "labels": ["O"]}, "holds string: tokens has to be lists of strings"),
        ("token_classification", {"tokens": [1], "labels": ["O"]}, "holds List: tokens has to be lists of strings"),
        ("question_answering", {"question": "a", "context": 3}, "holds int64: context has to be strings"),
        (
            "question_answering",
            {"question": "a", "context": "b", "answers": "c"},
            "string: answers has to be in SQuAD's form",
        ),
        (
            "question_answering",
            {"question": "a", "context": "b", "answers": ["c"]},
            "List: answers has to be in SQuAD's form",
        ),
        ("question_answering", {"question": "a", "context": "b", "aliases": "c"}, "aliases has to be lists of strings"),
        (
            "candidate_choice",
            {"query": "q", "candidates": "ab", "supports": ["s"], "answer": "a"},
            "candidates has to be lists of strings",
        ),
        (
            "candidate_choice",
            {"query": "q", "candidates": ["a"], "supports": "s", "answer": "a"},
            "supports has to be lists of strings",
        ),
    ],
)
def test_columns_of_another_type_are_refused_by_name(task_type, row, message):
    with pytest.raises(ValueError, match=message):
        by_role(Dataset.from_list([row]), OWN_FILES[task_type], "dev")


def test_columns_in_which_nothing_stands_are_fine_where_that_is_allowed():
    row = {"question": "a", "context": None, "answers": None, "aliases": []}
    found = by_role(Dataset.from_list([row]), OWN_FILES["question_answering"], "dev")
    assert found[0] == {**row, "id": "0"}
    row = {"query": "q", "candidates": ["a"], "supports": [], "answer": "a"}
    assert by_role(Dataset.from_list([row]), OWN_FILES["candidate_choice"], "dev")["supports"][:] == [[]]


def test_to_predict_no_labels_are_needed_and_none_are_kept():
    for columns in ({"text": ["a"]}, {"text": ["a"], "label": [None]}):
        found = by_role(Dataset.from_dict(columns), OWN, None)
        assert set(found.column_names) == {"text", "id"}
    with pytest.raises(ValueError, match="no column 'text'"):
        by_role(Dataset.from_dict({"body": ["a"]}), OWN, None)


def test_a_question_may_come_without_a_document():
    rows = Dataset.from_dict({"question": ["who?"], "context": [""]})
    assert by_role(rows, OWN_FILES["question_answering"], "dev")["context"][:] == [""]


# Classes.


@pytest.mark.parametrize(
    "rows, task, expected",
    [
        (labelled([1, 0], ClassLabel(names=["no", "yes", "maybe"])), OWN, ("no", "yes", "maybe")),
        (labelled([10, 9, 10, -1]), OWN, ("-1", "9", "10")),
        (labelled([1, 0]), TASKS["imdb"], ("neg", "pos")),
        (labelled(["b", "a", "b"]), TASKS["imdb"], ("a", "b")),
        (labelled([True, False]), OWN, ("False", "True")),
        (labelled([["b"], [], ["a", "b"]]), OWN_FILES["multi_label"], ("a", "b")),
        (labelled([["a"], ["a"]]), OWN_FILES["multi_label"], ("a",)),
        (labelled([[1, 0]], List(ClassLabel(names=["O", "B-X"]))), OWN_FILES["token_classification"], ("O", "B-X")),
    ],
)
def test_classes_are_the_datas_own_names_the_tasks_or_the_sorted_labels(rows, task, expected):
    assert class_names(rows, task) == expected


@pytest.mark.parametrize(
    "rows, task_type, message",
    [
        (labelled([0.5, 1.0]), "single_label", "column 'label' holds float64: classes are strings or whole numbers"),
        (labelled(["a", "a"]), "single_label", "a single class, 'a': there is nothing to learn"),
        (labelled([3, 3]), "single_label", "a single class, '3'"),
        (labelled([1, 1], ClassLabel(names=["no", "yes"])), "single_label", "a single class, 'yes': there is nothing"),
        (labelled([["a"], ["b"]]), "single_label", "holds lists: use --kind multi_label or token_classification"),
        (labelled([{"x": 1}, {"x": 2}]), "single_label", "holds dict: classes are strings or whole numbers"),
        (
            labelled([["a", None], ["b"]]),
            "multi_label",
            "column 'label' of the training set has lists with empty labels",
        ),
        (labelled(["a", "b"]), "token_classification", "needs a list of labels per row"),
    ],
)
def test_labels_that_are_no_classes_are_refused(rows, task_type, message):
    task = with_columns(OWN_FILES[task_type], label="label")
    with pytest.raises(ValueError, match=message):
        class_names(rows, task)


@pytest.mark.parametrize(
    "rows, names, expected",
    [
        (labelled([1, 0]), ("neg", "pos"), ["pos", "neg"]),
        (labelled(["pos"]), ("neg", "pos"), ["pos"]),
        (labelled([9, 10]), ("9", "10"), ["9", "10"]),
        (labelled([1], ClassLabel(names=["neg", "pos"])), ("neg", "pos"), ["pos"]),
        # The names decide, not the numbers: the same classes may be numbered otherwise in another split.
        (labelled([1], ClassLabel(names=["pos", "neg"])), ("neg", "pos"), ["neg"]),
        (labelled([["a", "b"], []]), ("a", "b"), [["a", "b"], []]),
        (labelled([[0, 1]], List(ClassLabel(names=["O", "B"]))), ("O", "B"), [["O", "B"]]),
    ],
)
def test_labels_become_names(rows, names, expected):
    assert with_named_labels(rows, names, "dev")["label"][:] == expected


@pytest.mark.parametrize(
    "rows, names, label",
    [
        (labelled(["a", "west"]), ("a", "b"), "west"),
        (labelled([0, 2]), ("neg", "pos"), "2"),
        (labelled([-1]), ("neg", "pos"), "-1"),
        (labelled([-1], ClassLabel(names=["neg", "pos"])), ("neg", "pos"), "-1"),
        (labelled([["a"], ["b", "c"]]), ("a", "b"), "c"),
        # The number 0 is not the first of the classes 1, 2 and 3.
        (labelled([0]), ("1", "2", "3"), "0"),
    ],
)
def test_a_label_that_training_has_not_seen_is_refused(rows, names, label):
    with pytest.raises(ValueError, match=f"label '{label}' in the dev split is none of the training set's: {names[0]}"):
        with_named_labels(rows, names, "dev")


def test_sets_of_labels_may_stand_in_one_cell():
    found = split_label_sets(labelled(["sport|politics", " sport | ", "weather"]), "|")
    assert found["label"][:] == [["sport", "politics"], ["sport"], ["weather"]]
    lists = labelled([["a|b"], []])
    assert split_label_sets(lists, "|") is lists
    assert split_label_sets(labelled(["a;b"]), ";")["label"][:] == [["a", "b"]]


def test_numbers_to_predict_are_floats_and_nothing_else():
    found = with_numeric_labels(labelled(["1.5", "2"]), OWN, "train")
    assert found["label"][:] == [1.5, 2.0] and found.features["label"] == Value("float64")
    assert with_numeric_labels(labelled([3, 4]), OWN, "train")["label"][:] == [3.0, 4.0]
    for values, named in (
        ([1.0, math.nan], "nan in row 1"),
        ([math.inf, 1.0], "inf in row 0"),
        (["1", "many"], "'many' in row 1"),
        ([[1.0], [2.0]], r"\[1.0\] in row 0"),
    ):
        with pytest.raises(ValueError, match=f"column 'label' of the train split holds {named}: regression needs"):
            with_numeric_labels(labelled(values), OWN, "train")


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
    monkeypatch.setattr(data, "load_rows", lambda files, name, config: asked.append((name, config)) or hub)
    own = load_splits(OWN_FILES["single_label"], files={}, dataset="some/set", dataset_config="small")
    imdb = load_splits(TASKS["imdb"], files={})
    arxiv = load_splits(TASKS["arxiv"], files={}, dataset_config="no_ref")
    assert set(own) == set(imdb) == set(arxiv) == {"train", "test"}
    assert asked == [("some/set", "small"), ("stanfordnlp/imdb", None), ("ccdv/arxiv-classification", "no_ref")]


def test_a_csv_cell_that_reads_none_is_a_label_and_an_empty_one_is_missing(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\nsnow,None\nNA,NA\n")
    rows = load_splits(OWN, files={"train": [str(path)]})["train"]
    assert rows["label"][:] == ["None", "NA"] and rows["text"][:] == ["snow", "NA"]
    path.write_text("text,label\nsnow,None\nwind,\n")
    with pytest.raises(ValueError, match="column 'label' of the train split is empty in 1 of 2 rows"):
        load_splits(OWN, files={"train": [str(path)]})


def test_a_list_with_nothing_in_one_place_is_said():
    rows = Dataset.from_dict({"tokens": [["a", None], ["b", "c"]], "labels": [["x", "y"], ["x", "y"]]})
    with pytest.raises(ValueError, match="column 'tokens' of the train split is empty in 1 of 2 rows"):
        by_role(rows, OWN_FILES["token_classification"], "train")


def test_an_empty_second_text_is_said():
    task = dataclasses.replace(OWN, columns={**OWN.columns, "text_pair": "other"})
    rows = Dataset.from_dict({"text": ["a", "b"], "other": ["c", None], "label": ["x", "y"]})
    with pytest.raises(ValueError, match="column 'other' of the train split is empty in 1 of 2 rows"):
        by_role(rows, task, "train")


def test_answers_that_are_no_lists_are_refused(tmp_path):
    row = {"question": "who?", "context": "Bob is here", "answers": {"text": "Bob", "answer_start": 0}}
    with pytest.raises(ValueError, match="answers has to be in SQuAD's form"):
        by_role(Dataset.from_list([row]), OWN_FILES["question_answering"], "train")
    for wrong in ({"text": ["Bob"], "answer_start": ["0"]}, {"text": ["Bob"], "answer_start": [0.0]}, {"text": [5]}):
        with pytest.raises(ValueError, match="answers has to be in SQuAD's form"):
            by_role(Dataset.from_list([{**row, "answers": wrong}]), OWN_FILES["question_answering"], "train")
    row["answers"] = {"text": ["Bob"], "answer_start": [0]}
    assert by_role(Dataset.from_list([row]), OWN_FILES["question_answering"], "train")["answers"][0] == row["answers"]


def test_digits_are_text_where_text_is_looked_for(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("id,text,label\n007,0012,1\n8,13,2\n")
    rows = load_splits(with_columns(id="id"), files={"train": [str(path)]})["train"]
    assert rows["text"][:] == ["0012", "13"] and rows["id"][:] == ["007", "8"] and rows["label"][:] == [1, 2]


def test_the_case_of_a_suffix_does_not_matter(tmp_path):
    (tmp_path / "train.CSV").write_text("text,label\na,1\n")
    assert find_split_files(str(tmp_path), TASKS["imdb"]) == {"train": [str(tmp_path / "train.CSV")]}
    assert load_splits(OWN, files={"train": [str(tmp_path / "train.CSV")]})["train"]["text"][:] == ["a"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("twice.csv", "text,label,text\na,1,b\n", "the header of .*twice.csv names the column 'text' twice"),
        ("head.csv", "text,label\n", "could not read .*head.csv as csv: it has no rows"),
        ("none.json", "[]", "could not read .*none.json as json: it has no rows"),
        ("", "", "is a folder: a file is needed"),
    ],
)
def test_files_that_hold_no_table_are_named(name, content, message, tmp_path):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_splits(OWN, files={"train": [str(tmp_path / name)]})


def test_values_of_several_types_are_said_with_their_rows(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('[{"text": "a", "label": "x"}, {"text": "b", "label": "x"}, {"text": 7, "label": 1}]')
    several = r"values of several types \(str in row 0, int in row 2\)"
    with pytest.raises(ValueError, match=f"column 'text' of the train split holds {several}: text has to be strings"):
        load_splits(OWN, files={"train": [str(path)]})
    path.write_text('[{"text": "a", "label": "x"}, {"text": "b", "label": "x"}, {"text": "c", "label": 1}]')
    with pytest.raises(ValueError, match=f"column 'label' holds {several}: classes are strings or whole numbers"):
        class_names(load_splits(OWN, files={"train": [str(path)]})["train"], OWN)
