# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What importing costs, and that imports run downwards."""

import ast
import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import ernie_sparse
from ernie_sparse import auto_classes, modeling_ernie_sparse

PACKAGE = Path(ernie_sparse.__file__).parent
# Each row may import from the rows above it alone; a folder's files also from one another.
LEVELS = (
    (
        "allocator",
        "auto_classes",
        "block_kernel",
        "errors",
        "help",
        "sparse_pattern",
        "saor",
        "late_imports",
        "peft_targets",
        "pipeline_tasks",
    ),
    (
        "block_plan",
        "configuration_ernie_sparse",
        "command_line",
        "files",
        "regularization",
        "signals",
        "uncut_pipelines",
    ),
    ("block_attention", "head_outputs", "input_checks", "layer_alignment", "results"),
    ("hst_attention",),
    ("hst_layer",),
    ("modeling_ernie_sparse",),
    ("checkpoints", "model_card", "training_checkpoints", "tables", "trainer_internals"),
    ("trainer", "training_arguments", "stopping", "conversion_families", "onnx_files"),
    ("terminal",),
    ("run", "conversion"),
    ("pretraining", "finetune"),
    ("export", "pipelines", "robustness", "show"),
    ("cli",),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
MODULES = {
    ".".join(("ernie_sparse", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Nothing but these may import Trainer or datasets.
TRAINING = (
    "trainer",
    "trainer_internals",
    "stopping",
    "terminal",
    "run",
    "tables",
    "pretraining",
    "finetune",
    "pipelines",
    "robustness",
)

IMPORT_ALL = """
import importlib, json, sys
started = []
sys.addaudithook(lambda event, args: started.append(event) if event in ("subprocess.Popen", "os.fork", "os.exec") else None)
heavy = {}
import ernie_sparse
for name in sys.argv[1:]:
    if name != "ernie_sparse.__main__":
        importlib.import_module(name)
    heavy[name] = [other for other in ("transformers.trainer", "datasets") if other in sys.modules]
print(json.dumps([started, heavy]))
"""


def run(code: str, *argv: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_importing_the_package_imports_neither_torch_nor_transformers():
    libraries = run("import sys, ernie_sparse; print(*({'torch', 'transformers', 'numpy'} & set(sys.modules)))")
    assert libraries.split() == []


LIBRARIES = "from transformers import AutoConfig, AutoModelForMaskedLM"


@pytest.mark.slow
@pytest.mark.parametrize(
    "first, second",
    [
        ("import ernie_sparse\nfrom ernie_sparse import ErnieSparseForMaskedLM", LIBRARIES),
        ("import ernie_sparse", LIBRARIES),
        (LIBRARIES, "import ernie_sparse"),
    ],
)
def test_the_auto_classes_know_the_models_whatever_is_imported_first(first, second):
    config = (
        "ernie_sparse.ErnieSparseConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, "
        "intermediate_size=4, max_position_embeddings=8)"
    )
    made = f"AutoConfig.for_model('ernie_sparse'), AutoModelForMaskedLM.from_config({config})"
    assert run(f"{first}\n{second}\nprint(type(({made})[1]).__name__)").split() == ["ErnieSparseForMaskedLM"]


def test_the_auto_classes_get_a_stand_in_for_each_model_that_is_not_there_yet(monkeypatch):
    entered = {}

    def register(auto_class):
        return SimpleNamespace(register=lambda config, model, exist_ok: entered.update({auto_class: (config, model)}))

    auto = SimpleNamespace(**{name: register(name) for name in auto_classes.AUTO_CLASSES})
    models = modeling_ernie_sparse
    # As while it is imported.
    half = SimpleNamespace(ErnieSparseModel=models.ErnieSparseModel)
    monkeypatch.setitem(sys.modules, auto_classes.OWN_MODELS, half)
    auto_classes.register_models(auto)
    assert entered.pop("AutoModel") == (ernie_sparse.ErnieSparseConfig, models.ErnieSparseModel)
    monkeypatch.setitem(sys.modules, auto_classes.OWN_MODELS, models)
    assert len(entered) == len(auto_classes.AUTO_CLASSES) - 1
    for auto_class, (config, stand_in) in entered.items():
        name = auto_classes.AUTO_CLASSES[auto_class]
        assert config is stand_in.config_class is ernie_sparse.ErnieSparseConfig and stand_in.__name__ == name
        assert copy.copy(stand_in).from_pretrained == getattr(models, name).from_pretrained


@pytest.mark.slow
def test_importing_starts_no_process_and_only_training_brings_trainer_and_datasets():
    def trains(name: str) -> bool:
        return [*name.split("."), ""][1] in TRAINING

    # Those that train last: what they bring stays.
    started, heavy = json.loads(run(IMPORT_ALL, *sorted(MODULES, key=trains)))
    assert started == []
    assert {name: found for name, found in heavy.items() if found and not trains(name)} == {}
    assert heavy["ernie_sparse.finetune.runner"] == ["transformers.trainer", "datasets"]


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("ernie_sparse", "ernie_sparse.__main__")])
def test_imports_run_downwards(name):
    own = name.split(".")[1]
    assert own in LEVEL_OF, f"{own} has no level"
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = name.split(".")[: len(name.split(".")) - node.level + MODULES[name].name.count("__init__")]
            targets = [node.module] if node.module else [alias.name for alias in node.names]
            for target in targets:
                other = (base + target.split("."))[1]
                is_inside = other == own and "." in name.removeprefix("ernie_sparse.")
                if other in LEVEL_OF:
                    assert is_inside or LEVEL_OF[other] < LEVEL_OF[own], f"{name} imports {other}"
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(word.split(".")[0] in ("ernie_sparse", "benchmarks") for word in names), name


@pytest.mark.slow
def test_what_stands_for_a_model_class_is_replaced_by_it_when_one_is_used():
    code = """
import ernie_sparse
from transformers import AutoModel, AutoModelForTokenClassification
before = AutoModel._model_mapping[ernie_sparse.ErnieSparseConfig]
config = ernie_sparse.ErnieSparseConfig(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
model = AutoModelForTokenClassification.from_config(config)
after = AutoModel._model_mapping[ernie_sparse.ErnieSparseConfig]
print(before.__name__, type(model).__name__, after is ernie_sparse.ErnieSparseModel, after is before)
"""
    assert run(code).split() == ["ErnieSparseModel", "ErnieSparseForTokenClassification", "True", "False"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ernie_sparse' has no attribute 'ErnieSparseForSpeech'"):
        ernie_sparse.ErnieSparseForSpeech  # noqa: B018
