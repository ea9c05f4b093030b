# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What `ernie-sparse show` draws is what a model's plan says, its figures are counted, and it leaves a whole file or none."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from test_block_plan import patterns
from torch.utils.flop_counter import FlopCounterMode

from ernie_sparse import ErnieSparseModel, SparsePattern, cli, show
from ernie_sparse.block_plan import plan_batch
from ernie_sparse.show import Drawing

REPOSITORY = Path(__file__).parents[1]
WIDTHS = (768, 3072)


def plan_of(pattern: SparsePattern, length: int, per_block: int):
    """The plan that a model makes for one document, and who sees whom in it."""
    plan = plan_batch(pattern, per_block, (1, length), torch.device("cpu"))
    return plan, plan.visibility(plan.documents)[0]


@settings(max_examples=60, deadline=None, derandomize=True, phases=[Phase.generate])
@given(pattern=patterns(), length=st.integers(1, 60), per_block=st.integers(1, 3))
def test_what_is_drawn_is_what_the_plan_says(pattern, length, per_block):
    drawing = Drawing.of(pattern, length, per_block)
    plan, visible = plan_of(pattern, length, per_block)
    blocks = plan.position_blocks
    assert torch.equal((drawing.reasons != show.UNSEEN)[blocks][:, blocks], visible)
    count = pattern.num_blocks(length)
    for query in range(count):
        drawn = {reason: (drawing.reasons[query] == reason).nonzero().flatten().tolist() for reason in range(4)}
        assert drawn[show.RANDOM] == pattern.random_blocks(query, count)
        heads = range(min(pattern.num_global_blocks, count))
        assert drawn[show.GLOBAL] == list(range(count) if query in heads else heads)
        assert all(abs(query - key) <= pattern.num_window_blocks // 2 for key in drawn[show.WINDOW])
    assert drawing.summaries.all() if pattern.hierarchical else not drawing.summaries.any()
    assert drawing.positions.tolist() == blocks.bincount().tolist()
    assert drawing.num_representatives.sum() == len(plan.representatives)
    # The figures, of every position alone.
    keys = visible.sum(dim=1).tolist()
    assert drawing.keys_per_query() == (sum(keys) / len(keys), min(keys), max(keys))
    assert drawing.costs(1, 0)["step 1"] == sum(keys) * 2 / length / 4


DRAWN = [
    (SparsePattern(8, 5, 2, 2, 5, seed=3), 91, 2),
    (SparsePattern(4, 1, 0, 1, 1, hierarchical=False), 50, 1),
    (SparsePattern(1, num_random_blocks=1), show.MOST_BLOCKS_WITH_DETAILS + 9, 1),
]


@pytest.mark.parametrize(("pattern", "length", "per_block"), DRAWN, ids=lambda value: str(value)[:60])
def test_the_colours_of_the_picture_are_those_of_the_plan(pattern, length, per_block):
    figure = show.picture(Drawing.of(pattern, length, per_block), WIDTHS)
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    plan, visible = plan_of(pattern, length, per_block)
    axes = figure.axes[0]
    edges = np.asarray(show._cells(Drawing.of(pattern, length, per_block))[1])
    columns, rows = axes.transData.transform(np.repeat((edges[:-1] + edges[1:])[:, None] / 2, 2, 1)).T
    drawn = pixels[len(pixels) - 1 - rows.astype(int)][:, columns.astype(int)]
    # Every position stands in a cell: of its block or, where they are drawn, of its representatives or its tokens.
    blocks, is_representative = plan.position_blocks, torch.zeros(len(visible), dtype=torch.bool)
    is_representative[plan.representatives] = True
    has_heads = len(drawn) == 2 * pattern.num_blocks(length)
    assert has_heads == (pattern.hierarchical and pattern.num_blocks(length) <= show.MOST_BLOCKS_WITH_DETAILS)
    cells = 2 * blocks + ~is_representative if has_heads else blocks
    drawn = torch.from_numpy(drawn)[cells][:, cells]

    def is_colour(reason: int) -> torch.Tensor:
        return (drawn - torch.tensor(to_rgb(show.COLOURS[reason]))).abs().amax(dim=-1) < 0.01

    assert torch.equal(is_colour(show.UNSEEN), ~visible)
    either = is_representative | is_representative[:, None] if has_heads else torch.zeros_like(visible)
    assert torch.equal(is_colour(show.REPRESENTATIVE), visible & either)
    is_global = blocks < pattern.num_global_blocks
    is_global = is_global | is_global[:, None]
    near = (blocks - blocks[:, None]).abs() <= pattern.num_window_blocks // 2
    assert torch.equal(is_colour(show.GLOBAL), visible & ~either & is_global)
    assert torch.equal(is_colour(show.WINDOW), visible & ~either & ~is_global & near)
    assert torch.equal(is_colour(show.RANDOM), visible & ~either & ~is_global & ~near)


def test_each_cell_of_a_long_document_is_the_rarest_reason_of_its_blocks():
    pattern = SparsePattern(2, num_random_blocks=1)
    drawing = Drawing.of(pattern, 2 * 200 + 1)
    squares, side = drawing.squares(show.MOST_CELLS)
    assert side == 2 and squares.shape == (101, 101)
    for row in range(101):
        for column in range(101):
            block = drawing.reasons[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert squares[row, column] == block.max()
    assert torch.equal(torch.as_tensor(show.picture(drawing, WIDTHS).axes[0].images[0].get_array()), squares)
    lines = show.as_text(drawing).split("\n\n")[2].splitlines()
    squares, side = drawing.squares(show.MOST_CHARACTERS)
    assert len(lines) == -(-201 // side) <= show.MOST_CHARACTERS
    assert lines == ["  " + " ".join(show.CHARACTERS[reason] for reason in row) for row in squares.tolist()]


@pytest.mark.parametrize("per_block", [1, 2])
def test_the_counted_operations_are_those_of_a_layer(tiny_config, per_block):
    # Where all see all, the dense reference computes no pair that nobody sees.
    pattern, length = SparsePattern.full(block_size=8, hierarchical=True), 44
    config = tiny_config(attn_implementation="eager", num_representatives_per_block=per_block)
    model = ErnieSparseModel(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(1, length, dtype=torch.long), pattern=pattern)
    # Of the first layer: the last has no step 2.
    counted = counter.get_flop_counts()["ErnieSparseModel.encoder.layer.0"]
    # One multiplication and one addition each.
    linear, attention = (counted[name] / 2 for name in (torch.ops.aten.addmm, torch.ops.aten.bmm))
    costs = Drawing.of(pattern, length, per_block).costs(config.hidden_size, config.intermediate_size)
    of_tokens = length * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size)
    assert linear / of_tokens == pytest.approx(1 + costs["representatives"])
    assert attention / of_tokens == pytest.approx(costs["step 1"] + costs["step 2"])
    flat = Drawing.of(SparsePattern.full(block_size=8), length).costs(config.hidden_size, config.intermediate_size)
    assert flat["step 1"] == flat["full attention"] == costs["full attention"]
    assert flat["step 2"] == flat["representatives"] == 0


def test_the_text_in_a_terminal(capsys):
    assert cli.main(["show", "block_size=4,num_random_blocks=1,block_shift=3", "--length", "19"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("19 tokens in 6 blocks of 4, 6 representatives\nblock_size=4,num_window_blocks=3,")
    assert "one character per block\n# global   o window   x random   . not seen\n" in text
    drawn = [line.split() for line in text.split("\n\n")[2].splitlines()]
    assert drawn[0] == ["#"] * 6 and all(row[0] == "#" and row[at + 1] == "o" for at, row in enumerate(drawn[1:]))
    assert [row.count("x") for row in drawn[1:]] == [1] * 5
    assert re.search(r"  keys per query +mean 1[0-9]\.[0-9], min 1[0-9], max 25, of 25\n", text)
    assert "counted at widths             768 and 3,072\n" in text


@pytest.mark.parametrize(("suffix", "begins"), [(".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_a_picture_lies_alone_in_its_folder(suffix, begins, tmp_path, capsys):
    file = tmp_path / "new" / f"pattern{suffix}"
    assert cli.main(["show", "block_size=4", "--length", "8", "--output", str(file)]) == 0
    assert f"saved in                      {file}" in capsys.readouterr().out
    assert list(file.parent.iterdir()) == [file] and file.read_bytes().startswith(begins)
    if suffix == ".svg":
        content = file.read_bytes()
        assert cli.main(["show", "block_size=4", "--length", "8", "--output", str(file)]) == 0
        assert file.read_bytes() == content


def test_a_models_own_pattern_and_widths(tiny_config, tmp_path, capsys):
    config = tiny_config(block_size=16, num_random_blocks=1, num_representatives_per_block=2)
    config.save_pretrained(tmp_path / "model")
    flags = ["show", "--model", str(tmp_path / "model")]
    assert cli.main(flags) == 0
    text = capsys.readouterr().out
    # As much as the model reads.
    assert text.startswith("128 tokens in 8 blocks of 16, 16 representatives\nblock_size=16,num_window_blocks=3,num_gl")
    assert "num_random_blocks=1" in text and "counted at widths             32 and 37\n" in text
    assert cli.main([*flags, "block_size=32", "--representatives", "1", "--hidden-size", "64"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("128 tokens in 4 blocks of 32, 4 representatives\n") and "num_random_blocks=0" in text
    assert "counted at widths             64 and 37\n" in text
    assert cli.main([*flags, "--length", "129"]) == 2
    assert "reads at most 128 tokens" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_picture_that_was_there(tmp_path, capsys, monkeypatch):
    file = tmp_path / "pattern.png"
    file.write_bytes(b"the picture that was there")

    def full_disk(path: Path, content: bytes):
        with open(path, "wb") as half:
            half.write(content[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    assert cli.main(["show", "--length", "1", "-o", str(file)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file] and file.read_bytes() == b"the picture that was there"


def test_without_matplotlib_there_is_text_and_pictures_name_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["show", "-o", str(tmp_path / "pattern.png")]) == 2
    error = capsys.readouterr().err
    assert "pip install matplotlib" in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []
    assert cli.main(["show"]) == 0
    assert capsys.readouterr().out.startswith("1,024 tokens in 16 blocks of 64, 16 representatives\n")


def test_the_picture_of_the_readme_is_what_its_command_draws(tmp_path):
    text = (REPOSITORY / "README.md").read_text()
    (flags,) = re.findall(r"`ernie-sparse (show .*) -o docs/images/pattern.png`", text)
    assert "(docs/images/pattern.png)" in text
    published, drawn = REPOSITORY / "docs" / "images" / "pattern.png", tmp_path / "pattern.png"
    assert published.stat().st_size < 60_000
    assert cli.main([*flags.split(), "-o", str(drawn)]) == 0
    published, drawn = imread(published), imread(drawn)
    # Another version of matplotlib may move a letter.
    assert published.shape == drawn.shape and np.abs(published - drawn).mean() < 0.005
