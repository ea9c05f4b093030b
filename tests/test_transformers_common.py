# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""transformers' common model tests, fetched from its source distribution, run against our classes."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import transformers

import ernie_sparse

# What the common tests import from elsewhere in transformers' tests, and a model like ours never runs.
STUBS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": """
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
""",
}


def fetch_common_tests(directory: Path):
    """Lays out `directory/tests` as a package of the installed version's common tests."""
    requirement = f"transformers=={transformers.__version__}"
    download = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps", requirement]
    subprocess.run([*download, "--dest", str(directory)], check=True, capture_output=True, text=True)
    (archive,) = directory.glob("transformers-*.tar.gz")
    package = directory / "tests"
    package.mkdir()
    with tarfile.open(archive) as sources:
        for member in sources.getmembers():
            path = Path(*Path(member.name).parts[1:])
            is_common = path.name in ("test_modeling_common.py", "test_configuration_common.py")
            if path.parent == Path("tests") and (is_common or path.match("test_*_mixin.py")):
                (package / path.name).write_bytes(sources.extractfile(member).read())
    for name, text in STUBS.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text)


@pytest.mark.slow
def test_the_common_model_tests_pass(tmp_path):
    fetch_common_tests(tmp_path)
    shutil.copy(Path(__file__).with_name("transformers_common_model.py"), tmp_path / "test_ernie_sparse.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    package_root = Path(ernie_sparse.__file__).parents[1]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--junitxml=report.xml",
            "test_ernie_sparse.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(package_root)])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    (suite,) = ElementTree.parse(tmp_path / "report.xml").getroot().iter("testsuite")
    count = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    assert count["failures"] == count["errors"] == 0
    assert count["tests"] - count["skipped"] >= 100
