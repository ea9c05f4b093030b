# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Steps on static buffers against the steps of every training: the same rows, losses and weights. Without CUDA a step is not
captured, but done anew on the buffers; all else is the same code."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForMaskedLM, TrainerCallback, set_seed

from benchmarks.lra import PROG, models, runner
from benchmarks.lra.device_rows import DeviceRows, choose_widths
from benchmarks.lra.graphs import CudaGraphs, Gradients, GraphedTrainer, StaticStep, StepInputs, check_graphs
from benchmarks.lra.models import MODELS, LraClassifier, build_config, encoder_of
from benchmarks.lra.tasks import TASKS
from benchmarks.lra.training import DocumentCollator
from ernie_sparse.block_plan import plan_batch
from ernie_sparse.cli import run_command
from ernie_sparse.errors import InputError
from ernie_sparse.trainer import SaorArguments, SaorTrainer
from ernie_sparse.training_arguments import RunArguments


class DoneAnew:
    """In the place of `CudaGraphs`: nothing is captured, and a replay does the step again."""

    def warm_up(self, step):
        step()

    def capture(self, step):
        return step


class GradientsSeen(TrainerCallback):
    """Those of every update."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        self.seen.append({name: gradient.clone() for name, gradient in gradients.items()})


@pytest.fixture
def sizes(monkeypatch):
    """Models of next to no width, without dropout."""
    monkeypatch.setattr(
        models,
        "SIZES",
        {**models.SIZES, "hidden_size": 8, "intermediate_size": 8, "hidden_dropout_prob": 0.0},
    )


def rows_of(task: str, number: int, shortest: int, longest: int, seed: int = 0) -> Dataset:
    draw, num_documents = np.random.default_rng(seed), TASKS[task].num_documents
    documents = [
        [
            draw.integers(TASKS[task].num_symbols, size=length, dtype=np.uint8).tobytes()
            for length in draw.integers(shortest, longest + 1, num_documents)
        ]
        for _ in range(number)
    ]
    labels = draw.integers(TASKS[task].num_labels, size=number).tolist()
    return Dataset.from_dict(
        {"documents": documents, "labels": labels, "length": [sum(map(len, row)) for row in documents]}
    )


def classifier(name: str, task: str, block_size: int) -> LraClassifier:
    pattern = MODELS[name].pattern.changed_by(f"block_size={block_size}")
    encoder = encoder_of(AutoModelForMaskedLM.from_config(build_config(name, TASKS[task], pattern)))
    return LraClassifier(encoder, TASKS[task].num_documents, TASKS[task].num_labels)


def trainer_of(
    folder: Path, name: str, task: str, rows: Dataset, captures=None, saor=None, block_size: int = 8, **options
) -> SaorTrainer:
    """A trainer, of static steps where it is said how they are captured. Its blocks are small: short documents have many."""
    set_seed(0)
    arguments = RunArguments(
        **{
            "output_dir": str(folder),
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-3,
            "weight_decay": 0.1,
            # Some gradients are 0 but for rounding, and are to stay so.
            "adam_epsilon": 1e-4,
            "logging_steps": 1,
            "eval_strategy": "no",
            "save_strategy": "no",
            "train_sampling_strategy": "group_by_length",
            "remove_unused_columns": False,
            "label_names": ["labels"],
            "report_to": "none",
            "disable_tqdm": True,
            **options,
        }
    )
    settings = {
        "model": classifier(name, task, block_size),
        "args": arguments,
        "saor": saor or SaorArguments(saor_alpha=MODELS[name].saor_alpha),
        "train_dataset": rows,
        "eval_dataset": rows,
        "data_collator": DocumentCollator(TASKS[task]),
        "callbacks": [GradientsSeen()],
    }
    if captures is None:
        return SaorTrainer(**settings)
    on_device = DeviceRows(rows, TASKS[task], arguments.train_batch_size, arguments.device)
    return GraphedTrainer(**settings, rows=on_device, graphs=captures)


def logs(trainer: SaorTrainer) -> list[list[float]]:
    names = ("loss", "grad_norm", "task_loss", "consistency_loss", "learning_rate")
    return [[entry.get(name, 0.0) for name in names] for entry in trainer.state.log_history if "loss" in entry]


def gradients(trainer: SaorTrainer) -> list[dict[str, torch.Tensor]]:
    return next(part.seen for part in trainer.callback_handler.callbacks if isinstance(part, GradientsSeen))


def assert_same_training(ours: SaorTrainer, expected: SaorTrainer, tolerance: float = 1e-5):
    near = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(torch.tensor(logs(ours)), torch.tensor(logs(expected)), **near)
    # Those of an update in which a weight has none are not there.
    seen = gradients(expected)[-len(gradients(ours)) :]
    torch.testing.assert_close(gradients(ours), seen, **near)
    torch.testing.assert_close(ours.model.state_dict(), expected.model.state_dict(), **near)


# Rows on the device.


def test_widths_are_those_that_cost_least_padding():
    assert choose_widths(np.array([3, 64, 65, 700]), 2000) == [64, 128, 704]
    assert choose_widths(np.array([1024] * 5), 1024) == [1024]
    # A document may end behind the last whole block.
    assert choose_widths(np.array([1990, 2000, 100]), 2000) == [128, 2000]
    # 9 rows of 64 and 1 of 128 up to 192, or the one of 128 alone: that costs 64 places.
    assert choose_widths(np.array([64] * 9 + [128] + [192] * 5), 2000, 2) == [64, 192]
    assert choose_widths(np.array([64] + [128] * 9 + [192] * 5), 2000, 2) == [128, 192]
    # The 3 that went along with the next 3 go along with them.
    assert choose_widths(np.array([64] * 3 + [128] * 3 + [192] * 4 + [256]), 2000, 2) == [128, 256]
    longest = np.random.default_rng(0).integers(1, 4097, 1000)
    widths = choose_widths(longest, 4096)
    assert len(widths) == 6 and widths == sorted(widths) and widths[-1] == 4096
    assert all(width % 64 == 0 for width in widths)


@pytest.mark.parametrize("task", ["listops", "retrieval"])
def test_documents_are_gathered_as_they_are_collated(task):
    rows = rows_of(task, 11, 1, 300)
    on_device = DeviceRows(rows, TASKS[task], 4, torch.device("cpu"))
    assert len(on_device) == 11 and not on_device.are_full
    for numbers in ([3, 0, 10, 5], [10, 2]):
        batch = on_device.batch(numbers)
        expected = DocumentCollator(TASKS[task])([rows[number] for number in numbers])
        assert batch["width"] in on_device.widths and len(batch["rows"]) == len(batch["labels"]) == 4
        assert batch["labels"].tolist() == [*expected["labels"].tolist(), *[-100] * (4 - len(numbers))]
        ours = on_device.gather(batch["rows"], batch["width"])
        length = expected["input_ids"].shape[-1]
        assert batch["width"] >= length and set(ours) == {"input_ids", "attention_mask"}
        for name, values in ours.items():
            assert torch.equal(values[: len(numbers), :, :length], expected[name]), name
            assert not values[: len(numbers), :, length:].any()
            # What stands in for rows that are not there is a row: of nothing a mean would be 0 / 0.
            assert torch.equal(values[len(numbers) :], values[:1].expand(4 - len(numbers), -1, -1)), name


def test_rows_of_one_length_are_known_to_be_full():
    rows = rows_of("image", 3, 1024, 1024)
    on_device = DeviceRows(rows, TASKS["image"], 2, torch.device("cpu"))
    assert on_device.are_full and on_device.widths == [1024]
    assert DeviceRows(rows_of("listops", 3, 100, 100), TASKS["listops"], 2, torch.device("cpu")).are_full is False


# Trainings.


@pytest.mark.parametrize(
    "name, task, number, shortest, longest, options",
    [
        # Six updates of four rows are an epoch and the last batch has two of them.
        ("hst", "text", 22, 20, 120, {}),
        pytest.param("hst-saor", "listops", 14, 20, 120, {}, marks=pytest.mark.slow),
        ("hst-saor", "retrieval", 10, 20, 120, {"gradient_accumulation_steps": 2, "max_steps": 3}),
        # Representatives' weights have no gradient; rows without padding have no mask.
        ("flat", "text", 10, 128, 128, {"train_sampling_strategy": "random"}),
    ],
)
def test_a_training_is_the_one_without_graphs(name, task, number, shortest, longest, options, tmp_path, sizes):
    rows = rows_of(task, number, shortest, longest)
    usual = trainer_of(tmp_path / "usual", name, task, rows, **options)
    graphed = trainer_of(tmp_path / "graphed", name, task, rows, DoneAnew(), **options)
    for trainer in (usual, graphed):
        trainer.train()
    assert len(logs(usual)) == usual.args.max_steps
    assert_same_training(graphed, usual)


@pytest.mark.parametrize("captures", [None, DoneAnew()])
def test_rows_are_sorted_by_numbers_and_not_by_a_lookup_for_each(captures, tmp_path, sizes):
    trainer = trainer_of(tmp_path, "hst", "text", rows_of("text", 5, 20, 120), captures, max_steps=1)
    trainer.train()
    assert type(trainer.callback_handler.train_dataloader.batch_sampler.sampler.lengths) is list


def test_what_a_second_pattern_alone_trains_is_left_alone_in_other_steps(tmp_path, sizes):
    rows, saor = rows_of("listops", 8, 70, 120), SaorArguments(saor_patterns=["hierarchy", "window"])
    usual, graphed = (
        trainer_of(tmp_path / str(n), "flat", "listops", rows, captures, saor)
        for n, captures in enumerate((None, DoneAnew()))
    )
    for trainer in (usual, graphed):
        trainer.train()
    assert_same_training(graphed, usual)
    found = {sum(step.has_gradient) for step in graphed._steps.values()}
    assert len(found) == 2, "no step with and none without representatives"


def test_dropout_is_on_again_behind_an_evaluation(tmp_path, sizes, monkeypatch):
    modes, step = [], GraphedTrainer._step
    monkeypatch.setattr(
        GraphedTrainer, "_step", lambda self, model, *words: modes.append(model.training) or step(self, model, *words)
    )
    options = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    trainer_of(tmp_path, "hst", "text", rows_of("text", 4, 20, 60), DoneAnew(), **options).train()
    assert modes == [True] * 3


def test_rows_without_padding_are_planned_without_a_mask(tmp_path, sizes):
    for longest in (128, 127):
        rows = rows_of("text", 2, longest, longest)
        plan = trainer_of(tmp_path, "hst", "text", rows, DoneAnew())._plan(MODELS["hst"].pattern, torch.arange(2), 128)
        assert (plan.is_real is None) == (longest == 128)


def test_a_resumed_training_draws_and_ends_as_one_that_was_not_stopped(tmp_path, sizes, monkeypatch):
    monkeypatch.setitem(models.SIZES, "hidden_dropout_prob", 0.1)
    rows, options = rows_of("text", 14, 20, 120), {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 3}
    whole = trainer_of(tmp_path / "whole", "hst-saor", "text", rows, DoneAnew(), **options)
    whole.train()
    # In the middle of an epoch of four updates, and with steps of which some have been captured before and some have not.
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = trainer_of(tmp_path / "resumed", "hst-saor", "text", rows, DoneAnew(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / "checkpoint-2"))
    assert len(gradients(resumed)) == 4
    assert_same_training(resumed, whole, tolerance=0)


# Steps.


def step_inputs(plan=None, num_items: float = 4.0) -> StepInputs:
    return StepInputs(torch.tensor([1, 2]), torch.tensor([0, -100]), torch.tensor(num_items), plan)


def test_shapes_and_numbers_make_a_step_another_and_contents_do_not():
    def plan(pattern: str, lengths: tuple[int, int] = (700, 500)):
        mask = torch.arange(704) < torch.tensor(lengths)[:, None]
        return plan_batch(MODELS["hst"].pattern.changed_by(pattern), 1, (2, 704), torch.device("cpu"), mask, None, True)

    form = step_inputs(plan("block_shift=7")).form()
    assert form == step_inputs(plan("block_shift=50", (30, 704)), 3.0).form()
    others = ["block_size=32", "num_window_blocks=5", "num_random_blocks=2", "hierarchical=false", "block_shift=0"]
    forms = [form, step_inputs().form(), *(step_inputs(plan(pattern)).form() for pattern in others)]
    assert len(set(forms)) == len(forms)
    other_number = plan("block_shift=7")._replace(reach=9)
    assert step_inputs(other_number).form() != form


class Replayed(DoneAnew):
    """What a graph does: the outputs are the same tensors each time, and so is all that is read and written."""

    def __init__(self):
        self.captures = 0

    def capture(self, step):
        self.captures += 1
        outputs = None

        def replay():
            nonlocal outputs
            now = step()
            if outputs is None:
                outputs = {name: value.clone() for name, value in now.items()}
            for name, value in now.items():
                outputs[name].copy_(value)
            return outputs

        return replay


def test_inputs_outputs_and_gradients_stay_where_they_are():
    weight, unused = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))

    def step(inputs: StepInputs):
        loss = (weight * inputs.rows.sum()).sum() / inputs.num_items
        loss.backward()
        return {"loss": loss.detach()}

    own, first = Gradients([weight, unused]), step_inputs()
    state = torch.get_rng_state()
    static = StaticStep(step, first, own, Replayed())
    assert static.has_gradient == [True, False] and torch.equal(torch.get_rng_state(), state)
    # The warm-up leaves nothing.
    assert weight.grad is None and not own.flat.any()
    places = [buffer.data_ptr() for buffer in static.buffers]
    for rows, expected in (([1, 2], 3.0), ([4, 5], 9.0)):
        own.begin()
        own.attach(static.has_gradient)
        outputs = static(first._replace(rows=torch.tensor(rows), num_items=torch.tensor(1.0)))
        assert outputs["loss"].item() == 3 * expected
        assert weight.grad.tolist() == [expected] * 3 and unused.grad is None
        assert weight.grad.data_ptr() == own.flat.data_ptr()
        weight.grad = None
    assert [buffer.data_ptr() for buffer in static.buffers] == places
    # Within an update they add up, whatever is captured in between.
    own.begin()
    own.attach(static.has_gradient)
    static(first._replace(num_items=torch.tensor(1.0)))
    other = StaticStep(step, first, own, Replayed())
    own.begin()
    own.attach(other.has_gradient)
    other(first._replace(num_items=torch.tensor(1.0)))
    assert weight.grad.tolist() == [6.0] * 3


def test_outputs_that_are_overwritten_are_not_kept(tmp_path, sizes):
    rows, captures, options = rows_of("listops", 8, 70, 120), Replayed(), {"gradient_accumulation_steps": 2}
    usual = trainer_of(tmp_path / "usual", "hst-rdrop", "listops", rows, **options, logging_steps=3)
    graphed = trainer_of(tmp_path / "graphed", "hst-rdrop", "listops", rows, captures, **options, logging_steps=3)
    losses = ([], [])
    for trainer, seen in zip((usual, graphed), losses, strict=True):
        step = trainer.forward_and_backward
        trainer.forward_and_backward = lambda *inputs, step=step, seen=seen: seen.append(step(*inputs)) or seen[-1]
        trainer.train()
    assert captures.captures == len(graphed._steps) < len(losses[0]) == 12
    torch.testing.assert_close(torch.stack(losses[1]), torch.stack(losses[0]))
    assert_same_training(graphed, usual)


class NothingRead(TorchDispatchMode):
    """Only operations on the device `meta`, which has no values: whatever asks for one fails, as it would in a capture."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, output)) if isinstance(leaf, torch.Tensor)]
        assert all(tensor.device.type == "meta" for tensor in tensors), f"{func} copies from another device"
        return output


def on_meta(trainer_or_rows):
    for name, value in vars(trainer_or_rows).items():
        if isinstance(value, torch.Tensor):
            setattr(trainer_or_rows, name, value.to("meta"))
    return trainer_or_rows


CAPTURED = [name for name, model in MODELS.items() if model.not_captured is None]


@pytest.mark.parametrize("name", CAPTURED)
def test_nothing_in_a_step_waits_for_the_device(name, tmp_path, sizes):
    rows = rows_of("retrieval", 4, 20, 120)
    trainer = trainer_of(tmp_path, name, "retrieval", rows, DoneAnew())
    trainer.model.to("meta")
    on_meta(trainer.rows)
    now = StepInputs(*(torch.empty(shape, dtype=torch.long, device="meta") for shape in (4, 4, ())), None)
    if MODELS[name].saor_alpha:
        now = now._replace(second_plan=trainer._plan(MODELS[name].pattern, now.rows, 128))
    with NothingRead():
        outputs = trainer._step(trainer.model, 128, now)
    assert outputs["loss"].shape == () and (outputs["consistency_loss"] is None) == (not MODELS[name].saor_alpha)
    assert all(weight.grad is not None for name, weight in trainer.model.named_parameters() if "query" in name)


@pytest.mark.parametrize(
    "name, error, message",
    [("bigbird", AssertionError, "copies from another device"), ("longformer", RuntimeError, "item")],
)
def test_the_encoders_of_transformers_wait_for_it(name, error, message, sizes):
    model = LraClassifier(encoder_of(AutoModelForMaskedLM.from_config(build_config(name, TASKS["listops"]))), 1, 10)
    rows = on_meta(DeviceRows(rows_of("listops", 2, 1000, 1400), TASKS["listops"], 2, torch.device("cpu")))
    batch = rows.gather(torch.empty(2, dtype=torch.long, device="meta"), 1408)
    model.to("meta").train()
    with NothingRead(), pytest.raises(error, match=message):
        model(**batch)


# From the command line.


def arguments(folder: Path, *more) -> list[str]:
    words = ("--task", "text", "--model", "hst-saor", "--data-dir", folder / "data", "--output-dir", folder / "out")
    return [str(word) for word in (*words, "--cuda-graphs", "true", *more)]


def run(*words) -> int:
    return run_command(PROG, runner.main, [str(word) for word in words])


def write_texts(folder: Path):
    folder.mkdir()
    rows = "".join(f"{'a fine film ' * (n + 1)},{n % 2}\n" for n in range(10))
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("text,label\n" + rows)


def test_a_run_says_that_it_ran_so(tmp_path, monkeypatch, sizes):
    write_texts(tmp_path / "data")
    steps, trained = [], GraphedTrainer.forward_and_backward
    monkeypatch.setattr(
        GraphedTrainer, "forward_and_backward", lambda self, *words: steps.append(0) or trained(self, *words)
    )
    monkeypatch.setattr(runner, "check_graphs", lambda *args: None)
    monkeypatch.setattr(runner, "CudaGraphs", DoneAnew)
    words = ("--max-steps", 2, "--per-device-train-batch-size", 4, "--eval-patterns", "none", "--disable-tqdm", "true")
    assert run(*arguments(tmp_path, *words, "--save-steps", 2, "--eval-steps", 2)) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["cuda_graphs"] is True and results["changed"] == {"eval_steps": 2}
    assert results["batch_size"] == 4 and len(steps) == 2
    assert runner.read_arguments(["--task", "text", "--model", "hst"])[0].cuda_graphs is False


def test_what_cannot_be_captured_is_said_in_one_line_and_nothing_is_written(tmp_path, capsys):
    for more, message in (
        ((), "--cuda-graphs: it needs a CUDA device, and this training has none"),
        (("--model", "bigbird"), "--cuda-graphs: bigbird draws its random blocks on the CPU"),
        (("--model", "longformer"), "--cuda-graphs: longformer reads back from the device"),
        (("--gradient-checkpointing", "true"), "--cuda-graphs with --gradient-checkpointing True: it saves"),
        (("--train-sampling-strategy", "batch_rebalance"), "batch_rebalance: every batch has to have the same number"),
        (("--saor-every", 2), "--cuda-graphs: of regularisations it has SAOR"),
        (("--regularization", "alignment"), "--cuda-graphs: of regularisations it has SAOR"),
        (("--torch-empty-cache-steps", 5), "--torch-empty-cache-steps 5: no memory can be given back"),
    ):
        assert run(*arguments(tmp_path, *more, *("--use-cpu", "true"))) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{PROG}: error: ") and message in line
        assert list(tmp_path.iterdir()) == []


def test_several_gpus_are_refused():
    training = runner.read_arguments(["--task", "text", "--model", "hst"])[2]
    training._n_gpu = 2
    with pytest.raises(InputError, match="one process and one GPU"):
        check_graphs("hst", MODELS["hst"], training)


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize("name, task", [("hst", "text"), ("hst-saor", "retrieval"), ("flat", "listops")])
def test_captured_steps_are_the_steps(name, task, tmp_path, sizes, monkeypatch):
    monkeypatch.setitem(models.SIZES, "hidden_dropout_prob", 0.1)
    rows = rows_of(task, 14, 20, 700)
    trainers = [
        trainer_of(tmp_path / str(number), name, task, rows, captures, max_steps=12)
        for number, captures in enumerate((CudaGraphs(), DoneAnew()))
    ]
    for trainer in trainers:
        # Dropout too: a replay draws on where the last step stopped.
        set_seed(1)
        trainer.train()
    assert len(trainers[0]._steps) < 12 or name == "hst-saor"
    assert_same_training(*trainers, tolerance=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name, task", [("hst-saor", "listops"), ("hst", "retrieval"), ("flat", "image")])
def test_a_captured_training_is_the_one_without_graphs(name, task, tmp_path, sizes):
    shortest, longest = (1024, 1024) if task == "image" else (20, 900)
    rows = rows_of(task, 14, shortest, longest)
    usual = trainer_of(tmp_path / "usual", name, task, rows, max_steps=12)
    graphed = trainer_of(tmp_path / "graphed", name, task, rows, CudaGraphs(), max_steps=12)
    for trainer in (usual, graphed):
        trainer.train()
    assert_same_training(graphed, usual, tolerance=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_dropout_is_drawn_anew_in_every_replay(dropout, tmp_path, sizes, monkeypatch):
    monkeypatch.setitem(models.SIZES, "hidden_dropout_prob", dropout)
    rows = rows_of("text", 4, 600, 700)
    options = {"train_sampling_strategy": "sequential", "learning_rate": 0.0}
    trainer = trainer_of(tmp_path, "hst", "text", rows, CudaGraphs(), **options)
    trainer.train()
    assert len(trainer._steps) == 1 and len({entry[0] for entry in logs(trainer)}) == (6 if dropout else 1)


@pytest.mark.gpu
def test_a_captured_training_goes_on_as_it_would_have_gone(tmp_path, sizes, monkeypatch):
    monkeypatch.setitem(models.SIZES, "hidden_dropout_prob", 0.1)
    rows, options = rows_of("text", 14, 20, 700), {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 3}
    whole = trainer_of(tmp_path / "whole", "hst-saor", "text", rows, CudaGraphs(), **options)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", "hst-saor", "text", rows, CudaGraphs(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same_training(resumed, whole, tolerance=1e-3)


@pytest.mark.gpu
def test_mixed_precision_is_captured_too(tmp_path, sizes):
    rows = rows_of("listops", 14, 20, 900)
    trainers = [
        trainer_of(tmp_path / str(number), "hst-saor", "listops", rows, captures, bf16=True, max_steps=12)
        for number, captures in enumerate((CudaGraphs(), DoneAnew()))
    ]
    for trainer in trainers:
        trainer.train()
    assert_same_training(*trainers, tolerance=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("name, task", [("hst", "listops"), ("hst-saor", "listops"), ("hst", "text"), ("hst", "image")])
def test_updates_per_second(name, task, tmp_path):
    """Prints them, at the recipe's batch; pytest -s shows it."""
    shortest, longest = {"listops": (500, 2000), "text": (500, 4096), "image": (1024, 1024)}[task]
    batch_size = TASKS[task].recipe.batch_size
    rows, options = rows_of(task, 20 * batch_size, shortest, longest), {"per_device_train_batch_size": batch_size}
    for captures, steps in ((None, 60), (CudaGraphs(), 400)):
        options |= {"max_steps": steps, "logging_steps": 50, "block_size": models.BLOCK_SIZE}
        trainer = trainer_of(tmp_path / str(steps), name, task, rows, captures, **options)
        clock = Clock(behind=steps // 2)
        trainer.add_callback(clock)
        trainer.train()
        captured = f"graphs ({len(trainer._steps)})" if captures else "usual"
        print(f"\n{task} {name} {captured}: {clock.rate:.1f} updates/s")


class Clock(TrainerCallback):
    """The time of the updates behind the first so many, in which steps are captured."""

    def __init__(self, behind: int):
        self.behind = behind

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (self.behind, args.max_steps):
            torch.cuda.synchronize()
            now = time.perf_counter()
            if state.global_step == self.behind:
                self.began = now
            else:
                self.rate = (args.max_steps - self.behind) / (now - self.began)
