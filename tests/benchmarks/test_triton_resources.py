# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The kernels' machine code, made in a process of its own: here they may be interpreted."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys
from benchmarks.kernel_resources import VARIANTS, variant_resources
print(json.dumps(variant_resources(VARIANTS[int(sys.argv[1])])))
"""
# As `benchmarks.kernel_resources.SHARED_MEMORY`: of an A100, and of an H100.
SHARED_MEMORY = {80: 166_912, 90: 232_448}
NUM_VARIANTS = 19


def rows_of(number: int) -> list[dict]:
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", CODE, str(number)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUM_VARIANTS))
def test_triton_compiles_to_code_that_spills_nothing_fits_the_card_and_uses_tensor_cores(number):
    rows = rows_of(number)
    assert {(row["kernel"], row["capability"]) for row in rows} == {
        (kernel, card) for kernel in ("forward", "merge", "query", "key") for card in (80, 90)
    }
    for row in rows:
        is_wide = row["variant"].startswith(("fp32", "tf32"))
        # Four registers at most, of what has all that is rare at once.
        assert row["spilled_bytes"] <= (16 if "dropout" in row["variant"] else 0), row
        assert row["shared_memory"] <= SHARED_MEMORY[row["capability"]]
        if row["kernel"] != "merge":
            assert (row["warp_products"] > 0) is not row["variant"].startswith("fp32"), row
            is_large = "block 64" in row["variant"] or "block 128" in row["variant"]
            if is_large and not is_wide and row["capability"] == 90:
                assert row["warpgroup_products"] > 0


@pytest.mark.slow
def test_triton_variants_are_all_tried():
    command = [sys.executable, "-c", "from benchmarks.kernel_resources import VARIANTS; print(len(VARIANTS))"]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) == NUM_VARIANTS
