# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
What the pages of reference have beside their own text: docstrings, turned from the Hugging Face form into Markdown, and what
`ernie-sparse COMMAND --help` prints.
"""

import ast
import contextlib
import importlib
import inspect
import io
import os
import re
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import griffe
from mkdocs.plugins import get_plugin_logger

DOCS = Path(__file__).parent
HELP = re.compile(r"^<!-- help ([\w-]+) -->$", re.MULTILINE)
ALL_HEADS = "<!-- arguments of all heads -->"
SECTION = re.compile(r"^(Args|Returns|Raises|Example):\n", re.MULTILINE)
# The names at the beginning of an entry, one or several.
NAMES = re.compile(r"^\w+(?:, \w+)*(?= \(|:)")
REFERENCE = re.compile(r"\[`([\w.]+)`\](?![\[(])")
log = get_plugin_logger("hooks")


def on_page_markdown(markdown: str, **kwargs) -> str:
    """
    `<!-- help COMMAND -->` becomes the help of the command, with all its flags in a box that opens; `<!-- arguments of all heads -->`
    the list of these.
    """
    if ALL_HEADS in markdown:
        arguments = HuggingFaceDocstrings().markdown(f"Args:\n{_head_arguments()}")
        markdown = markdown.replace(ALL_HEADS, arguments.removeprefix("**Parameters**\n\n"))
    markdown = HELP.sub(lambda match: _help(match[1]), markdown)
    if left := re.search(r"<!-- (?:help|arguments).*", markdown):
        log.warning(f"nothing takes the place of {left[0]}")
    return markdown


def _head_arguments() -> str:
    return importlib.import_module("ernie_sparse.head_outputs").HEAD_ARGS


@lru_cache
def _help(command: str) -> str:
    short, full = (f"```text\n{_printed(command, flag)}\n```" for flag in ("--help", "--help-all"))
    return f'{short}\n\n??? note "All flags"\n\n' + "\n".join(f"    {line}".rstrip() for line in full.splitlines())


def _printed(*words: str) -> str:
    from ernie_sparse import cli

    text = io.StringIO()
    with contextlib.redirect_stdout(text), patch.dict(os.environ, COLUMNS="100"):
        try:
            code = cli.main([*words])
        except SystemExit as end:
            code = end.code
    if code:
        log.warning(f"ernie-sparse {' '.join(words)} ended with {code}")
    return text.getvalue().strip()


class HuggingFaceDocstrings(griffe.Extension):
    """
    Makes Markdown of docstrings: sections become lists, and [`Name`] a link to the entry of that name, or code where there is none.
    What `auto_docstring` is given is put in.
    """

    def __init__(self):
        pages = "\n".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
        paths = re.findall(r"^::: (\S+)", pages, flags=re.MULTILINE)
        self.paths = {path.rpartition(".")[2]: path for path in paths}

    def on_object(self, *, obj: griffe.Object, **kwargs):
        text = "" if obj.docstring is None else inspect.cleandoc(obj.docstring.value)
        for decorator in obj.decorators if obj.is_class or obj.is_function else ():
            if decorator.callable_path.endswith("auto_docstring"):
                text = _completed(obj, text, str(decorator.value))
        if text:
            obj.docstring = griffe.Docstring(self.markdown(text), parent=obj)

    def markdown(self, text: str) -> str:
        text, *sections = SECTION.split(text)
        parts = [text]
        for name, body in zip(sections[::2], sections[1::2], strict=True):
            if name == "Example":
                body = body.replace("```python\n>>>", "```pycon\n>>>")
            else:
                entries = _entries(body)
                # What follows a list inside of an entry would be taken for a part of it.
                between = "\n\n" if any("\n\n" in entry for entry in entries) else "\n"
                body = between.join(f"- {NAMES.sub(_bold, entry)}" for entry in entries)
            parts.append(f"**{'Parameters' if name == 'Args' else name}**\n\n{body}")
        return REFERENCE.sub(self._link, "\n\n".join(part.strip() for part in parts if part.strip()))

    def _link(self, match: re.Match) -> str:
        name, _, member = match[1].partition(".")
        return f"[`{match[1]}`][{self.paths[name]}{member and '.' + member}]" if name in self.paths else f"`{match[1]}`"


def _entries(body: str) -> list[str]:
    """The entries of a section, each with the lines below it."""
    return [entry.rstrip() for entry in re.split(r"\n(?=\S)", inspect.cleandoc(f"\n{body}")) if entry.strip()]


def _bold(names: re.Match) -> str:
    return ", ".join(f"**`{name}`**" for name in names[0].split(", "))


def _completed(obj: griffe.Object, text: str, decorator: str) -> str:
    """
    The docstring of `obj` with the introduction and the arguments that its decorator is given, in the order of the signature. Those
    that all heads take are elsewhere on the page.
    """
    given = {each.arg: each.value for each in getattr(ast.parse(decorator, mode="eval").body, "keywords", ())}
    constants = vars(importlib.import_module(obj.module.path))
    intro, more = (
        eval(ast.unparse(given[name]), constants) if name in given else "" for name in ("custom_intro", "custom_args")
    )
    own, *rest = re.split(r"^(?=(?:Returns|Raises):\n)", text, flags=re.MULTILINE)
    entries = {NAMES.match(entry)[0]: entry for part in (more, own) for entry in _entries(part)}
    order = [parameter.name for parameter in obj.parameters]
    names = sorted(entries, key=lambda name: order.index(name) if name in order else len(order))
    lines = [entries[name] for name in names]
    if _head_arguments() in more:
        shared = {*_entries(_head_arguments())}
        lines = [
            *(line for line in lines if line not in shared),
            "The [arguments of all heads][arguments-of-all-heads].",
        ]
    arguments = "\n".join(["Args:", *lines]) if lines else ""
    return "\n\n".join(filter(None, [inspect.cleandoc(intro), arguments, *rest]))
