# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What the site's reference has beside its own text: help, and docstrings as Markdown."""

import logging
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import griffe
import pytest

import ernie_sparse
from ernie_sparse.head_outputs import HEAD_ARGS
from ernie_sparse.help import HELP

ROOT = Path(ernie_sparse.__file__).parents[1]


@pytest.fixture(scope="module")
def hooks():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "hooks.py")))


@pytest.fixture(scope="module")
def model(hooks) -> griffe.Object:
    """The heads of the package, as the site reads them."""
    extension = griffe.load_extensions(hooks.HuggingFaceDocstrings())
    return griffe.load("ernie_sparse.modeling_ernie_sparse", search_paths=[ROOT], extensions=extension)


def test_a_page_has_the_help_of_a_command_and_every_flag_in_a_box(hooks):
    page = hooks.on_page_markdown("before\n\n<!-- help show -->\n\nafter")
    short, every_flag = page.split('??? note "All flags"')
    assert short.startswith("before\n\n```text\nusage: ernie-sparse show ") and page.endswith("\n\nafter")
    assert HELP["show"].about in short and "    usage: ernie-sparse show " in every_flag
    assert "<!--" not in page


def test_a_comment_that_nothing_takes_the_place_of_is_a_warning(hooks, caplog):
    with caplog.at_level(logging.WARNING):
        hooks.on_page_markdown("<!-- help show --> and more")
    assert "nothing takes the place of <!-- help show --> and more" in caplog.text


def test_a_page_lists_the_arguments_of_all_heads(hooks):
    page = hooks.on_page_markdown(f"before\n\n{hooks.ALL_HEADS}")
    names = [line.split("`")[1] for line in page.splitlines() if line.startswith("- **`")]
    assert names and all(f"{name} (" in HEAD_ARGS for name in names)


def test_a_docstring_in_the_hugging_face_form_becomes_markdown(hooks):
    text = (
        "What it does, like [`ErnieSparseConfig`] and [`Nothing`].\n\n"
        "Args:\n    one (`int`): First.\n        More of it.\n    two, three (`str`, *optional*): Second.\n\n"
        "Returns:\n    `bool`: Whether.\n\nRaises:\n    [`ValueError`]: Never.\n"
    )
    assert hooks.HuggingFaceDocstrings().markdown(text) == (
        "What it does, like [`ErnieSparseConfig`][ernie_sparse.ErnieSparseConfig] and `Nothing`.\n\n"
        "**Parameters**\n\n- **`one`** (`int`): First.\n    More of it.\n- **`two`**, **`three`** (`str`, *optional*): Second.\n\n"
        "**Returns**\n\n- `bool`: Whether.\n\n**Raises**\n\n- `ValueError`: Never."
    )


def test_a_heads_docstring_has_its_own_arguments_in_the_order_of_its_signature(model):
    for name, own in (
        ("SequenceClassification", ["labels", "class_weights"]),
        ("MaskedLM", ["labels", "logits_to_keep"]),
    ):
        text = model[f"ErnieSparseFor{name}.forward"].docstring.value
        assert re.findall(r"^- \*\*`(\w+)`", text, flags=re.MULTILINE) == own
        assert "The [arguments of all heads][arguments-of-all-heads]." in text
    names = re.findall(r"^- \*\*`(\w+)`", model["ErnieSparseModel.forward"].docstring.value, flags=re.MULTILINE)
    assert names == [parameter.name for parameter in model["ErnieSparseModel.forward"].parameters][1:-1]
