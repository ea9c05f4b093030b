# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What other commands measure: the tests that need a GPU, Long Range Arena and fine-tuning. Their output goes to the log."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from . import ROOT

# What makes runs of Long Range Arena faster, where their models can be captured, without changing what they compute.
GRAPH_FLAGS = ("--cuda-graphs", "true")
FINETUNING_FLAGS = ("--bf16", "true")
TAIL_LINES = 40


def run(*words: str) -> tuple[int, str]:
    """The exit code of `python WORDS`, run from the root of the repository, and all its output, which the log has as well."""
    command = [sys.executable, *words]
    print(" ".join(command), flush=True)
    found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(found.stdout, flush=True)
    return found.returncode, found.stdout


def checked(*words: str):
    """[`run`], where any exit code but 0 is an error that ends with the last line of the output."""
    code, output = run(*words)
    if code:
        raise RuntimeError(f"exit code {code}: {(output.strip().splitlines() or ['no output'])[-1]}")


def files_with_gpu_tests() -> list[Path]:
    """The test files that have any test for a GPU: others may need what is not installed beside one."""
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]


def measure_tests(settings: dict, say: Callable[[str], None]) -> dict:
    """How many of the tests marked `gpu` pass and fail, with the end of the output."""
    files = [str(path.relative_to(ROOT)) for path in files_with_gpu_tests()]
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    if not files:
        say("no test is marked gpu")
        return {"files": files, **counts, "failed": [], "tail": ""}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        flags = ["-m", "gpu", "-q", "--tb=short", "--continue-on-collection-errors", f"--junitxml={report}"]
        code, output = run("-m", "pytest", *files, *flags, *settings["flags"])
        # 5: none collected.
        if code not in (0, 1, 5):
            raise RuntimeError(f"pytest ended with exit code {code}: {output.strip()[-200:]}")
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    for suite in suites:
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for suite in suites
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    say(
        f"{counts['tests']} tests, {counts['failures']} failures, {counts['errors']} errors: {', '.join(failed[:5]) or 'none'}"
    )
    return {"files": files, **counts, "failed": failed, "tail": output.splitlines()[-TAIL_LINES:]}


def measure_lra(settings: dict, say: Callable[[str], None]) -> dict:
    """A cell of Long Range Arena, in the form of `benchmarks/results/lra/`. It goes on where it was stopped."""
    with tempfile.TemporaryDirectory() as folder:
        checked(
            *("-m", "benchmarks.lra.comparisons", "--task", settings["task"]),
            *("--comparisons", settings["comparison"], "--models", settings["model"], "--seeds", str(settings["seed"])),
            *("--data-dir", str(Path(settings["data_dir"]) / "lra" / settings["task"])),
            *("--work-dir", str(Path(settings["work_dir"]) / "lra"), "--results-dir", folder),
            *((*GRAPH_FLAGS, *settings["flags"]) if settings["graphs"] else settings["flags"]),
        )
        kept = _kept(folder)
    for results in kept.values():
        say(f"test accuracy {results['accuracy']:.4f} after {results['steps']:,} updates")
    return {"kept": kept}


def measure_finetuning(settings: dict, say: Callable[[str], None]) -> dict:
    """Runs of fine-tuning with one seed, in the form of `benchmarks/results/finetuning/`."""
    source = Path(settings["data_dir"]) / "source"
    with tempfile.TemporaryDirectory() as folder:
        checked(
            *("-m", "benchmarks.finetuning", "--full-size", "--comparisons", *settings["comparisons"]),
            *(("--rows", settings["row"]) if settings["row"] else ()),
            *("--seeds", str(settings["seed"]), "--data-dir", settings["data_dir"], "--source", str(source)),
            *("--work-dir", str(Path(settings["work_dir"]) / "finetuning"), "--results-dir", folder),
            *(*FINETUNING_FLAGS, *settings["flags"]),
        )
        kept = _kept(folder)
    for label, results in kept.items():
        say(f"{label}: {json.dumps(results['splits'][results['evaluated_on']])[:150]}")
    return {"kept": kept}


def _kept(folder: str) -> dict[str, dict]:
    """Every file of results below a folder, by its path without the ending."""
    paths = sorted(Path(folder).rglob("*.json"))
    return {str(path.relative_to(folder).with_suffix("")): json.loads(path.read_text()) for path in paths}
