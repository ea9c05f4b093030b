# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""
The package's own tests under the lowest versions that setup.cfg allows and under the newest that pip finds, a few of them under every
Python that is here, and saved models where the package is not: `make compat`, or `python tests/compat.py lowest 3.13` for some of
these. Each has an environment of its own in `.compat/`, and a line at the end.
"""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Reads saved models, and is older than the package needs.
OLD_READER = "transformers==5.4.0"
TOOLS = ("pytest>=8", "hypothesis", "parameterized", "matplotlib")
SMOKE = ("modeling_ernie_sparse", "trainer", "cli")
ENDS = (
    *SMOKE,
    *"trainer_internals private_names training_arguments checkpoints resuming hst_attention conversion".split(),
    *"finetune_runner finetune_metrics finetune_data tables pretraining_packing pretraining_streaming".split(),
)
VERSIONS = (
    "import platform, torch, transformers as t; print(platform.python_version(), torch.__version__, t.__version__)"
)


class Environment(NamedTuple):
    """
    Args:
        python (`str`, *optional*): A command; `None` where there is none.
        tests (`tuple[str, ...]`): Modules of tests, without `test_`; of none, saved models alone are read.
    """

    name: str
    python: str | None
    requirements: list[str]
    tests: tuple[str, ...] = ()
    reads: bool = True

    def install(self) -> Path:
        """Its interpreter, with what it needs at the newest versions that are allowed."""
        folder = ROOT / ".compat" / self.name
        python = folder / "bin" / "python"
        if not python.exists():
            subprocess.run([self.python, "-m", "venv", folder], check=True)
        # An old pip builds seqeval, which has no wheel, in a way that setuptools has given up.
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--use-pep517"]
        subprocess.run([*pip, "--upgrade", "--upgrade-strategy", "eager", *self.requirements], check=True, cwd=ROOT)
        return python


def installed(version: str) -> str | None:
    """The command of a Python, if it is here and runs."""
    command = shutil.which(f"python{version}")
    # Such a command may stand there for a Python that is not.
    runs = command and subprocess.run([command, "-c", ""], capture_output=True).returncode == 0
    return command if runs else None


def environments() -> list[Environment]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = [*setup["options"]["install_requires"].split("\n")[1:], *TOOLS]
    pinned = re.search(r"^torch==.*", (ROOT / "constraints.txt").read_text(), re.M)[0]
    # A newer torch is had by naming it: not every index has CPU builds of all.
    torch = os.environ.get("COMPAT_TORCH", pinned)
    own = "{}.{}".format(*sys.version_info)
    others = [version for version in PYTHONS if version != own]
    lowest = installed(PYTHONS[0]) or sys.executable
    return [
        Environment("reader", sys.executable, [pinned, "numpy", OLD_READER]),
        Environment("lowest", lowest, ["-c", "constraints-lowest.txt", *needed], ENDS),
        Environment("newest", sys.executable, [torch, *needed], ENDS),
        *(Environment(version, installed(version), [torch, *needed], SMOKE, reads=False) for version in others),
    ]


def run(environment: Environment, folders: Path) -> tuple[bool, str]:
    """Whether all went well, and what was seen."""
    try:
        python = environment.install()
    except subprocess.CalledProcessError:
        return False, "could not be installed"
    versions = "Python {}, torch {}, transformers {}".format(
        *subprocess.run([python, "-c", VERSIONS], check=True, capture_output=True, text=True).stdout.split()
    )
    is_well, seen = True, []
    if environment.reads:
        variables = os.environ | {"HF_HOME": str(folders / "cache"), "PYTHONPATH": ""}
        read = subprocess.run([python, ROOT / "tests" / "remote_code.py", "read", folders], env=variables)
        is_well = read.returncode == 0
        seen.append("saved models " + ("read" if is_well else "NOT READ"))
    if environment.tests:
        files = [f"tests/test_{name}.py" for name in environment.tests]
        command = [python, "-m", "pytest", "-q", "--tb=short", "--disable-warnings", *files]
        tests = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        print(tests.stdout)
        is_well &= tests.returncode == 0
        seen.append(tests.stdout.strip().rsplit("\n", 1)[-1])
    return is_well, f"{versions}: {', '.join(seen)}"


def main(names: list[str]) -> int:
    chosen = [each for each in environments() if not names or each.name in names]
    folders = ROOT / "compat_output"
    shutil.rmtree(folders, ignore_errors=True)
    folders.mkdir()
    if any(each.reads for each in chosen):
        write = [sys.executable, ROOT / "tests" / "remote_code.py", "write", folders]
        subprocess.run(write, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    lines, is_well = [], True
    for each in chosen:
        print(f"== {each.name}", flush=True)
        went_well, said = (True, f"python{each.name} not found, SKIPPED") if each.python is None else run(each, folders)
        is_well &= went_well
        lines.append(f"{each.name:8} {'' if went_well else 'FAILED: '}{said}")
    print("\n".join(lines))
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
