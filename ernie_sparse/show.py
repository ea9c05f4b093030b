# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse show`: who sees whom under a sparse pattern, and what that costs, as a picture or as text."""

import argparse
import importlib.util
import io
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from .block_plan import Documents, plan_batch
from .checkpoints import load_config
from .command_line import ArgumentParser, check_least
from .configuration_ernie_sparse import ErnieSparseConfig
from .errors import InputError, input_errors
from .files import check_place, whole_file
from .results import print_table
from .sparse_pattern import SparsePattern

# What a plan is made for.
MOST_BLOCKS, MOST_POSITIONS = 1024, 2**20
# In a row of a picture and of a text: of more blocks each stands for several.
MOST_CELLS, MOST_CHARACTERS = 128, 36
# Up to so many blocks a representative is wide enough to be seen, and so is a line between two blocks.
MOST_BLOCKS_WITH_DETAILS = 48
# Why a block sees another.
UNSEEN, WINDOW, RANDOM, GLOBAL, REPRESENTATIVE = range(5)
CHARACTERS = {UNSEEN: ".", WINDOW: "o", RANDOM: "x", GLOBAL: "#"}
NAMES = {WINDOW: "window", RANDOM: "random", GLOBAL: "global", REPRESENTATIVE: "representative"}
# Of Okabe and Ito, which the colour-blind can tell apart; they also differ in how dark they are.
COLOURS = {UNSEEN: "#EFEFEF", WINDOW: "#56B4E9", RANDOM: "#009E73", GLOBAL: "#E69F00", REPRESENTATIVE: "#4B1D5A"}
LINEAR_COLOUR, ATTENTION_COLOUR, NOTE_COLOUR = "#C9C9C9", "#D55E00", "#555555"
SUFFIXES = (".png", ".svg", ".pdf")


class Drawing(NamedTuple):
    """
    A document under a pattern, block by block, as the plan that a model runs has it.

    Args:
        pattern ([`SparsePattern`])
        reasons (`torch.Tensor` of shape `(num_blocks, num_blocks)`): Why, in step 1, a query's block sees a key's, or `UNSEEN`.
        summaries (`torch.BoolTensor` of shape `(num_blocks, num_blocks)`): Whether their representatives do in step 2.
        num_tokens, num_representatives (`torch.LongTensor` of shape `(num_blocks,)`): What the blocks hold.
    """

    pattern: SparsePattern
    reasons: torch.Tensor
    summaries: torch.Tensor
    num_tokens: torch.Tensor
    num_representatives: torch.Tensor

    @classmethod
    def of(cls, pattern: SparsePattern, length: int, num_representatives: int = 1) -> "Drawing":
        """
        Args:
            length (`int`): Tokens of the document.
            num_representatives (`int`, defaults to 1): Per block, where the pattern is hierarchical.

        Raises:
            [`InputError`]: It is more than can be drawn; nothing is allocated then.
        """
        num_blocks = pattern.num_blocks(length)
        num_positions = length + num_blocks * num_representatives * pattern.hierarchical
        if num_blocks > MOST_BLOCKS:
            raise InputError(
                f"{length:,} tokens are {num_blocks:,} blocks of {pattern.block_size}, and at most {MOST_BLOCKS:,} can be drawn: "
                "use a smaller --length, at which the pattern looks the same, or a larger block_size"
            )
        if num_positions > MOST_POSITIONS:
            raise InputError(
                f"{length:,} tokens and their representatives are {num_positions:,} positions, and at most {MOST_POSITIONS:,} "
                "can be drawn: use a smaller --length or fewer --representatives"
            )
        plan = plan_batch(pattern, num_representatives, (1, length), torch.device("cpu"))
        # Positions of a block see the same, so that the first of each tells what all see.
        visible = plan.visibility(Documents(1, plan.block_bounds[None, :-1]))[0]
        query, key = plan.block_numbers[:, None], plan.block_numbers[None]
        reasons = torch.where(visible, RANDOM, UNSEEN)
        reasons[visible & ((query - key).abs() <= plan.reach)] = WINDOW
        reasons[visible & (torch.minimum(query, key) < plan.num_global_blocks)] = GLOBAL
        summaries = torch.zeros_like(visible)
        for row in plan.summaries.rows(plan.position_blocks[plan.representatives]):
            summaries[row.unique()[:, None], row.unique()] = True
        num_tokens, num_representatives = (
            plan.position_blocks[positions].bincount(minlength=num_blocks)
            for positions in (plan.tokens, plan.representatives)
        )
        return cls(pattern, reasons, summaries, num_tokens, num_representatives)

    def squares(self, most: int) -> tuple[torch.Tensor, int]:
        """The reasons of at most `most` squares of blocks in a row, each the rarest in it, and how many blocks a side has."""
        side = -(-len(self.reasons) // most)
        padding = (0, -len(self.reasons) % side) * 2
        squares = torch.nn.functional.pad(self.reasons, padding).unfold(0, side, side).unfold(1, side, side)
        return squares.amax(dim=(2, 3)), side

    @property
    def positions(self) -> torch.Tensor:
        """How many tokens and representatives the blocks hold."""
        return self.num_tokens + self.num_representatives

    @property
    def keys(self) -> torch.Tensor:
        """How many positions the queries of each block see in step 1."""
        return ((self.reasons != UNSEEN) * self.positions).sum(dim=1)

    def size(self) -> str:
        """What is drawn, in words."""
        parts = [(self.num_tokens, "token"), (self.num_representatives, "representative")]
        counts = [(int(count.sum()), name) for count, name in parts]
        tokens, representatives = (f"{count:,} {name}{'s' * (count != 1)}" for count, name in counts)
        blocks = f"{len(self.reasons):,} block{'s' * (len(self.reasons) != 1)} of {self.pattern.block_size:,}"
        return f"{tokens} in {blocks}" + (f", {representatives}" if counts[1][0] else ", no representatives")

    def keys_per_query(self) -> tuple[float, int, int]:
        """The mean over tokens and representatives, the least and the most."""
        mean = int((self.keys * self.positions).sum()) / int(self.positions.sum())
        return mean, int(self.keys.min()), int(self.keys.max())

    def costs(self, hidden_size: int, intermediate_size: int) -> dict[str, float]:
        """
        Multiplications per token of a layer, in units of those of a token's own linear layers, which are the projections of
        attention and the feed-forward part.
        """
        projections = 4 * hidden_size**2
        linear = projections + 2 * hidden_size * intermediate_size
        # Of a query and a key: one for the score, one for the value.
        per_pair = 2 * hidden_size
        num_tokens, num_representatives = int(self.num_tokens.sum()), int(self.num_representatives.sum())
        of_step_2 = self.summaries * self.num_representatives * self.num_representatives[:, None]
        counts = {
            "step 1": per_pair * int((self.keys * self.positions).sum()),
            "step 2": per_pair * int(of_step_2.sum()),
            # Step 2 projects them once more.
            "representatives": num_representatives * (linear + projections),
            "full attention": per_pair * num_tokens**2,
        }
        return {name: count / num_tokens / linear for name, count in counts.items()}


def as_text(drawing: Drawing) -> str:
    """Step 1 in characters, each for one block or, in long documents, for a square of them."""
    squares, side = drawing.squares(MOST_CHARACTERS)
    lines = [" ".join(CHARACTERS[reason] for reason in row) for row in squares.tolist()]
    stands_for = "one character per block" if side == 1 else f"one character for {side} x {side} blocks"
    legend = "   ".join(f"{CHARACTERS[reason]} {NAMES[reason]}" for reason in (GLOBAL, WINDOW, RANDOM))
    step_2 = "step 2: the representatives of all blocks see each other"
    if not drawing.pattern.hierarchical:
        step_2 = "no representatives, no step 2"
    return "\n".join(
        [
            drawing.size(),
            str(drawing.pattern),
            "",
            f"step 1: rows are queries, columns are keys, {stands_for}",
            f"{legend}   {CHARACTERS[UNSEEN]} not seen",
            "",
            *(f"  {line}" for line in lines),
            "",
            step_2,
        ]
    )


def table(drawing: Drawing, widths: tuple[int, int]) -> list[tuple[str, object]]:
    """The figures, for people."""
    mean, least, most = drawing.keys_per_query()
    costs = drawing.costs(*widths)
    full = costs.pop("full attention")
    attention = sum(costs.values())
    parts = ", ".join(f"{name} {cost:.3f}" for name, cost in costs.items())
    return [
        ("keys per query", f"mean {mean:,.1f}, min {least:,}, max {most:,}, of {int(drawing.positions.sum()):,}"),
        ("cost over full attention's", f"{attention / full:.3f}"),
        ("cost over the linear layers'", f"{attention:.3f} ({parts}); full attention {full:.3f}"),
        ("counted at widths", f"{widths[0]:,} and {widths[1]:,}"),
    ]


def picture(drawing: Drawing, widths: tuple[int, int]):
    """A figure of both steps, and the figures beside it."""
    from matplotlib.figure import Figure

    width, height = 8, 4.7
    figure = Figure(figsize=(width, height))

    def axes(left: float, bottom: float, right: float, top: float):
        """Axes, in inches."""
        return figure.add_axes((left / width, bottom / height, (right - left) / width, (top - bottom) / height))

    figure.text(0.02, 0.945, drawing.size(), fontsize=12, weight="bold")
    figure.text(0.02, 0.9, str(drawing.pattern), fontsize=8, color=NOTE_COLOUR)
    _draw_step_1(axes(0.72, 0.5, 4.07, 3.85), drawing)
    _draw_step_2(axes(4.62, 2.45, 6.02, 3.85), drawing)
    _draw_legend(axes(6.14, 2.45, 7.9, 3.85), drawing)
    _draw_keys(axes(4.62, 1.52, 7.9, 2.2), drawing)
    _draw_costs(axes(5.52, 0.52, 7.9, 1.0), axes(4.62, 0.16, 7.9, 1.3), drawing.costs(*widths), widths)
    return figure


def _cells(drawing: Drawing) -> tuple[list[float], list[float], torch.Tensor]:
    """
    Step 1 as a mesh: where the squares of blocks begin, where its cells do, and the reasons in them. A block is as wide as it
    has tokens; where there is room its representatives stand before these, wider than they are.
    """
    squares, side = drawing.squares(MOST_CELLS)
    num_tokens = [part.sum().item() for part in drawing.num_tokens.split(side)]
    if not drawing.pattern.hierarchical or len(drawing.reasons) > MOST_BLOCKS_WITH_DETAILS:
        edges = [0, *itertools.accumulate(num_tokens)]
        return edges, edges, squares
    head = 0.22 * max(num_tokens)
    edges = [0, *itertools.accumulate(width for tokens in num_tokens for width in (head, tokens))]
    squares = squares.repeat_interleave(2, 0).repeat_interleave(2, 1)
    is_head = torch.arange(len(squares)) % 2 == 0
    squares[(is_head | is_head[:, None]) & (squares != UNSEEN)] = REPRESENTATIVE
    return edges[::2], edges, squares


def _mesh(axes, edges: list[float], reasons: torch.Tensor, block_edges: list[float]):
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([COLOURS[reason] for reason in range(len(COLOURS))])
    axes.pcolorfast(edges, edges, reasons.numpy(), cmap=colours, vmin=-0.5, vmax=len(COLOURS) - 0.5)
    if len(block_edges) <= MOST_BLOCKS_WITH_DETAILS + 1:
        for lines in (axes.hlines, axes.vlines):
            lines(block_edges, 0, edges[-1], colors="white", linewidth=0.8)
    axes.set(xlim=(0, edges[-1]), ylim=(edges[-1], 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_step_1(axes, drawing: Drawing):
    starts, edges, reasons = _cells(drawing)
    _mesh(axes, edges, reasons, starts)
    length = int(drawing.num_tokens.sum())
    # A power of two, as block sizes are.
    step = 2 ** max(0, math.ceil(math.log2(length / 5)))
    side = drawing.squares(MOST_CELLS)[1]
    firsts = [0, *itertools.accumulate(part.sum().item() for part in drawing.num_tokens.split(side))]
    ticks = list(range(0, length + 1, step))
    places = np.interp(ticks, firsts, starts)
    axes.set_xticks(places, [f"{tick:,}" for tick in ticks], fontsize=8)
    axes.set_yticks(places, [f"{tick:,}" for tick in ticks], fontsize=8)
    axes.tick_params(length=2, pad=2)
    axes.set_xlabel("key token", fontsize=9, labelpad=2)
    axes.set_ylabel("query token", fontsize=9, labelpad=2)
    title = "Step 1, local: tokens and representatives" if drawing.pattern.hierarchical else "Local attention: tokens"
    if side > 1:
        title = f"{title.partition(':')[0]} (each cell: {side} x {side} blocks)"
    axes.set_title(title, fontsize=10, loc="left", pad=5)


def _draw_step_2(axes, drawing: Drawing):
    if not drawing.pattern.hierarchical:
        axes.axis("off")
        axes.text(0, 1, "No representatives:\nno step 2", fontsize=10, va="top")
        return
    edges = list(range(len(drawing.summaries) + 1))
    _mesh(axes, edges, torch.where(drawing.summaries, REPRESENTATIVE, UNSEEN), edges)
    axes.set_title("Step 2, global: representatives", fontsize=10, loc="left", pad=5)


def _draw_legend(axes, drawing: Drawing):
    from matplotlib.patches import Patch

    axes.axis("off")
    shown = [reason for reason in (GLOBAL, WINDOW, RANDOM) if (drawing.reasons == reason).any()]
    names = {reason: f"{NAMES[reason]} blocks" for reason in shown}
    if drawing.pattern.hierarchical:
        names[REPRESENTATIVE] = "representatives,\nat the head of\neach block"
    names[UNSEEN] = "not seen"
    patches = [Patch(facecolor=COLOURS[reason], label=name) for reason, name in names.items()]
    axes.legend(
        handles=patches,
        loc="upper left",
        bbox_to_anchor=(0, 1.04),
        frameon=False,
        fontsize=9,
        handlelength=1.1,
        borderpad=0,
    )


def _draw_keys(axes, drawing: Drawing):
    mean, least, most = drawing.keys_per_query()
    axes.axis("off")
    axes.text(0, 1, "Keys per query in step 1", fontsize=10, va="top")
    for left, name, value in ((0, "mean", round(mean)), (0.33, "min", least), (0.66, "max", most)):
        axes.text(left, 0.25, f"{value:,}", fontsize=14, weight="bold")
        axes.text(left, 0.14, name, fontsize=8, color=NOTE_COLOUR, va="top")


def _draw_costs(bars, around, costs: dict[str, float], widths: tuple[int, int]):
    full = costs["full attention"]
    own = sum(costs.values()) - full
    for row, attention in enumerate((own, full)):
        bars.barh(row, 1, color=LINEAR_COLOUR, height=0.7)
        bars.barh(row, attention, left=1, color=ATTENTION_COLOUR, height=0.7)
        bars.text(1 + attention, row, f" {1 + attention:.2f}", va="center", fontsize=9, weight="bold")
    bars.set_yticks([0, 1], ["this pattern", "full attention"], fontsize=9)
    bars.tick_params(length=0)
    bars.set(xticks=[], ylim=(1.5, -0.5), xlim=(0, 1.22 * (1 + max(own, full))))
    for spine in bars.spines.values():
        spine.set_visible(False)
    around.axis("off")
    around.text(0, 1, "Cost per token: linear layers + attention", fontsize=10, va="top")
    attention = (
        "attention: both steps and what representatives add" if costs["representatives"] else "attention: of tokens"
    )
    note = f"counted: linear layers = 1, at widths {widths[0]:,} and {widths[1]:,};\n{attention}"
    around.text(0, 0, note, fontsize=7.5, color=NOTE_COLOUR)


def save_picture(drawing: Drawing, widths: tuple[int, int], out: Path):
    """Write the figure as a whole or not at all; the same arguments give the same file."""
    import matplotlib
    from PIL import Image

    content, kind = io.BytesIO(), out.suffix.lower().removeprefix(".")
    # What tells of the day or of the version.
    unwritten = {"png": ["Software"], "svg": ["Date", "Creator"], "pdf": ["CreationDate", "Creator", "Producer"]}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "ernie-sparse"}):
        picture(drawing, widths).savefig(content, format=kind, dpi=160, metadata=dict.fromkeys(unwritten))
    if kind == "png":
        # A third of the bytes.
        image = Image.open(content).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        content = io.BytesIO()
        image.save(content, format="png", optimize=True)
    with whole_file(out) as temporary:
        temporary.write_bytes(content.getvalue())


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = ArgumentParser.of_command("show")
    parser.add_argument(
        "pattern", metavar="PATTERN", nargs="?", help="a sparse pattern (the model's, or the default one)"
    )
    parser.add_argument(
        "--length", type=int, help="tokens of the document (1024, or fewer where the model reads fewer)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="a .png, .svg or .pdf to write, instead of text"
    )
    parser.add_argument(
        "--model", help="an ERNIE-Sparse checkpoint, folder or hub id: its pattern, representatives, widths"
    )
    parser.add_argument(
        "--representatives", type=int, metavar="R", help="representatives per block (1, or the model's)"
    )
    parser.add_argument("--hidden-size", type=int, help="width at which operations are counted (768, or the model's)")
    parser.add_argument("--intermediate-size", type=int, help="that of the feed-forward part (3072, or the model's)")
    args = parser.parse_args(argv)
    check_least(args, dict.fromkeys(("length", "representatives", "hidden_size", "intermediate_size"), 1))
    return args


def main(argv: list[str]):
    """Run `ernie-sparse show` with the arguments `argv`."""
    args = arguments(argv)
    if args.output is not None:
        check_output(args.output)
    config = ErnieSparseConfig() if args.model is None else load_config(args.model, None)
    limit = config.max_position_embeddings
    if args.model is not None and args.length is not None and args.length > limit:
        raise InputError(f"--length {args.length:,}: {args.model} reads at most {limit:,} tokens")
    pattern = config.pattern
    if args.pattern is not None:
        with input_errors(about="PATTERN"):
            pattern = SparsePattern.parse(args.pattern)
    drawing = Drawing.of(
        pattern,
        min(1024, limit) if args.length is None else args.length,
        args.representatives or config.num_representatives_per_block,
    )
    widths = (args.hidden_size or config.hidden_size, args.intermediate_size or config.intermediate_size)
    if args.output is None:
        print(as_text(drawing))
        print_table(table(drawing, widths))
    else:
        save_picture(drawing, widths, args.output)
        print_table([*table(drawing, widths), ("saved in", args.output)])


def check_output(out: Path):
    """Raise an [`InputError`] unless a picture can be drawn for `out`."""
    if out.suffix.lower() not in SUFFIXES:
        raise InputError(f"-o {out}: its name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if out.is_dir():
        raise InputError(f"-o {out} is a folder: name a file")
    check_place(out, f"-o {out}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("a picture needs matplotlib: pip install matplotlib; without -o the drawing is text")
