# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Names of other libraries that begin with `_`: those that the package uses are all here, and each is still what it is taken for."""

import argparse
import ast
import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
import torch
from distributed_training import build_trainer
from evaluate.module import EvaluationModule
from transformers import AutoModel, HfArgumentParser, PreTrainedModel, Trainer
from transformers.pipelines import Pipeline

import ernie_sparse
from ernie_sparse.training_arguments import RunArguments

# What subclasses are meant to give: transformers' guides to models and pipelines say so, evaluate's to metrics, torch's to functions.
GIVEN = {
    ("PreTrainedModel", "_supports_sdpa"),
    ("PreTrainedModel", "_no_split_modules"),
    ("PreTrainedModel", "_can_record_outputs"),
    ("PreTrainedModel", "_init_weights"),
    ("PreTrainedModel", "_tied_weights_keys"),
    ("Pipeline", "_load_processor"),
    ("Pipeline", "_load_image_processor"),
    ("Pipeline", "_load_feature_extractor"),
    ("Pipeline", "_load_tokenizer"),
    ("Pipeline", "_sanitize_parameters"),
    ("Pipeline", "_forward"),
    ("EvaluationModule", "_info"),
    ("EvaluationModule", "_compute"),
    # With reasons and tests in trainer_internals.py and its test.
    ("Trainer", "_get_eval_sampler"),
    ("Trainer", "_run_epoch"),
}
# What is read or called, with the test below or elsewhere that fails without it.
READ = {
    "_actions": "test_flags_of_a_parser",
    "_are_functorch_transforms_active": "test_functions_of_torch",
    "_assert_async": "test_functions_of_torch",
    "_C": "test_functions_of_torch",
    "_softmax_backward_data": "test_functions_of_torch",
    "_attn_implementation": "test_the_attention_backend_of_a_config",
    "_train_batch_size": "test_the_batch_size_of_a_trainer",
    "_VALID_DICT_FIELDS": "test_the_flags_that_hold_a_mapping",
}
# Python's own, of named tuples.
PYTHON = {"_asdict", "_replace"}
PACKAGE = Path(ernie_sparse.__file__).parent


def test_no_others_are_used():
    own, used = set(), set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute):
                is_own = (
                    isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"
                )
                (own if is_own else used).add(node.attr)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used |= {alias.name for alias in node.names}
    private = {name for name in used - own if name.startswith("_") and not name.startswith("__")}
    # `super()._sanitize_parameters` is of the given ones.
    assert private - {name for _, name in GIVEN} == READ.keys() | PYTHON


def test_no_others_are_given_or_hidden_by_chance():
    given = set()
    names = [
        found.name for found in walk_packages(ernie_sparse.__path__, "ernie_sparse.") if "__main__" not in found.name
    ]
    for module in map(import_module, names):
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                for base in cls.__mro__[1:]:
                    if base.__module__.partition(".")[0] in ("transformers", "evaluate", "datasets", "accelerate"):
                        given |= {(base.__name__, name) for name in vars(cls).keys() & vars(base).keys()}
    assert {(base, name) for base, name in given if name[0] == "_" != name[1] and name != "_abc_impl"} == GIVEN


def test_flags_of_a_parser():
    parser = argparse.ArgumentParser()
    action = parser.add_argument("--flag")
    assert parser._actions[-1] is action


def test_functions_of_torch():
    assert torch._C._are_functorch_transforms_active() is False
    assert torch.func.vmap(lambda row: row + torch._C._are_functorch_transforms_active())(torch.zeros(2)).tolist() == [
        1,
        1,
    ]
    torch._assert_async(torch.tensor(True))
    with pytest.raises(RuntimeError):
        torch._assert_async(torch.tensor(False), "said")
    weights = torch.tensor([[1.0, 2.0]], requires_grad=True)
    probabilities = weights.softmax(-1)
    (expected,) = torch.autograd.grad(probabilities[0, 0], weights)
    slopes = torch.tensor([[1.0, 0.0]])
    given = torch.ops.aten._softmax_backward_data(slopes, probabilities.detach(), -1, weights.dtype)
    torch.testing.assert_close(given, expected)


def test_the_attention_backend_of_a_config(tiny_config):
    for name in ("eager", "sdpa"):
        model = AutoModel.from_config(tiny_config(), attn_implementation=name)
        assert model.config._attn_implementation == name
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"


def test_the_batch_size_of_a_trainer(tmp_path):
    assert build_trainer("masked_lm", str(tmp_path), batch_size=5)._train_batch_size == 5


def test_the_flags_that_hold_a_mapping():
    assert {"lr_scheduler_kwargs", "accelerator_config"} <= set(RunArguments._VALID_DICT_FIELDS)


def test_the_group_of_a_commands_flags():
    titles = [group.title for group in HfArgumentParser(RunArguments)._action_groups]
    assert RunArguments._argument_group_name in titles


@pytest.mark.parametrize("base, name", sorted(GIVEN))
def test_what_is_given_is_asked_for(base, name):
    owners = {cls.__name__: cls for cls in (EvaluationModule, Pipeline, PreTrainedModel, Trainer)}
    assert name in vars(owners[base])
