# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The configuration: pattern fields as scalars on disk, one value in use, and bad ones caught by name."""

import dataclasses
import json
import math

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from ernie_sparse import ErnieSparseConfig, ErnieSparseModel, SparsePattern

# Every field differs from its default.
PATTERN = SparsePattern(
    block_size=16,
    num_window_blocks=5,
    num_global_blocks=2,
    num_random_blocks=3,
    block_shift=7,
    hierarchical=False,
    seed=2**32 - 1,
)
SCALARS = {
    "block_size": 16,
    "num_window_blocks": 5,
    "num_global_blocks": 2,
    "num_random_blocks": 3,
    "block_shift": 7,
    "hierarchical": False,
    "pattern_seed": 2**32 - 1,
}


def test_defaults_are_bert_base_under_the_default_pattern():
    config = ErnieSparseConfig()
    assert config.pattern == SparsePattern()
    expected = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 4096,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "classifier_dropout": None,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "num_representatives_per_block": 1,
        "block_size": 64,
        "num_window_blocks": 3,
        "num_global_blocks": 1,
        "num_random_blocks": 0,
        "block_shift": 0,
        "hierarchical": True,
        "pattern_seed": 0,
        "model_type": "ernie_sparse",
    }
    assert {name: config.to_dict()[name] for name in expected} == expected


def test_pattern_is_read_from_the_scalars_field_by_field():
    assert ErnieSparseConfig(**SCALARS).pattern == PATTERN
    for name, value in SCALARS.items():
        field = "seed" if name == "pattern_seed" else name
        if name == "block_shift":
            value = 63
        assert ErnieSparseConfig(**{name: value}).pattern == dataclasses.replace(SparsePattern(), **{field: value})


@pytest.mark.parametrize("value", [PATTERN, str(PATTERN), dataclasses.asdict(PATTERN)], ids=["value", "text", "dict"])
def test_pattern_sets_the_scalars(value):
    given = ErnieSparseConfig(pattern=value)
    assigned = ErnieSparseConfig()
    assigned.pattern = value
    for config in (given, assigned):
        assert {name: getattr(config, name) for name in SCALARS} == SCALARS
        assert config.pattern == PATTERN


def test_pattern_fields_that_are_not_named_take_the_patterns_defaults():
    assert ErnieSparseConfig(pattern="block_size=16").pattern == SparsePattern(block_size=16)
    config = ErnieSparseConfig(**SCALARS)
    config.pattern = "block_size=32"
    assert config.pattern == SparsePattern(block_size=32)


def test_scalars_that_are_set_later_are_in_the_pattern():
    config = ErnieSparseConfig()
    config.block_size, config.pattern_seed = 16, 5
    assert config.pattern == SparsePattern(block_size=16, seed=5)


def test_bad_pattern_is_refused_and_leaves_the_config_as_it_was():
    config = ErnieSparseConfig(**SCALARS)
    for value, telling in (("nonsense", "name=value"), ("block_size=0", "block_size=0"), (64, "not a sparse pattern")):
        with pytest.raises(ValueError, match=telling):
            config.pattern = value
        with pytest.raises(ValueError, match=telling):
            ErnieSparseConfig(pattern=value)
    assert config.pattern == PATTERN


def test_every_pattern_field_is_a_scalar_on_disk_and_comes_back(tmp_path):
    ErnieSparseConfig(num_representatives_per_block=2, pattern=PATTERN).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert {name: written[name] for name in SCALARS} == SCALARS
    assert "pattern" not in written and "seed" not in written
    for config in (ErnieSparseConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(config) is ErnieSparseConfig
        assert config.pattern == PATTERN
        assert config.num_representatives_per_block == 2


def test_defaults_round_trip_through_disk(tmp_path):
    ErnieSparseConfig().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).pattern == SparsePattern()


def test_fields_can_be_overridden_when_loading(tmp_path):
    ErnieSparseConfig(**SCALARS).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, num_global_blocks=4, pattern_seed=6)
    assert config.pattern == dataclasses.replace(PATTERN, num_global_blocks=4, seed=6)


@pytest.mark.parametrize(
    "name, value, telling",
    [
        ("block_size", 0, "block_size=0"),
        ("num_window_blocks", 2, "num_window_blocks=2.*odd"),
        ("num_window_blocks", -1, "num_window_blocks=-1"),
        ("num_global_blocks", -1, "num_global_blocks=-1"),
        ("num_random_blocks", -1, "num_random_blocks=-1"),
        ("block_shift", 64, "block_shift=64.*0 to 63"),
        ("block_shift", -1, "block_shift=-1"),
        ("pattern_seed", 2**32, "seed=4294967296"),
        ("pattern_seed", -1, "seed=-1"),
        ("num_representatives_per_block", 0, "num_representatives_per_block=0.*from 1 to 1,024"),
        ("num_representatives_per_block", 10**6, "num_representatives_per_block=1000000.*from 1 to 1,024"),
        ("num_hidden_layers", 0, "num_hidden_layers=0.*from 1 to 1,000"),
        ("num_hidden_layers", 10**9, "num_hidden_layers=1000000000.*from 1 to 1,000"),
        ("num_attention_heads", 0, "num_attention_heads=0.*from 1"),
        ("num_attention_heads", 7, "hidden_size=768 is not a multiple of num_attention_heads=7"),
        ("hidden_size", -32, "hidden_size=-32.*from 1"),
        ("embedding_size", 0, "embedding_size=0.*from 1"),
        ("intermediate_size", 0, "intermediate_size=0.*from 1"),
        ("max_position_embeddings", 10**12, "max_position_embeddings=1000000000000.*to 16,777,216"),
        ("type_vocab_size", 0, "type_vocab_size=0.*from 1"),
        ("vocab_size", 0, "vocab_size=0.*from 1"),
        ("pad_token_id", 30522, "pad_token_id=30522.*from 0 to 30,521"),
        ("chunk_size_feed_forward", -3, "chunk_size_feed_forward=-3.*from 0"),
        ("hidden_dropout_prob", math.nan, "hidden_dropout_prob=nan.*between 0 and 1"),
        ("attention_probs_dropout_prob", 1.5, "attention_probs_dropout_prob=1.5.*between 0 and 1"),
        ("classifier_dropout", -0.1, "classifier_dropout=-0.1.*between 0 and 1"),
        ("initializer_range", -1.0, "initializer_range=-1.0.*at least 0"),
        ("layer_norm_eps", 0.0, "layer_norm_eps=0.0.*more than 0"),
        ("layer_norm_eps", math.inf, "layer_norm_eps=inf.*finite"),
        ("hidden_act", "foo", "hidden_act='foo'.*one of gelu"),
        ("pooler_act", "foo", "pooler_act='foo'.*one of gelu"),
        ("problem_type", "foo", "problem_type='foo'.*regression"),
    ],
)
def test_value_out_of_range_is_refused_by_name(name, value, telling):
    with pytest.raises(StrictDataclassClassValidationError, match=telling):
        ErnieSparseConfig(**{name: value})


@pytest.mark.parametrize(
    "fields, telling",
    [
        ({"num_labels": 10**9}, "num_labels=1000000000 is not allowed: it must be an integer from 1 to 1,000,000"),
        ({"num_labels": "two"}, "num_labels='two'"),
        ({"id2label": ["a", "b"]}, "id2label=.*which number each class has"),
        ({"id2label": {"a": 0}}, "id2label=.*which number each class has"),
        ({"label2id": 3}, "label2id=3"),
        ({"dtype": "foo"}, "dtype='foo'.*a type of torch"),
    ],
)
def test_classes_and_types_that_cannot_be_are_refused_by_name(fields, telling):
    with pytest.raises(ValueError, match=telling):
        ErnieSparseConfig(**fields)


def test_what_was_set_since_is_checked_before_a_model_is_built():
    config = ErnieSparseConfig()
    config.num_hidden_layers = 10**9
    with pytest.raises(StrictDataclassClassValidationError, match="num_hidden_layers=1000000000"):
        ErnieSparseModel(config)


@pytest.mark.parametrize(
    "name, value",
    [
        ("block_size", "16"),
        ("block_size", True),
        ("num_window_blocks", 3.0),
        ("num_global_blocks", None),
        ("num_random_blocks", [1]),
        ("block_shift", False),
        ("hierarchical", 1),
        ("hierarchical", "true"),
        ("pattern_seed", "0"),
        ("num_representatives_per_block", 1.5),
        ("hidden_size", "768"),
    ],
)
def test_value_of_a_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{name}'"):
        ErnieSparseConfig(**{name: value})


def test_bad_override_when_loading_is_caught_when_a_model_is_built(tmp_path, tiny_config):
    tiny_config().save_pretrained(tmp_path)
    config = ErnieSparseConfig.from_pretrained(tmp_path, block_size=0)
    with pytest.raises(StrictDataclassClassValidationError, match="block_size=0"):
        ErnieSparseModel(config)
