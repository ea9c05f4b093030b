# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse lra`: the data of Long Range Arena."""

import argparse

from ..running import print_table
from .make import LISTOPS_SIZES, make_listops

EXAMPLES = """examples:
  ernie-sparse lra --make listops --out data/listops
  ernie-sparse lra --make listops --out data/small --train-size 2000 --validation-size 200 --test-size 200 --seed 1
"""


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ernie-sparse lra",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--make", required=True, metavar="TASK", help="write the data of a task: listops")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the files")
    for flag, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        size = LISTOPS_SIZES[name]
        parser.add_argument(f"--{flag}-size", type=int, default=size, metavar="N", help=f"rows ({size:,})")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw (0)")
    return parser.parse_args(argv)


def main(argv: list[str]):
    """Run `ernie-sparse lra` with the arguments `argv`."""
    args = arguments(argv)
    if args.make != "listops":
        raise ValueError(f"--make {args.make!r}: listops is what can be made")
    sizes = {"train": args.train_size, "val": args.validation_size, "test": args.test_size}
    paths = make_listops(args.out, args.seed, sizes)
    print_table([(name, path) for name, path in zip(sizes, paths, strict=True)])
