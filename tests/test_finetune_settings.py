# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Settings: what is derived from the model's config and the tokenizer, and what `finetune.json` keeps."""

import dataclasses
import json

import pytest
from transformers import ByT5Tokenizer

from ernie_sparse.errors import InputError
from ernie_sparse.finetune.settings import HAS_CLASSES, Settings
from ernie_sparse.finetune.task_types import TASK_TYPES

COLUMNS = {"text": "review", "label": "stars"}


def tokenizer_of(max_length: int | None = None) -> ByT5Tokenizer:
    return ByT5Tokenizer(**({} if max_length is None else {"model_max_length": max_length}))


def test_classes_are_those_of_the_config_in_the_order_of_their_numbers(tiny_config):
    # As strings, 10 would come before 2.
    config = tiny_config(id2label={str(number): f"class {number}" for number in (10, 2, 1, 0, *range(3, 10))})
    assert set(HAS_CLASSES) == set(TASK_TYPES)
    for task_type in TASK_TYPES:
        names = Settings.of(config, 64, task_type=task_type, columns={}).label_names
        has_classes = task_type in ("single_label", "multi_label", "token_classification")
        assert names == (tuple(f"class {number}" for number in range(11)) if has_classes else ())


@pytest.mark.parametrize(
    "max_length, pattern, expected",
    [
        (64, "block_size=8,num_global_blocks=3", (8, 24)),
        (64, "block_size=16,num_global_blocks=3", (16, 48)),
        # No more than there are, of which the first may be a part.
        (20, "block_size=8,num_global_blocks=9", (8, 24)),
        (20, "block_size=8,num_global_blocks=9,block_shift=5", (8, 32)),
    ],
)
def test_blocks_are_those_of_the_configs_pattern(tiny_config, max_length, pattern, expected):
    config = tiny_config()
    config.pattern = pattern
    settings = Settings.of(config, max_length, task_type="regression", columns=COLUMNS)
    assert settings.max_length == max_length and settings.columns == COLUMNS
    assert (settings.block_size, settings.num_global_tokens) == expected


def test_the_file_keeps_what_neither_config_nor_tokenizer_say(tiny_config, tmp_path):
    config = tiny_config(id2label={0: "bad", 1: "good"})
    own = {"long_documents": "windows", "stride": 7, "max_answer_length": 9, "num_best": 3, "null_threshold": -0.5}
    common = {"task_type": "single_label", "columns": COLUMNS, **own}
    settings = Settings.of(config, 48, metrics=("accuracy",), **common)
    settings.save(tmp_path)
    assert json.loads((tmp_path / "finetune.json").read_text()) == common
    assert Settings.load(tmp_path, config, tokenizer_of(48)) == dataclasses.replace(settings, metrics=())
    # Another config and another tokenizer say otherwise, as far as the model reaches.
    config = tiny_config(id2label={0: "no", 1: "yes"}, block_size=4)
    for tokenizer, max_length in ((tokenizer_of(20), 20), (tokenizer_of(200), 128), (tokenizer_of(), 128)):
        assert Settings.load(tmp_path, config, tokenizer) == Settings.of(config, max_length, **common)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        "{}",
        '{"task_type": "regression"}',
        '{"task_type": "poetry", "columns": {}}',
        '{"task_type": "regression", "columns": {}, "kind": "regression"}',
        '{"task_type": "regression", "columns": {}, "max_length": 512}',
        "\udcff",
    ],
)
def test_another_file_is_refused(tiny_config, tmp_path, text):
    (tmp_path / "finetune.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"finetune\.json is not a file of `ernie-sparse finetune`: "):
        Settings.load(tmp_path, tiny_config(), tokenizer_of())


def test_two_classes_of_one_name_are_refused(tiny_config, tmp_path):
    config = tiny_config(id2label={0: "good", 1: "bad", 2: "good"})
    Settings.of(config, 48, task_type="single_label", columns=COLUMNS).save(tmp_path)
    with pytest.raises(InputError, match=r"id2label in config\.json names the class 'good' twice: give each its own"):
        Settings.load(tmp_path, config, tokenizer_of())


def test_a_folder_without_the_file_is_refused(tiny_config, tmp_path):
    with pytest.raises(InputError, match=r"has no finetune\.json: it was not written by `ernie-sparse finetune`"):
        Settings.load(tmp_path, tiny_config(), tokenizer_of())
