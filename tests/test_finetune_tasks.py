# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The table of tasks: its rows name what exists, and TriviaQA's own columns become those of question answering."""

import pytest
from datasets import Dataset, Features, List, Value

from ernie_sparse.finetune.data import ROLES
from ernie_sparse.finetune.metrics import METRICS, average_over_tasks, compute
from ernie_sparse.finetune.task_types import TASK_TYPES
from ernie_sparse.finetune.tasks import GLUE, OWN_FILES, TASKS, join_trivia_qa, list_tasks

ALL_TASKS = {**TASKS, **{f"own {name}": task for name, task in OWN_FILES.items()}}

# A prediction and a reference of each task_type, as the metrics get them.
SAMPLES = {
    "single_label": ([0, 1, 1], [0, 1, 0]),
    "multi_label": ([[0, 1], [1, 0]], [[0, 1], [1, 1]]),
    "regression": ([0.5, 0.25, 1.0], [0.0, 1.0, 0.5]),
    "token_classification": ([["B-X", "O"]], [["B-X", "O"]]),
    "question_answering": (["a"], [["a"]]),
}
OWN_METRICS = {"token_classification": [["token_classification"]], "question_answering": [["squad"], ["trivia_qa"]]}


@pytest.mark.parametrize("name", ALL_TASKS)
def test_a_task_names_a_type_its_columns_and_metrics_that_exist(name):
    task = ALL_TASKS[name]
    assert task.task_type in TASK_TYPES
    assert set(task.metrics) <= set(METRICS)
    # Whole texts are scored by what the task names; the other types have their own metrics.
    assert bool(task.metrics) == (task.task_type in ("single_label", "multi_label", "regression"))
    needed, references = ROLES[task.task_type]
    assert set(needed) | set(references) <= set(task.columns)


@pytest.mark.parametrize("name", ALL_TASKS)
def test_what_chooses_the_best_checkpoint_is_a_metric_of_the_task(name):
    task = ALL_TASKS[name]
    if task.task_type == "candidate_choice":
        rows = Dataset.from_dict({"answer": ["x"]})
        produced = [TASK_TYPES[task.task_type].score([{"answer": "x"}], rows, None)]
    else:
        produced = [
            compute(names, *SAMPLES[task.task_type]) for names in OWN_METRICS.get(task.task_type, [task.metrics])
        ]
    assert all(task.best in results for results in produced)


def test_a_task_of_the_hub_has_a_place_for_local_copies_and_a_split_to_train_on():
    folders = [task.folder for task in TASKS.values()]
    assert all(folders) and len(set(folders)) == len(folders)
    for task in TASKS.values():
        assert task.hub is not None and "train" in task.splits and len(task.splits) > 1


def test_glue_is_its_nine_tasks_under_their_own_metrics():
    assert set(GLUE) == {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"}
    assert all(TASKS[name] is task and task.hub == ("nyu-mll/glue", name) for name, task in GLUE.items())
    assert GLUE["cola"].metrics == ("matthews_correlation",)
    assert GLUE["stsb"].metrics == ("pearson", "spearmanr") and GLUE["stsb"].task_type == "regression"
    assert GLUE["mrpc"].metrics == GLUE["qqp"].metrics == ("accuracy", "f1_binary")
    assert all(GLUE[name].metrics == ("accuracy",) for name in ("sst2", "mnli", "qnli", "rte", "wnli"))
    assert set(GLUE["mnli"].splits.values()) == {"train", "validation_matched", "validation_mismatched"}
    # Single sentences and pairs.
    assert {name for name, task in GLUE.items() if "text_pair" not in task.columns} == {"cola", "sst2"}


def test_the_classes_of_a_task_are_as_many_as_it_has():
    counts = {name: len(task.label_names) for name, task in TASKS.items() if task.task_type == "single_label"}
    assert counts == {**dict.fromkeys(counts, 2), "mnli": 3, "arxiv": 11}
    assert GLUE["rte"].label_names == ("entailment", "not_entailment")
    assert GLUE["wnli"].label_names == ("not_entailment", "entailment")
    assert average_over_tasks({"cola": {"matthews_correlation": 1.0}}) == 1.0


def test_list_shows_every_task_with_its_recipe_and_its_note():
    lines = list_tasks().splitlines()
    for name, task in TASKS.items():
        row = next(line for line in lines if line.split()[:1] == [name])
        assert task.task_type in row and task.hub[0] in row and str(task.recipe.max_length) in row.split()
        assert f"{task.recipe.learning_rate}" in row.split()
        if task.note:
            assert f"  {name}: {task.note}" in lines
    assert any(line.startswith("glue: all nine") for line in lines)


STRINGS = List(Value("string"))
HUB_TRIVIA_QA = Features(
    {
        "question": Value("string"),
        "question_id": Value("string"),
        "entity_pages": {"title": STRINGS, "wiki_context": STRINGS},
        "search_results": {"title": STRINGS, "search_context": STRINGS},
        "answer": {"value": Value("string"), "aliases": STRINGS, "normalized_value": Value("string")},
    }
)


def trivia_row(number: int, pages: dict | None, found: dict | None, answer: dict | None) -> dict:
    row = {"question": f"who {number}?", "question_id": f"tc_{number}", "entity_pages": pages, "search_results": found}
    return {**row, "answer": answer}


def test_the_documents_of_a_trivia_question_become_one_context_and_its_aliases_a_list():
    rows = [
        trivia_row(
            0,
            {"title": ["A", "B"], "wiki_context": ["first page", "second page"]},
            {"title": ["C"], "search_context": ["found page"]},
            {"value": "Ada", "aliases": ["Ada Lovelace", "Ada", "", "Countess"], "normalized_value": "ada"},
        ),
        trivia_row(1, {"title": ["A"], "wiki_context": ["", "only page"]}, None, {"value": "Bo", "aliases": []}),
        trivia_row(2, None, {"title": [], "search_context": []}, {"value": None, "aliases": ["Cy", "Cy"]}),
        trivia_row(3, {"title": None, "wiki_context": None}, None, None),
    ]
    joined = [join_trivia_qa(row) for row in Dataset.from_list(rows, features=HUB_TRIVIA_QA)]
    assert [row["id"] for row in joined] == ["tc_0", "tc_1", "tc_2", "tc_3"]
    assert joined[0]["question"] == "who 0?"
    contexts = ["first page\n\nsecond page\n\nfound page", "only page", "", ""]
    assert [row["context"] for row in joined] == contexts
    assert [row["aliases"] for row in joined] == [["Ada", "Ada Lovelace", "Countess"], ["Bo"], ["Cy"], []]
    assert all(row["answers"] == {"text": [], "answer_start": []} for row in joined)


def test_trivia_rows_without_the_column_of_search_results_are_joined_too():
    row = trivia_row(0, {"title": ["A"], "wiki_context": ["page"]}, None, {"value": "Ada", "aliases": []})
    row.pop("search_results")
    joined = join_trivia_qa(row)
    assert joined["context"] == "page" and joined["aliases"] == ["Ada"]


def test_trivia_rows_in_squads_columns_stay_as_they_are():
    row = {"id": "1", "question": "who?", "context": "Ada", "answers": {"text": ["Ada"], "answer_start": [0]}}
    assert join_trivia_qa(row) is row
