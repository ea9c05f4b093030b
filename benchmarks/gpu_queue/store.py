# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What is kept of every measurement: a file of JSON each, or one file that holds them all."""

import json
from pathlib import Path

from ernie_sparse.errors import InputError
from ernie_sparse.results import write_json

# Of a measurement that ended without a result. It does not stand in the way of one that there is from before.
FAILED = ".failed"


class Store:
    """
    The results in a folder, by name.

    Args:
        folder (`Path`)
        lra_results (`Path`): Where results of Long Range Arena are put as well, for that benchmark's own report.
    """

    def __init__(self, folder: Path, lra_results: Path):
        self.folder, self.lra_results = folder, lra_results

    def results(self) -> dict[str, dict]:
        """All results, by name."""
        return {name: content for name, content in self._contents().items() if not name.endswith(FAILED)}

    def failures(self) -> dict[str, dict]:
        """What ended without a result when it was last tried, by name."""
        found = self._contents().items()
        return {name.removesuffix(FAILED): content for name, content in found if name.endswith(FAILED)}

    def _contents(self) -> dict[str, dict]:
        contents = {path.stem: _read(path) for path in sorted(self.folder.glob("*.json"))}
        return {name: content for name, content in contents.items() if content.get("name")}

    def keep(self, content: dict):
        """Write a result, or a failure, whole or not at all."""
        name = content["name"]
        if content.get("error"):
            write_json(self.folder / f"{name}{FAILED}.json", content)
            return
        write_json(self.folder / f"{name}.json", content)
        (self.folder / f"{name}{FAILED}.json").unlink(missing_ok=True)
        if content["kind"] == "lra":
            for label, results in content["results"]["kept"].items():
                write_json(self.lra_results / f"{label}.json", results)

    def bundle(self, path: Path):
        """All results and failures in one file."""
        write_json(path, {"measurements": list(self._contents().values())})

    def unbundle(self, path: Path) -> list[str]:
        """Keep what such a file holds; the names."""
        if not path.is_file():
            raise InputError(f"--unbundle {path}: there is no such file")
        contents = _read(path).get("measurements")
        if not isinstance(contents, list) or not all(map(_is_content, contents)):
            raise InputError(f"--unbundle {path}: it was not written by --bundle")
        for content in contents:
            self.keep(content)
        return [content["name"] for content in contents]


def _is_content(content) -> bool:
    """Whether that can be kept: it becomes a file of its name."""
    name = content.get("name") if isinstance(content, dict) else None
    return isinstance(name, str) and name.replace("-", "").isalnum() and bool(content.get("kind"))


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: it is no JSON: {error}") from error
    return content if isinstance(content, dict) else {}
