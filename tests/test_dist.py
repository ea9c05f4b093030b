# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What is built for an index."""

import subprocess
import sys

import pytest
from compat import ROOT


@pytest.mark.slow
def test_a_commit_is_built_to_the_same_files_twice(tmp_path):
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, tmp_path / "clone"], check=True)
    built = subprocess.run(
        ["make", "dist", f"PYTHON={sys.executable}"], cwd=tmp_path / "clone", capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    sums = (tmp_path / "clone" / "dist" / "SHA256SUMS").read_text().splitlines()
    assert sorted(line.split(".")[-1] for line in sums) == ["gz", "whl"]
    assert [line.endswith(": OK") for line in built.stdout.splitlines()[-2:]] == [True, True]
