# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Conversion: the source's outputs for every family and head, and an account of every weight."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    BigBirdConfig,
    BigBirdModel,
    PreTrainedTokenizerFast,
)

from ernie_sparse import SparsePattern, cli, conversion_families
from ernie_sparse.configuration_ernie_sparse import code_files
from ernie_sparse.conversion import Conversion, convert

CODE = {file.name for file in code_files()}

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}
LENGTH = 64
SEP = 3
# Activations other than gelu and tanh, so that a head that uses the wrong one is seen.
ROBERTA_LIKE = {"max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1, "hidden_act": "relu"}
FAMILIES = {
    "Bert": {"hidden_act": "relu"},
    "Roberta": ROBERTA_LIKE,
    "XLMRoberta": ROBERTA_LIKE,
    "Camembert": ROBERTA_LIKE,
    "Ernie": {"hidden_act": "silu", "use_task_id": True},
    "Ernie without tasks": {"hidden_act": "silu"},
    "Electra": {"hidden_act": "relu", "embedding_size": 16},
    "Electra of one width": {"hidden_act": "relu", "embedding_size": 32, "summary_activation": ""},
    "BigBird": {"hidden_act": "silu", "attention_type": "original_full", "sep_token_id": SEP},
    "Longformer": {**ROBERTA_LIKE, "attention_window": 130},
}
# XLMRoberta and Camembert are Roberta by another name: what holds for its files holds for theirs.
OF_OWN_FILES = [family for family in FAMILIES if family not in ("XLMRoberta", "Camembert")]
FIXED_GELU = ("Roberta", "XLMRoberta", "Camembert", "Electra", "Longformer")
OUTPUTS = {
    "Model": ("last_hidden_state", "pooler_output"),
    "ForMaskedLM": ("logits",),
    "ForSequenceClassification": ("logits",),
    "ForTokenClassification": ("logits",),
    "ForQuestionAnswering": ("start_logits", "end_logits"),
    "ForMultipleChoice": ("logits",),
}
# Weights of the source that have no place here, by the beginning of the family's name.
WITHOUT_PLACE = {"Ernie": "task_type_embeddings.", "Longformer": "_global."}
FULL = SparsePattern.full(block_size=8)
PLACES = ["memory", "folder"]


def build(family: str, head: str = "Model", **settings):
    """A model of random weights, every one of them far from what it would be if it were forgotten."""
    prefix = family.partition(" ")[0]
    settings = {**SIZES, **FAMILIES[family], **settings}
    if head in ("ForSequenceClassification", "ForTokenClassification"):
        settings["num_labels"] = 3
    if head == "ForMaskedLM" and prefix in FIXED_GELU:
        settings["hidden_act"] = "gelu"
    model = getattr(transformers, prefix + head)(getattr(transformers, f"{prefix}Config")(**settings))
    return randomize(model).eval()


def randomize(model):
    for name, weight in model.named_parameters():
        is_layer_norm = weight.dim() == 1 and name.endswith("weight")
        nn.init.normal_(weight, mean=float(is_layer_norm), std=0.3)
    return model


def convert_from(place: str, source, folder: Path, **options):
    """The conversion of a model in memory, or of the checkpoint folder that it is saved to."""
    if place == "memory":
        return convert(source, **options)
    source.save_pretrained(folder / "source")
    return convert(folder / "source", **options)


def parts(converted: Conversion):
    return converted.model, converted.report


def make_batch(source, num_tokens: int, num_choices: int | None = None) -> dict[str, torch.Tensor]:
    """Two rows of token ids: a full one, and one with a third of padding."""
    shape = (2, num_tokens) if num_choices is None else (2, num_choices, num_tokens)
    mask = torch.ones(shape, dtype=torch.long)
    mask[1, ..., num_tokens - num_tokens // 3 :] = 0
    ids = torch.randint(5, source.config.vocab_size, shape)
    # BigBird takes all up to the first [SEP] for the question.
    ids[..., 6] = SEP
    ids[mask == 0] = source.config.pad_token_id
    types = torch.randint(source.config.type_vocab_size, shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def assert_same_outputs(source, model, num_tokens: int, head: str = "Model"):
    batch = make_batch(source, num_tokens, num_choices=3 if head == "ForMultipleChoice" else None)
    is_real = batch["attention_mask"].bool()
    more = {}
    if source.config.model_type == "longformer":
        more["global_attention_mask"] = torch.zeros_like(batch["input_ids"])
    with torch.no_grad():
        expected, actual = source(**batch, **more), model(**batch)
    for name in OUTPUTS[head]:
        if name == "pooler_output" and source.config.model_type == "electra":
            assert name not in expected
            continue
        theirs, ours = expected[name], actual[name]
        assert ours.shape == theirs.shape
        if theirs.shape[: is_real.dim()] == is_real.shape:
            theirs, ours = theirs[is_real], ours[is_real]
        if head == "ForQuestionAnswering" and source.config.model_type == "big_bird":
            # It takes a million from the scores of question tokens.
            is_context = theirs > -1e5
            assert is_context.sum() == len(is_context) - 2 * 6
            theirs, ours = theirs[is_context], ours[is_context]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def names_without_place(source, family: str, head: str) -> set[str]:
    prefix = family.partition(" ")[0]
    infixes = [WITHOUT_PLACE[prefix]] if prefix in WITHOUT_PLACE else []
    if head not in ("Model", "ForMultipleChoice") and prefix == "BigBird":
        infixes.append("pooler.")
    return {name for name in source.state_dict() if any(infix in name for infix in infixes)}


def assert_every_weight_is_reported(report, model):
    assert sorted([*report.copied, *report.made, *report.tiled]) == sorted(model.state_dict())


def storages(model) -> set[int]:
    return {weight.untyped_storage().data_ptr() for weight in model.state_dict().values()}


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden entries included."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def run(*argv) -> int:
    return cli.main(["convert", *map(str, argv)])


def add_weights(folder: Path, weights: dict[str, torch.Tensor]):
    path = folder / "model.safetensors"
    save_file({**load_file(path), **weights}, path, metadata={"format": "pt"})


def with_config(folder: Path, **changes) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_every_family_is_tested():
    assert {build(family).config.model_type for family in FAMILIES} == set(conversion_families.FAMILIES)


@pytest.mark.parametrize(
    "family, head",
    [
        pytest.param(
            family, head, marks=[pytest.mark.slow] * (family != "Bert" and head not in ("Model", "ForMaskedLM"))
        )
        for family, head in itertools.product(FAMILIES, OUTPUTS)
    ],
)
def test_the_full_pattern_gives_the_sources_outputs(family, head):
    source = build(family, head)
    model, report = parts(convert(source, max_length=100, pattern=FULL))
    assert type(model).__name__ == report.model_class == f"ErnieSparse{head}"
    assert report.source_class == type(source).__name__ and report.num_source_positions == LENGTH
    assert not model.training and model.config.max_position_embeddings == report.max_length == 100
    for num_tokens in (LENGTH, 21):
        assert_same_outputs(source, model, num_tokens, head)
    # Softmax takes away whatever a key's bias adds: no output shows it.
    for theirs, ours in zip(source.base_model.encoder.layer, model.base_model.encoder.layer, strict=True):
        torch.testing.assert_close(ours.attention.self.key.bias, theirs.attention.self.key.bias, rtol=0, atol=0)
    assert_every_weight_is_reported(report, model)
    assert set(report.dropped) == names_without_place(source, family, head)


@pytest.mark.slow
@pytest.mark.parametrize("head", OUTPUTS)
@pytest.mark.parametrize("family", OF_OWN_FILES)
def test_a_checkpoint_folder_becomes_what_its_model_in_memory_becomes(family, head, tmp_path):
    source = build(family, head)
    expected, actual = (convert_from(place, source, tmp_path, max_length=100, pattern=FULL) for place in PLACES)
    assert type(actual.model) is type(expected.model)
    assert actual.report.source == str(tmp_path / "source")
    for field in ("source_class", "copied", "made", "tiled"):
        assert getattr(actual.report, field) == getattr(expected.report, field)
    assert set(actual.report.dropped) == set(expected.report.dropped)
    weights = actual.model.state_dict()
    for name, weight in expected.model.state_dict().items():
        if "random" not in expected.report.made.get(name, ""):
            assert torch.equal(weights[name], weight), name
    configs = [vars(converted.model.config).copy() for converted in (expected, actual)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("family", "tied"),
    [*((family, True) for family in OF_OWN_FILES), *((family, False) for family in ("Bert", "Roberta", "Electra"))],
)
def test_a_saved_conversion_has_our_names_and_loads_with_nothing_missing(family, tied, tmp_path):
    source = build(family, "ForMaskedLM", tie_word_embeddings=tied)
    convert_from("folder", source, tmp_path, max_length=100, pattern=FULL).save(tmp_path / "out")
    assert all(name.startswith(("ernie_sparse.", "cls.")) for name in load_file(tmp_path / "out" / "model.safetensors"))
    model, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    is_tied = model.cls.predictions.decoder.weight is model.ernie_sparse.embeddings.word_embeddings.weight
    assert is_tied == tied == model.config.tie_word_embeddings
    assert model.config.architectures == ["ErnieSparseForMaskedLM"] and model.config.pattern == FULL
    assert_same_outputs(source, model.eval(), LENGTH, "ForMaskedLM")


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("Bert", torch.bfloat16), ("Bert", torch.float16), ("Ernie", torch.bfloat16), ("Longformer", torch.bfloat16)],
    ids=str,
)
def test_the_dtype_is_kept(family, dtype, tmp_path):
    source = build(family, "ForMaskedLM").to(dtype)
    converted = convert_from("folder", source, tmp_path, max_length=100, pattern=FULL)
    converted.save(tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in [*converted.model.state_dict().values(), *saved.values()]} == {dtype}
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == dtype
    ours, theirs = converted.model.base_model.encoder, source.base_model.encoder
    assert torch.equal(ours.layer[1].attention.self.key.weight, theirs.layer[1].attention.self.key.weight)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("family", ["Bert", "Ernie without tasks", "BigBird"])
def test_a_pretraining_checkpoint_keeps_its_masked_lm_head(family, place, tmp_path):
    source = build(family, "ForPreTraining")
    model, report = parts(convert_from(place, source, tmp_path, max_length=LENGTH, pattern=FULL))
    assert report.model_class == type(model).__name__ == "ErnieSparseForMaskedLM"
    batch = make_batch(source, LENGTH)
    is_real = batch["attention_mask"].bool()
    with torch.no_grad():
        expected, actual = source(**batch).prediction_logits, model(**batch).logits
    torch.testing.assert_close(actual[is_real], expected[is_real], rtol=0, atol=1e-5)
    dropped = {name for name in source.state_dict() if "seq_relationship" in name or ".pooler." in name}
    assert set(report.dropped) == dropped and len(dropped) == 4
    assert "next sentence" in report.dropped["cls.seq_relationship.weight"]
    assert_every_weight_is_reported(report, model)


@pytest.mark.parametrize("place", PLACES)
def test_an_electra_discriminator_becomes_a_base_model(place, tmp_path):
    source = build("Electra", "ForPreTraining")
    model, report = parts(convert_from(place, source, tmp_path, max_length=LENGTH, pattern=FULL))
    assert type(model).__name__ == "ErnieSparseModel"
    assert_same_outputs(source.electra, model, LENGTH)
    assert set(report.dropped) == {n for n in source.state_dict() if n.startswith("discriminator_predictions.")}
    assert len(report.dropped) == 4 and "replaced token detection" in {*report.dropped.values()}.pop()
    assert_every_weight_is_reported(report, model)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("head", "base_model", "left_behind"),
    [
        ("ForNextSentencePrediction", False, "cls."),
        ("ForSequenceClassification", True, "classifier."),
        ("ForMultipleChoice", True, "classifier."),
        ("Model", True, "nothing"),
    ],
)
def test_a_head_without_counterpart_or_left_behind_leaves_the_base_model_with_its_pooler(
    head, base_model, left_behind, place, tmp_path
):
    source = build("Bert", head)
    options = {"max_length": LENGTH, "pattern": FULL, "base_model": base_model}
    model, report = parts(convert_from(place, source, tmp_path, **options))
    assert report.model_class == type(model).__name__ == "ErnieSparseModel" and report.source_class == "BertModel"
    assert_same_outputs(source.base_model, model, LENGTH)
    assert set(report.dropped) == {name for name in source.state_dict() if name.startswith(left_behind)}
    assert not any("random" in fate for fate in report.made.values())
    assert_every_weight_is_reported(report, model)


@pytest.mark.parametrize("architectures", [None, [], ["BertForSomethingElse"], ["RobertaForMaskedLM"]], ids=str)
def test_a_checkpoint_that_names_no_known_architecture_becomes_a_base_model(architectures, tmp_path):
    source = build("Bert")
    source.save_pretrained(tmp_path)
    model = convert(with_config(tmp_path, architectures=architectures), max_length=LENGTH, pattern=FULL).model
    assert type(model).__name__ == "ErnieSparseModel"
    assert_same_outputs(source, model, LENGTH)


@pytest.mark.parametrize(
    ("family", "leftovers"),
    [
        ("Roberta", ["pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"]),
        ("Longformer", ["embeddings.position_ids", "embeddings.token_type_ids"]),
        ("Ernie without tasks", ["embeddings.task_type_embeddings.weight"]),
    ],
)
def test_what_old_checkpoints_hold_beyond_their_model_is_no_obstacle(family, leftovers, tmp_path):
    source = build(family, "ForMaskedLM")
    source.save_pretrained(tmp_path)
    leftovers = {f"{source.base_model_prefix}.{name}": torch.ones(2, 32) for name in leftovers}
    add_weights(tmp_path, leftovers)
    model, report = parts(convert(tmp_path, max_length=LENGTH, pattern=FULL))
    assert_same_outputs(source, model, LENGTH, "ForMaskedLM")
    expected = leftovers.keys() | names_without_place(source, family, "ForMaskedLM")
    # transformers itself passes over the position ids of most models.
    assert expected - {"roberta.embeddings.position_ids"} <= set(report.dropped) <= expected
    if family == "Roberta":
        why = "RobertaForMaskedLM does not use it; the base model does"
        assert report.dropped["roberta.pooler.dense.weight"] == why


@pytest.mark.parametrize("place", PLACES)
def test_a_missing_pooler_is_reported_as_made_at_random(place, tmp_path):
    source = BertModel(build("Bert").config, add_pooling_layer=False).eval()
    model, report = parts(convert_from(place, source, tmp_path, max_length=LENGTH, pattern=FULL))
    at_random = {name for name, fate in report.made.items() if "at random" in fate}
    assert at_random == {"pooler.dense.weight", "pooler.dense.bias"}
    assert model.pooler.dense.weight.isfinite().all() and model.pooler.dense.weight.std() > 0.01
    assert_every_weight_is_reported(report, model)


def test_an_electra_model_has_a_random_pooler():
    made = convert(build("Electra"), max_length=LENGTH).report.made
    assert {name for name, fate in made.items() if "at random" in fate} == {"pooler.dense.weight", "pooler.dense.bias"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_projections_without_bias_get_one_of_zeros(head, place, tmp_path):
    source = build("BigBird", head, use_bias=False)
    model, report = parts(convert_from(place, source, tmp_path, max_length=LENGTH, pattern=FULL))
    assert_same_outputs(source, model, LENGTH, head)
    zeros = {name for name, fate in report.made.items() if fate.startswith("zero")}
    assert zeros == {name for name in model.state_dict() if ".attention.self." in name and name.endswith(".bias")}
    assert len(zeros) == 2 * 3 and not any(model.state_dict()[name].any() for name in zeros)
    assert_every_weight_is_reported(report, model)


def test_an_untied_decoders_own_bias_is_the_one_that_counts():
    for family in ("Electra", "Bert", "Roberta"):
        source = build(family, "ForMaskedLM", tie_word_embeddings=False)
        decoder = source.get_output_embeddings()
        decoder.bias = nn.Parameter(torch.randn(decoder.out_features))
        model, report = parts(convert(source, max_length=LENGTH, pattern=FULL))
        assert torch.equal(model.cls.predictions.bias, decoder.bias)
        assert_same_outputs(source.eval(), model, LENGTH, "ForMaskedLM")
        assert_every_weight_is_reported(report, model)


def test_longformers_global_projections_are_dropped_and_the_local_ones_copied():
    source = build("Longformer")
    model, report = parts(convert(source, max_length=LENGTH))
    names = [f"{name}_global.{part}" for name in ("query", "key", "value") for part in ("weight", "bias")]
    assert set(report.dropped) == {f"encoder.layer.{i}.attention.self.{name}" for i in range(2) for name in names}
    assert all("global projection" in fate for fate in report.dropped.values())
    weights = source.state_dict()
    for name in (name for name in model.state_dict() if ".attention.self." in name):
        assert name in report.copied and torch.equal(model.state_dict()[name], weights[name])


MANY = 2 * LENGTH + 7


@pytest.mark.parametrize(
    ("family", "settings", "offset", "more"),
    [
        ("Bert", {}, 0, MANY),
        ("Electra", {"pad_token_id": 5}, 0, MANY),
        ("BigBird", {}, 0, MANY),
        ("Roberta", {}, 2, MANY),
        ("Roberta", {}, 2, None),
        ("Roberta", {}, 2, 0),
        ("Roberta", {}, 2, 1),
        ("Roberta", {"pad_token_id": 0}, 1, MANY),
        ("Camembert", {"pad_token_id": 3}, 4, MANY),
        ("Longformer", {}, 2, MANY),
    ],
)
def test_positions_repeat_from_the_first_that_stands_for_a_token(family, settings, offset, more):
    source = build(family, **settings)
    table = source.embeddings.position_embeddings.weight[offset:]
    limit = len(table)
    expected = 4096 if more is None else limit + more
    model, report = parts(convert(source, max_length=None if more is None else expected))
    assert report.num_source_positions == limit
    assert report.max_length == model.config.max_position_embeddings == expected
    assert torch.equal(model.get_position_embeddings().weight, table[torch.arange(expected) % limit])
    tiled = {"embeddings.position_embeddings.weight"} if expected > limit else set()
    assert set(report.tiled) == tiled
    assert all(f"{limit:,}" in fate and f"{expected:,}" in fate for fate in report.tiled.values())


@pytest.mark.parametrize(
    ("family", "positions", "limit"), [("Bert", 5000, 5000), ("BigBird", 4096, 4096), ("Longformer", 4098, 4096)]
)
def test_a_source_with_as_many_positions_as_the_default_or_more_keeps_them(family, positions, limit):
    source = build(family, max_position_embeddings=positions)
    model, report = parts(convert(source))
    assert not report.tiled and report.max_length == model.config.max_position_embeddings == limit
    table = source.embeddings.position_embeddings.weight
    assert torch.equal(model.get_position_embeddings().weight, table[len(table) - limit :])


@pytest.mark.parametrize(("head", "new"), [("Model", 150), *(("ForMaskedLM", new) for new in (150, 65, LENGTH, 40, 1))])
def test_position_embeddings_can_be_resized_later(head, new, tmp_path):
    model = convert(build("Bert", head), max_length=LENGTH, pattern="block_size=8").model
    old = model.get_position_embeddings().weight.detach().clone()
    assert model.get_position_embeddings() is model.base_model.embeddings.position_embeddings
    model.resize_position_embeddings(new)
    table = model.get_position_embeddings()
    assert torch.equal(table.weight, old[torch.arange(new) % LENGTH]) and table.weight.requires_grad
    assert table.num_embeddings == model.config.max_position_embeddings == new
    ids = torch.randint(5, 99, (1, new))
    with torch.no_grad():
        expected = model(ids)[0]
    model.save_pretrained(tmp_path)
    reloaded = type(model).from_pretrained(tmp_path).eval()
    assert reloaded.config.max_position_embeddings == new
    with torch.no_grad():
        torch.testing.assert_close(reloaded(ids)[0], expected)
    with pytest.raises(ValueError, match=f"{new + 1} tokens"):
        model(torch.randint(5, 99, (1, new + 1)))


@pytest.mark.parametrize("new", [0, -1])
def test_position_embeddings_cannot_be_resized_to_nothing(new):
    model = convert(build("Bert"), max_length=LENGTH).model
    with pytest.raises(ValueError, match=f"max_position_embeddings={new} is not allowed"):
        model.resize_position_embeddings(new)
    assert model.get_position_embeddings().num_embeddings == model.config.max_position_embeddings == LENGTH


@pytest.mark.parametrize("family", ["Bert", "Ernie", "Electra", "Roberta"])
def test_representatives_start_as_the_average_token_and_step_2_with_the_layer_norms_of_step_1(family):
    source = build(family, num_hidden_layers=3)
    model, report = parts(convert(source, max_length=150))
    weights = {name: weight.double() for name, weight in source.state_dict().items()}
    words = weights["embeddings.word_embeddings.weight"]
    ranks = torch.arange(1, len(words) + 1, dtype=torch.float64)
    expected = weights["embeddings.token_type_embeddings.weight"][0].clone()
    if family == "Ernie":
        expected += weights["embeddings.task_type_embeddings.weight"][0]
    expected += (words / ranks[:, None]).sum(dim=0) / (1 / ranks).sum()
    representative = model.embeddings.representative_embeddings.weight
    assert representative.shape == (1, words.shape[1])
    torch.testing.assert_close(representative[0].double(), expected, rtol=0, atol=1e-6)
    *layers, last = model.encoder.layer
    assert last.attention.representative_LayerNorm is None
    for layer, theirs in zip(layers, source.encoder.layer, strict=False):
        copy, original = layer.attention.representative_LayerNorm, layer.attention.output.LayerNorm
        for name in ("weight", "bias"):
            assert torch.equal(getattr(copy, name), getattr(theirs.attention.output.LayerNorm, name))
        assert not storages(copy) & storages(original)
    made = {name for name, fate in report.made.items() if "random" not in fate}
    norms = [f"encoder.layer.{i}.attention.representative_LayerNorm" for i in (0, 1)]
    names = [f"{norm}.{part}" for norm in norms for part in ("weight", "bias")]
    assert made == {"embeddings.representative_embeddings.weight", *names}


def test_a_converted_model_trains_its_representatives():
    model = convert(build("Bert", "ForSequenceClassification"), max_length=150).model.train()
    assert model.config.pattern == SparsePattern()
    model(torch.randint(5, 99, (2, 150)), labels=torch.tensor([0, 2])).loss.backward()
    base = model.base_model
    for weight in (
        base.embeddings.representative_embeddings.weight,
        base.encoder.layer[0].attention.representative_LayerNorm.weight,
    ):
        assert weight.grad.isfinite().all() and weight.grad.abs().max() > 1e-6


@pytest.mark.parametrize(
    ("family", "head", "max_length"),
    [
        *((family, "ForMaskedLM", LENGTH) for family in FAMILIES),
        ("Bert", "Model", LENGTH),
        ("Bert", "ForSequenceClassification", 100),
    ],
)
def test_the_source_is_left_alone_also_by_training_what_it_became(family, head, max_length):
    source = build(family, head).train()
    config = source.config.to_dict()
    before = {name: weight.clone() for name, weight in source.state_dict().items()}
    model = convert(source, max_length=max_length).model
    assert not storages(source) & storages(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    after = source.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert source.config.to_dict() == config and source.training


def test_sizes_ids_labels_and_dropout_are_those_of_the_source_but_for_attention_dropout():
    carried = {
        "vocab_size": 50,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.2,
        "classifier_dropout": 0.4,
        "type_vocab_size": 4,
        "initializer_range": 0.03,
        "layer_norm_eps": 1e-7,
        "pad_token_id": 2,
        "bos_token_id": 7,
        "eos_token_id": 8,
        "tie_word_embeddings": False,
        "id2label": {0: "north", 1: "south", 2: "west"},
        "label2id": {"north": 0, "south": 1, "west": 2},
        "problem_type": "multi_label_classification",
    }
    source = BertConfig(**carried, attention_probs_dropout_prob=0.3, max_position_embeddings=20)
    config = convert(transformers.BertForSequenceClassification(source), max_length=30).model.config
    assert {name: getattr(config, name) for name in carried} == carried
    assert config.attention_probs_dropout_prob == 0 and config.embedding_size is None
    assert config.num_labels == 3 and config.max_position_embeddings == 30
    assert config.pooler_act == "tanh" and not config.qa_feed_forward


@pytest.mark.parametrize(("embedding_size", "expected"), [(16, 16), (32, None)])
def test_an_embedding_size_is_kept_only_where_it_differs(embedding_size, expected):
    assert convert(build("Electra", embedding_size=embedding_size)).model.config.embedding_size == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "block_size=16,num_random_blocks=1",
        {"block_size": 16, "num_random_blocks": 1},
        SparsePattern(block_size=16, num_random_blocks=1),
    ],
    ids=["text", "mapping", "value"],
)
def test_the_pattern_asked_for_is_the_models_own(pattern):
    model, report = parts(convert(build("BigBird"), pattern=pattern))
    expected = SparsePattern(block_size=16, num_random_blocks=1)
    assert model.config.pattern == expected and SparsePattern.parse(report.pattern) == expected
    assert convert(build("Bert")).model.config.pattern == SparsePattern()


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "north", "wind", "##s", "snow", "harbour"]
TEXT = "The north winds brought snow, the harbour snow."


def save_tokenizer(folder: Path, words=tuple(WORDS)) -> BertTokenizer:
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def test_the_average_token_is_one_of_those_that_a_text_has(tmp_path):
    # In BERT's order; the model has more rows than there are tokens.
    words = [
        "[PAD]",
        *(f"[unused{number}]" for number in range(20)),
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "of",
        "##s",
    ]
    source = build("Bert")
    embeddings = source.get_input_embeddings().weight.detach()
    shares = torch.tensor([1, 1 / 2, 1 / 3])
    expected = (shares @ embeddings[25:28]) / shares.sum() + source.state_dict()[
        "embeddings.token_type_embeddings.weight"
    ][0]
    start = convert(
        source, tokenizer=save_tokenizer(tmp_path, words)
    ).model.embeddings.representative_embeddings.weight[0]
    torch.testing.assert_close(start, expected)


def test_a_vocabulary_may_leave_out_ids():
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "of": 3, "[UNK]": 1}, "[UNK]"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[UNK]", cls_token="[UNK]"
    )
    source = build("Bert")
    embeddings = source.get_input_embeddings().weight.detach()
    start = convert(source, tokenizer=tokenizer).model.embeddings.representative_embeddings.weight[0]
    expected = embeddings[0] + source.state_dict()["embeddings.token_type_embeddings.weight"][0]
    torch.testing.assert_close(start, expected)


def test_without_global_blocks_representatives_start_as_the_first_token(tmp_path):
    source, tokenizer = build("Bert"), save_tokenizer(tmp_path)
    weights = source.state_dict()
    expected = weights["embeddings.word_embeddings.weight"][WORDS.index("[CLS]")]
    expected = expected + weights["embeddings.token_type_embeddings.weight"][0]
    name = "embeddings.representative_embeddings.weight"
    for pattern, given, is_first in (
        ("num_global_blocks=0", tokenizer, True),
        ("num_global_blocks=1", tokenizer, False),
        ("num_global_blocks=0", None, False),
    ):
        model, report = parts(convert(source, pattern=pattern, tokenizer=given))
        assert torch.equal(model.state_dict()[name][0], expected) == is_first
        assert ("[CLS]" in report.made[name]) == is_first


@pytest.mark.parametrize("given", ["beside the checkpoint", "vocab.txt alone", "as a folder", "as an object"])
def test_the_tokenizer_goes_along_and_knows_the_new_length(given, tmp_path):
    source = tmp_path / "source"
    build("Bert", "ForMaskedLM").save_pretrained(source)
    beside = "beside" in given or "alone" in given
    folder = source if beside else tmp_path / "tokenizer"
    folder.mkdir(exist_ok=True)
    tokenizer = save_tokenizer(folder)
    if "alone" in given:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    expected = tokenizer(TEXT)["input_ids"]
    assert len(expected) == 13 and 1 in expected and WORDS.index("##s") in expected
    converted = convert(
        source, max_length=100, tokenizer=None if beside else folder if "folder" in given else tokenizer
    )
    assert converted.report.tokenizer == "BertTokenizer, 11 tokens"
    converted.save(tmp_path / "out")
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert converted.tokenizer.model_max_length == reloaded.model_max_length == 100
    assert converted.tokenizer(TEXT)["input_ids"] == reloaded(TEXT)["input_ids"] == expected
    assert len(reloaded(TEXT * 40, truncation=True)["input_ids"]) == 100


@pytest.mark.parametrize("place", PLACES)
def test_without_a_tokenizer_the_model_is_converted_alone(place, tmp_path):
    converted = convert_from(place, build("Bert"), tmp_path, max_length=LENGTH)
    assert converted.tokenizer is None and converted.report.tokenizer == "none"
    converted.save(tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {
        "config.json",
        "model.safetensors",
        "conversion.json",
        "README.md",
        *CODE,
    }


def test_a_tokenizer_for_a_model_in_memory_may_be_as_large_as_the_vocabulary_but_no_larger(tmp_path):
    source = build("Bert", vocab_size=len(WORDS))
    assert len(convert(source, tokenizer=save_tokenizer(tmp_path)).tokenizer) == len(WORDS)
    save_tokenizer(tmp_path, [*WORDS, "ice"])
    with pytest.raises(ValueError, match="12 tokens, the BertModel only 11"):
        convert(source, tokenizer=tmp_path)


def test_the_account_of_a_conversion_is_kept_beside_the_weights(tmp_path):
    out = tmp_path / "a folder" / "out"
    build("Ernie", "ForPreTraining").save_pretrained(tmp_path / "source")
    save_tokenizer(tmp_path / "source")
    assert run(tmp_path / "source", out, "--max-length", 100, "--pattern", "block_size=8") == 0
    record = json.loads((out / "conversion.json").read_text())
    assert record["source"] == str(tmp_path / "source") and record["source_class"] == "ErnieForPreTraining"
    assert record["command"] == (
        f"ernie-sparse convert {tmp_path}/source '{tmp_path}/a folder/out' --max-length 100 --pattern block_size=8"
    )
    assert {"ernie-sparse", "torch", "transformers"} <= set(record["versions"])
    assert record["num_source_positions"] == 64 and record["max_length"] == 100
    assert record["pattern"].startswith("block_size=8,") and record["tokenizer"] == "BertTokenizer, 11 tokens"
    model = AutoModelForMaskedLM.from_pretrained(out)
    assert sorted([*record["copied"], *record["made"], *record["tiled"]]) == sorted(model.state_dict())
    assert set(record["tiled"]) == {"ernie_sparse.embeddings.position_embeddings.weight"}
    assert "cls.seq_relationship.weight" in record["dropped"]
    assert "ernie.embeddings.task_type_embeddings.weight" in record["dropped"]


def test_a_conversion_in_python_is_saved_without_a_command(tmp_path):
    converted = convert(build("Bert"), max_length=LENGTH)
    (tmp_path / "out").mkdir()
    converted.save(str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["command"] is None and record["source"] == "the BertModel" and record["tokenizer"] == "none"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_printed_report_takes_the_layers_together():
    rows = convert(build("Longformer", num_hidden_layers=3), max_length=100).report.rows()
    told = {}
    for name, value in rows:
        told.setdefault(name, []).append(value)
    assert told["source"] == ["the LongformerModel (LongformerModel)"] and told["model"] == ["ErnieSparseModel"]
    assert told["positions"] == ["64 in the source, 100 now"] and told["tokenizer"] == ["none"]
    # Embeddings 4 without positions, a layer 16, the pooler 2.
    assert told["weights copied"] == [str(4 + 3 * 16 + 2)]
    assert told["weights tiled"] == ["embeddings.position_embeddings.weight: 64 positions repeated up to 100"]
    assert len(told["weights made"]) == 3 and len(told["weights dropped"]) == 6
    norms = "encoder.layer.*.attention.representative_LayerNorm.weight (2 layers): copy of output.LayerNorm"
    assert norms in told["weights made"]
    assert any(
        row.startswith("encoder.layer.*.attention.self.key_global.bias (3 layers): ") for row in told["weights dropped"]
    )


def dense_states(model, ids: torch.Tensor, counts: torch.Tensor, block_size: int) -> torch.Tensor:
    """
    The last hidden states of a converted model, by dense attention in which the keys of a block count as often as
    `counts[query block, key block]` says: 0 is out of sight, 2 twice as much as 1.
    """
    embeddings = model.embeddings
    states = embeddings.word_embeddings(ids) + embeddings.token_type_embeddings.weight[0]
    states = embeddings.LayerNorm(states + embeddings.position_embeddings.weight[: ids.shape[1]])
    bias = counts.log().repeat_interleave(block_size, dim=0).repeat_interleave(block_size, dim=1)
    for layer in model.encoder.layer:
        attention = layer.attention.self
        query, key, value = (
            projection(states).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
            for projection in (attention.query, attention.key, attention.value)
        )
        scores = query @ key.transpose(2, 3) / attention.attention_head_size**0.5 + bias
        context = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        states = layer.attention.output(context, states)
        states = layer.output(layer.intermediate(states), states)
    return states


def test_bigbirds_block_sparse_mode_sees_a_global_last_block_and_counts_block_0_once_more_per_random_block():
    num_blocks, block_size, num_random = 12, 4, 2
    sparse = {"attention_type": "block_sparse", "block_size": block_size, "num_random_blocks": num_random}
    source = randomize(BigBirdModel(BigBirdConfig(**SIZES, **sparse))).eval()
    pattern = SparsePattern(block_size=block_size, hierarchical=False)
    model = convert(source, max_length=LENGTH, pattern=pattern).model
    ids = torch.randint(5, SIZES["vocab_size"], (2, num_blocks * block_size))

    blocks = torch.arange(num_blocks)
    ours = ((blocks[:, None] - blocks).abs() <= 1).float()
    ours[0] = ours[:, 0] = 1
    last_global = ours.clone()
    last_global[-1] = last_global[:, -1] = 1
    more_of_block_0 = ours.clone()
    more_of_block_0[1:-1, 0] += num_random
    both = last_global.clone()
    both[1:-1, 0] += num_random

    with torch.no_grad():
        expected, actual = source(ids).last_hidden_state, model(ids).last_hidden_state
        assert source.attention_type == "block_sparse"
        states = {
            name: dense_states(model, ids, counts, block_size)
            for name, counts in {"ours": ours, "last": last_global, "more": more_of_block_0, "both": both}.items()
        }
    torch.testing.assert_close(states["ours"], actual, rtol=0, atol=1e-5)
    torch.testing.assert_close(states["both"], expected, rtol=0, atol=1e-5)
    for name in ("ours", "last", "more"):
        assert (states[name] - expected).abs().max() > 0.1, name
