# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The demo, to its end."""

import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


@pytest.mark.slow
def test_the_demo_ends_with_its_report(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, str(DEMO), "--output-dir", str(out), "--pretraining-steps", "20"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-4000:]
    assert f"{out / 'report.md'} and {out / 'report.png'}" in run.stdout.splitlines()[-1]
    report = (out / "report.md").read_text()
    assert "| largest class | 0." in report and "| pretrained | 0." in report and "| no hierarchy | " in report
    assert imread(out / "report.png").std() > 0.1
