# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The files that name versions say the same."""

import configparser
import re

import pytest
from compat import PYTHONS, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ernie_sparse


def pins_of(name: str) -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(), re.M)
    return {canonicalize_name(package): Version(version) for package, version in lines}


@pytest.fixture
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_lowest_versions_that_are_tested_are_those_that_are_promised(setup):
    needed = map(Requirement, setup["options"]["install_requires"].split("\n")[1:])
    promised = {each.name: Version(str(each.specifier).removeprefix(">=")) for each in needed}
    assert promised == pins_of("constraints-lowest.txt")


def test_the_pythons_that_are_tested_are_those_that_are_promised(setup):
    assert setup["options"]["python_requires"] == f">={PYTHONS[0]}"
    classifiers = setup["metadata"]["classifiers"]
    assert re.findall(r"Python :: (3\.\d+)", classifiers) == list(PYTHONS)


def test_the_version_of_a_release_is_the_same_everywhere():
    assert f"\nversion: {ernie_sparse.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == ernie_sparse.__version__


def test_the_lock_file_holds_the_versions_of_the_constraints(setup):
    locked = pins_of("requirements.lock")
    needed = [
        canonicalize_name(Requirement(line).name) for line in setup["options"]["install_requires"].split("\n")[1:]
    ]
    assert {*needed} <= {*locked} and locked.items() <= pins_of("constraints.txt").items()
