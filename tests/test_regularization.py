# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The arms of regularisation: what contradicts, what is drawn for a step, and what the model is given and trained by."""

import dataclasses
import random

import pytest
import torch
from distributed_training import build_dataset, build_model, build_trainer, result_of
from torch import nn

from ernie_sparse import SparsePattern
from ernie_sparse.regularization import PERTURBATIONS, SaorArguments, patterns_of_step, perturb, second_pattern
from ernie_sparse.sparse_pattern import MOST
from ernie_sparse.trainer import SaorTrainer

OWN = SparsePattern(block_size=8, num_window_blocks=3, num_random_blocks=1, block_shift=5, seed=4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"saor_alpha": -0.1}, "saor_alpha=-0.1"),
        ({"saor_alpha": float("nan")}, "saor_alpha=nan"),
        ({"saor_alpha": float("inf")}, "saor_alpha=inf"),
        ({"saor_patterns": []}, "saor_patterns is empty"),
        ({"saor_patterns": ["shift", "rotate"]}, "'rotate' is not one of shift, .*, none, nor a pattern"),
        ({"saor_patterns": ["block_size=0"]}, "block_size=0 is not allowed"),
        ({"regularization": "dropout"}, "regularization=dropout .* one of none, r-drop, saor, alignment"),
        ({"saor_every": 0}, "saor_every=0"),
        ({"saor_share": 0.0}, "saor_share=0.0"),
        ({"saor_share": 1.5}, "saor_share=1.5"),
        ({"saor_alpha_warmup": 1.5}, "saor_alpha_warmup=1.5"),
        ({"saor_temperature": 0.0}, "saor_temperature=0.0"),
        ({"saor_perturb": "first"}, "saor_perturb=first .* one of second, both"),
        ({"regularization": "r-drop", "saor_alpha": 0.0}, "regularization=r-drop with saor_alpha=0 is none"),
        ({"saor_alpha": 0.0, "saor_every": 2}, "saor_every=2 is not for regularization=none"),
        ({"regularization": "r-drop", "saor_patterns": ["shift"]}, "saor_patterns=.* is not for regularization=r-drop"),
        ({"regularization": "r-drop", "saor_perturb": "both"}, "saor_perturb=both is not for regularization=r-drop"),
        ({"regularization": "alignment", "saor_share": 0.5}, "saor_share=0.5 is not for regularization=alignment"),
        ({"regularization": "alignment", "saor_temperature": 2.0}, "saor_temperature=2.0 is not for"),
        ({"regularization": "alignment", "saor_patterns": ["shift", "none"]}, "none has no effect"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        SaorArguments(**arguments)


def test_the_second_pattern_is_a_pure_function_of_seed_and_step():
    steps = range(200)
    saor = SaorArguments(saor_seed=3)
    drawn = [second_pattern(OWN, saor, step) for step in steps]
    random.seed(99)
    global_state = random.getstate(), torch.get_rng_state()
    again = {step: second_pattern(OWN, saor, step) for step in reversed(steps)}
    assert drawn == [again[step] for step in steps]
    assert random.getstate() == global_state[0] and torch.equal(torch.get_rng_state(), global_state[1])
    assert drawn != [second_pattern(OWN, SaorArguments(saor_seed=4), step) for step in steps]
    # All four kinds of the default, and many patterns of them.
    changed = {name for p in drawn for name in changes(p)}
    assert changed == {"block_shift", "block_size", "num_window_blocks", "num_random_blocks", "seed"}
    assert len(set(drawn)) > 50


def changes(pattern: SparsePattern, own: SparsePattern = OWN) -> set[str]:
    return {f.name for f in dataclasses.fields(own) if getattr(pattern, f.name) != getattr(own, f.name)}


@pytest.mark.parametrize(
    "own",
    [
        OWN,
        SparsePattern(),
        SparsePattern(block_size=2, num_window_blocks=1, num_global_blocks=0, block_shift=1, hierarchical=False),
    ],
)
@pytest.mark.parametrize(
    "name, may_change",
    [
        ("shift", {"block_shift"}),
        ("block_size", {"block_size", "block_shift"}),
        ("window", {"num_window_blocks"}),
        ("random", {"num_random_blocks", "seed"}),
        ("hierarchy", {"hierarchical"}),
        ("none", set()),
    ],
)
def test_a_perturbation_changes_what_it_says_and_nothing_else(name, may_change, own):
    drawn = {perturb(own, name, random.Random(i)) for i in range(1000)}
    for pattern in drawn:
        assert SparsePattern.parse(str(pattern)) == pattern
        assert changes(pattern, own) <= may_change
        assert (pattern != own) == (name != "none")
    expected = {
        "shift": [{"block_shift": shift} for shift in range(own.block_size) if shift != own.block_shift],
        "window": [{"num_window_blocks": own.num_window_blocks + d} for d in (-2, 2) if own.num_window_blocks + d > 0],
        "hierarchy": [{"hierarchical": not own.hierarchical}],
        "none": [{}],
        "block_size": [
            {"block_size": size, "block_shift": own.block_shift % size}
            for size in (own.block_size // 2, own.block_size * 2)
        ],
    }
    if name == "random":
        assert {pattern.num_random_blocks - own.num_random_blocks for pattern in drawn} == {1, 2, 3}
        assert len({pattern.seed for pattern in drawn}) > 900
    else:
        assert drawn == {dataclasses.replace(own, **fields) for fields in expected[name]}


def test_perturbations_of_blocks_of_one_token_are_valid():
    own = SparsePattern(block_size=1)
    assert perturb(own, "shift", random.Random(0)) == own
    assert {perturb(own, "block_size", random.Random(i)).block_size for i in range(20)} == {2}
    for name in PERTURBATIONS:
        perturb(own, name, random.Random(1))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbations_of_the_largest_pattern_there_can_be_are_valid(name):
    own = SparsePattern(MOST, MOST, MOST, MOST)
    drawn = [perturb(own, name, random.Random(i)) for i in range(20)]
    assert (own not in drawn) == (name != "none")


def test_patterns_can_be_named_explicitly():
    texts = ["block_size=32,num_window_blocks=5", "hierarchical=false", "shift"]
    drawn = {second_pattern(OWN, SaorArguments(saor_patterns=texts), step) for step in range(60)}
    assert SparsePattern(block_size=32, num_window_blocks=5) in drawn
    assert SparsePattern(hierarchical=False) in drawn
    assert {p.block_shift for p in drawn if p not in (SparsePattern.parse(t) for t in texts[:2])} == {
        0,
        1,
        2,
        3,
        4,
        6,
        7,
    }


@pytest.mark.parametrize(
    "arguments, arm, alpha",
    [
        ({}, "saor", 1.0),
        ({"saor_alpha": 0.0}, "none", 0.0),
        ({"saor_alpha": 2.0}, "saor", 2.0),
        ({"regularization": "none"}, "none", 0.0),
        ({"regularization": "none", "saor_alpha": 0.0}, "none", 0.0),
        ({"regularization": "r-drop"}, "r-drop", 1.0),
        ({"regularization": "alignment", "saor_alpha": 0.5}, "alignment", 0.5),
    ],
)
def test_an_arm_and_a_weight_stand_for_each_other(arguments, arm, alpha):
    saor = SaorArguments(**arguments)
    assert (saor.regularization, saor.saor_alpha) == (arm, alpha)
    assert dataclasses.replace(saor) == saor


@pytest.mark.parametrize(
    "arm, expected", [("none", [None] * 4), ("r-drop", [OWN, None] * 2), ("saor", None), ("alignment", None)]
)
def test_the_patterns_of_a_step(arm, expected):
    saor = SaorArguments(regularization=arm, **({} if arm == "none" else {"saor_every": 2}))
    if expected is None:
        expected = [None if step % 2 else second_pattern(OWN, saor, step) for step in range(4)]
    assert [patterns_of_step(OWN, saor, step) for step in range(4)] == [(OWN, second) for second in expected]


def test_both_patterns_are_drawn_apart():
    saor = SaorArguments(saor_perturb="both")
    drawn = [patterns_of_step(OWN, saor, step) for step in range(200)]
    assert drawn == [patterns_of_step(OWN, saor, step) for step in range(200)]
    assert [second for _, second in drawn] == [second_pattern(OWN, saor, step) for step in range(200)]
    assert sum(first == second for first, second in drawn) < 20 and all(first != OWN for first, _ in drawn)


def test_the_weight_grows_over_a_share_of_the_steps():
    saor = SaorArguments(saor_alpha=2.0, saor_alpha_warmup=0.4)
    assert [saor.alpha(step, 10) for step in range(10)] == [0.5, 1.0, 1.5, *[2.0] * 7]
    assert [SaorArguments(saor_alpha=2.0).alpha(step, 10) for step in (0, 9)] == [2.0, 2.0]


def test_rows_are_drawn_evenly_and_as_a_function_of_the_step():
    saor = SaorArguments(saor_share=0.3, saor_seed=2)
    drawn = [saor.rows(step, 5) for step in range(500)]
    assert drawn == [saor.rows(step, 5) for step in range(500)]
    assert all(len(rows) == 2 and rows == sorted(set(rows)) for rows in drawn)
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=5)
    assert counts.sum() == 1000 and ((counts - 200).abs() < 50).all()
    assert saor.rows(0, 1) is None and SaorArguments().rows(0, 5) is None


def losses_of(head: str, output_dir, **options) -> list[dict]:
    trainer = build_trainer(head, str(output_dir), **options)
    trainer.train()
    return result_of(trainer)["losses"]


def test_the_log_has_the_parts_of_the_steps_that_have_them(tmp_path):
    saor = {"saor_every": 3, "saor_alpha_warmup": 1.0, "saor_temperature": 2.0}
    options = {"batch_size": 2, "alpha": 3.0, "saor": saor}
    logs = losses_of("masked_lm", tmp_path, **options)
    assert len(logs) == 6
    for step, log in enumerate(logs):
        assert ("consistency_loss" in log) == (step % 3 == 0)
        expected = log["task_loss"] + 3 * (step + 1) / 6 * log.get("consistency_loss", 0.0)
        assert log["loss"] == pytest.approx(expected, rel=1e-4)
    (mean,) = losses_of("masked_lm", tmp_path, **options, logging_steps=6)
    assert mean["consistency_loss"] == pytest.approx((logs[0]["consistency_loss"] + logs[3]["consistency_loss"]) / 2)
    assert mean["task_loss"] == pytest.approx(sum(log["task_loss"] for log in logs) / 6)


@pytest.mark.parametrize("head", ["single_label", "masked_lm"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_with_a_share_by_hand(head, accumulation, tmp_path):
    saor = {"saor_share": 0.5, "saor_patterns": ["window"]}
    trainer = build_trainer(
        head, str(tmp_path), batch_size=4, accumulation=accumulation, dataset_size=4 * accumulation, saor=saor
    )
    rows, model = trainer.saor.rows(0, 4), trainer.model.train()
    (first, second) = patterns_of_step(model.config.pattern, trainer.saor, 0)
    assert len(rows) == 2 and second.num_window_blocks != first.num_window_blocks
    batches = list(trainer.get_train_dataloader())
    count, others = sum(model.is_labelled(batch).sum() for batch in batches), [i for i in range(4) if i not in rows]
    expected = 0.0
    for batch in batches:
        shared, alone = ({k: v[index] for k, v in batch.items()} for index in (rows, others))
        both = model(**shared, consistency_pattern=second, num_items_in_batch=count)
        expected += both.task_loss + 2.0 * 2 * both.consistency_loss + model(**alone, num_items_in_batch=count).loss
    trainer.get_train_dataloader = lambda: batches
    trainer.train()
    assert result_of(trainer)["losses"][0]["loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_r_drop_is_two_passes_under_one_pattern_with_dropouts_of_their_own(tmp_path):
    model = build_model("single_label", hidden_dropout_prob=0.3).train()
    trainer = build_trainer("single_label", str(tmp_path), model=model, saor={"regularization": "r-drop"})
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer.data_collator(build_dataset("single_label", 4))
    torch.manual_seed(3)
    loss = trainer.compute_loss(model, batch)
    torch.manual_seed(3)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    encoded = [model.base_model(**inputs).pooler_output for _ in range(2)]
    logits = [model.classifier(model.dropout(states)) for states in encoded]
    task = sum(nn.functional.cross_entropy(each, batch["labels"]) for each in logits) / 2
    p, q = (each.log_softmax(-1) for each in logits)
    divergence = ((p.exp() * (p - q)).sum(-1) + (q.exp() * (q - p)).sum(-1)).mean() / 2
    assert divergence > 1e-3
    torch.testing.assert_close(loss, task + 2.0 * divergence)


class Closed(nn.Module):
    """A model around a head, with named arguments alone."""

    def __init__(self, head):
        super().__init__()
        self.head, self.config = head, head.config

    def forward(self, input_ids, labels=None, pattern=None, consistency_pattern=None, consistency_alpha=1.0):
        raise NotImplementedError


def test_what_a_model_or_its_batches_cannot_do_is_refused(tmp_path):
    def build(head, batch_size=4, patterns=None, model=None, hierarchical=True, **saor):
        config = {"hierarchical": hierarchical}
        settings = {"saor": saor, "model": model, "model_config": config, "batch_size": batch_size}
        return build_trainer(head, str(tmp_path), patterns=patterns, **settings)

    with pytest.raises(ValueError, match=r"saor_temperature=2.0: the distribution of a number has none"):
        build("regression", saor_temperature=2.0)
    for size, share in ((1, 0.5), (4, 0.9)):
        with pytest.raises(ValueError, match=rf"saor_share={share} of a batch of {size} is all of it"):
            build("single_label", size, saor_share=share)
    closed = Closed(build_model("single_label"))
    for saor, name in (
        ({"regularization": "alignment"}, "alignment_pattern"),
        ({"saor_share": 0.5}, "consistency_rows"),
    ):
        with pytest.raises(ValueError, match=f"a Closed takes no {name}"):
            build("single_label", model=closed, **saor)
    assert isinstance(build("single_label", model=closed), SaorTrainer)
    message = "cannot align a pattern without representatives with one that has them"
    for hierarchical, patterns, more in (
        (False, ["hierarchy"], {}),
        (False, ["shift", "block_size=8"], {}),
        (True, ["hierarchy", "shift"], {"saor_perturb": "both"}),
    ):
        with pytest.raises(ValueError, match=message):
            build("single_label", 4, patterns, None, hierarchical, regularization="alignment", **more)
    build("single_label", 4, ["hierarchy"], regularization="alignment")
    build("single_label", 4, ["shift"], None, False, regularization="alignment", saor_perturb="both")


@pytest.mark.parametrize("name, more", [("saor_share=0.5", {"saor": {"saor_share": 0.5}}), ("torch_compile=True", {})])
def test_what_dataparallel_would_share_out_wrongly_needs_a_process_per_gpu(name, more, tmp_path):
    trainer = build_trainer("single_label", str(tmp_path), **more)
    trainer.args._n_gpu, trainer.args.torch_compile = 2, name.startswith("torch_compile")
    with pytest.raises(ValueError, match=f"{name} needs one process per GPU"):
        SaorTrainer(model=trainer.model, args=trainer.args, saor=trainer.saor)
