# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What becomes of every flag of transformers: none fails late, and none is taken without a word and does something else."""

import dataclasses
import json
import os
import sys

import pytest
from distributed_training import build_dataset, build_model
from transformers import TrainingArguments

from ernie_sparse import ErnieSparseForMaskedLM, ErnieSparseForQuestionAnswering, SaorArguments, cli
from ernie_sparse.errors import InputError
from ernie_sparse.finetune import metrics
from ernie_sparse.finetune.arguments import FinetuneArguments
from ernie_sparse.finetune.runner import make_parser
from ernie_sparse.finetune.tasks import OWN_FILES, TASKS
from ernie_sparse.pretraining.runner import PretrainArguments
from ernie_sparse.trainer import SaorTrainer, check_label_smoothing
from ernie_sparse.training_arguments import REFUSED, RunArguments, check_best_metric, training_facts

# Decides the weights at the end: a run with another value does not go on with this one's checkpoints.
DECIDES = """
    per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps
    optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules gradient_accumulation_steps
    average_tokens_across_devices max_grad_norm label_smoothing_factor bf16 fp16 tf32 torch_compile torch_compile_backend
    torch_compile_mode eval_strategy eval_steps eval_delay eval_on_start load_best_model_at_end metric_for_best_model
    greater_is_better save_strategy save_steps full_determinism seed data_seed dataloader_persistent_workers
    train_sampling_strategy fsdp fsdp_config deepspeed
"""
# Works, and decides nothing of the result but, at most, its last bits or which checkpoints there are.
WORKS = """
    output_dir activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    torch_empty_cache_steps logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_on_each_node
    include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id per_device_eval_batch_size eval_accumulation_steps save_only_model
    save_on_each_node save_total_limit push_to_hub hub_token hub_private_repo hub_model_id hub_revision use_cpu
    dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_multiprocessing_context label_names
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
    skip_memory_metrics do_eval resume_from_checkpoint local_rank
"""
# A value of each that is refused.
OTHERS = {
    "hub_strategy": "every_save",
    "length_column_name": "lengths",
    "neftune_noise_alpha": 5.0,
    "include_for_metrics": ["inputs"],
    "liger_kernel_config": {"rope": True},
    "accelerator_config": {"even_batches": False},
    "parallelism_config": "tensor",
    "debug": "underflow_overflow",
}


def build(**arguments) -> RunArguments:
    return RunArguments(**{"output_dir": "out", **arguments})


def other_than(name: str):
    field = RunArguments.__dataclass_fields__[name]
    return OTHERS[name] if name in OTHERS else not field.default


def test_it_is_known_of_every_flag_what_becomes_of_it():
    decides, works = DECIDES.split(), WORKS.split()
    known = [*decides, *works, *REFUSED]
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    # transformers before 5.23 has them under their older names alone.
    later = {"activation_checkpointing", "activation_checkpointing_kwargs"}
    assert fields <= set(known) and set(known) - fields <= later and len(known) == len(set(known))
    assert set(training_facts(build(eval_strategy="epoch", load_best_model_at_end=True))) == {
        *decides,
        "world_size",
        "is_sharded",
    }


@pytest.mark.parametrize("name", REFUSED)
def test_flags_that_cannot_work_are_refused_with_the_reason(name):
    with pytest.raises(InputError, match=f"^--{name.replace('_', '-')} .*: {REFUSED[name]}$"):
        build(**{name: other_than(name)})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"eval_accumulation_steps": 0}, "--eval-accumulation-steps 0: it must be at least 1"),
        ({"save_total_limit": -1}, "--save-total-limit -1: it must be at least 1"),
        ({"max_steps": 0}, "--max-steps 0: it must be at least 1, or -1"),
        ({"max_steps": -2}, "--max-steps -2"),
        ({"save_steps": 0, "save_strategy": "steps"}, "--save-steps 0: it must be more than 0"),
        ({"logging_steps": -3}, "--logging-steps -3"),
        ({"eval_steps": -1, "eval_strategy": "steps"}, "--eval-steps -1"),
        ({"eval_delay": -1}, "--eval-delay -1"),
        ({"adam_beta1": 1.0}, "--adam-beta1 1.0: it must be less than 1"),
        ({"adam_epsilon": -1e-8}, "--adam-epsilon -1e-08"),
        ({"label_smoothing_factor": 1.5}, "--label-smoothing-factor 1.5: it must be at most 1"),
        ({"label_smoothing_factor": -0.1}, "--label-smoothing-factor -0.1"),
        ({"seed": 2**32}, "--seed 4294967296: it must be less than"),
        ({"report_to": "nowhere"}, "--report-to nowhere: installed are"),
        (
            {"dataloader_persistent_workers": True},
            "--dataloader-persistent-workers True: it needs --dataloader-num-workers",
        ),
        ({"dataloader_prefetch_factor": 0, "dataloader_num_workers": 1}, "--dataloader-prefetch-factor 0"),
        (
            {"dataloader_multiprocessing_context": "spoon", "dataloader_num_workers": 1},
            "spoon: it must be one of .*spawn",
        ),
        ({"save_strategy": "best", "eval_strategy": "no"}, "--save-strategy best: it needs an --eval-strategy"),
        ({"load_best_model_at_end": True, "eval_strategy": "no"}, "requires the save and eval strategy to match.*"),
        ({"label_names": ["start_positions"]}, "--label-names"),
        ({"fp16": True, "use_cpu": True}, "--fp16 True: it needs a GPU"),
        ({"optim_args": "eps"}, "--optim-args eps: it must be name=value"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "--lr-scheduler-type warmup_stable_decay: .*num_decay_steps"),
        ({"lr_scheduler_kwargs": {"power": 2}}, "--lr-scheduler-type linear: .*power"),
        ({"fsdp_config": "f.json"}, "--fsdp-config f.json: it needs --fsdp"),
        ({"fsdp": "full_shard"}, "--fsdp .*: it is for several processes"),
        ({"ddp_backend": "gloo"}, "--ddp-backend gloo: it is for several processes"),
        ({"torch_compile_mode": "nope"}, "--torch-compile: Unrecognized mode=nope"),
    ],
)
def test_values_with_which_a_training_would_end_are_refused(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        build(**arguments)
    assert "\n" not in str(caught.value)


FLOATS = [
    (command, field.name)
    for command, parts in (
        ("finetune", (FinetuneArguments, SaorArguments, RunArguments)),
        ("pretrain", (PretrainArguments, SaorArguments, RunArguments)),
    )
    for part in parts
    for field in dataclasses.fields(part)
    if "float" in str(field.type) and field.name not in REFUSED
]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_flag_takes_a_number_that_is_not_finite(value, capsys):
    assert {"learning_rate", "saor_alpha", "null_threshold", "mlm_probability", "save_steps"} <= {n for _, n in FLOATS}
    for command, name in FLOATS:
        words = [command, "--model", "nowhere", "--train-file", "f.csv", "--output-dir", "out"]
        assert cli.main([*words, f"--{name.replace('_', '-')}={value}"]) == 2
        expected = f"error: --{name.replace('_', '-')} {value}: it must be a finite number\n"
        assert capsys.readouterr().err.endswith(expected)


def test_the_best_checkpoint_is_chosen_by_a_metric_that_there_is():
    for name in ("loss", "eval_f1", None):
        check_best_metric(build(metric_for_best_model=name), ["f1"])
    with pytest.raises(InputError, match=r"^--metric-for-best-model f2: it must be one of loss, f1$"):
        check_best_metric(build(metric_for_best_model="f2"), ["f1"])
    assert build(save_strategy="best").metric_for_best_model == "loss"


SAMPLES = {
    "multi_label": ([[0, 1]], [[0, 1]]),
    "token_classification": ([["O"]], [["O"]]),
    "squad": (["a"], [["a"]]),
}
OF_TYPE = {"token_classification": ["token_classification"], "question_answering": ["squad"]}


@pytest.mark.parametrize("name", [*TASKS, *OWN_FILES])
def test_the_metrics_of_a_task_are_those_that_it_is_scored_by(name):
    task = OWN_FILES.get(name) or TASKS[name]
    names = task.metrics or OF_TYPE.get(task.task_type, ["accuracy"])
    results = {key for metric in names for key in metrics.METRICS[metric](*SAMPLES.get(metric, ([0, 1], [0, 1])))}
    assert task.best in results
    args = FinetuneArguments(model="m", train_file=["f.csv"])
    saor = SaorArguments(saor_alpha=0.0)
    for metric in ("loss", *results):
        args.check_training(task, saor, build(metric_for_best_model=f"eval_{metric}"))
    with pytest.raises(InputError, match="accurac: it must be one of") as caught:
        args.check_training(task, saor, build(metric_for_best_model="accurac"))
    assert set(str(caught.value).rpartition("one of ")[2].split(", ")) == {"loss", *results}


@pytest.mark.parametrize("kind", OWN_FILES)
@pytest.mark.parametrize(
    "more",
    [(), ("--class-weights", "balanced"), ("--saor-alpha", "1")],
    ids=["", "class_weights", "saor"],
)
def test_labels_are_smoothed_where_classes_exclude_each_other_and_nowhere_else(kind, more, capsys):
    words = ["finetune", "--model", "./nowhere", "--train-file", "f.csv", "--output-dir", "out", "--kind", kind]
    assert cli.main([*words, "--label-smoothing-factor", "0.1", *more]) == 2
    printed = capsys.readouterr().err
    if not more and kind in ("single_label", "token_classification"):
        assert "./nowhere" in printed
    else:
        assert "--label-smoothing-factor 0.1: " in printed or "--class-weights balanced needs classes" in printed


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ("finetune", "--task", "glue", "--label-smoothing-factor", "0.1"),
            "it is for classes that exclude each other",
        ),
        (("finetune", "--train-file", "f.csv", "--optim", "adamw_bnb_8bit"), "--optim adamw_bnb_8bit: "),
        (("finetune", "--train-file", "f.csv", "--metric-for-best-model", "f2"), "one of loss, accuracy, f1"),
        (("pretrain", "--train-file", "f.txt", "--optim", "adamw_bnb_8bit"), "--optim adamw_bnb_8bit: "),
        (("pretrain", "--train-file", "f.txt", "--metric-for-best-model", "accuracy"), "one of loss"),
        (("pretrain", "--train-file", "f.txt", "--label-smoothing-factor", "0.1"), "needs --saor-alpha 0"),
    ],
)
def test_commands_refuse_before_anything_is_looked_for(words, message, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert cli.main([*words, "--model", "./nowhere", "--output-dir", "out"]) == 2
    printed = capsys.readouterr().err
    assert message in printed and "nowhere" not in printed and printed.count("\n") == 1


def test_labels_of_masked_language_models_are_smoothed_without_saor():
    check_label_smoothing(0.1, SaorArguments(saor_alpha=0.0), ErnieSparseForMaskedLM)
    check_label_smoothing(0.0, SaorArguments(), ErnieSparseForQuestionAnswering)
    with pytest.raises(InputError, match="needs --saor-alpha 0"):
        check_label_smoothing(0.1, SaorArguments(), ErnieSparseForMaskedLM)


def test_a_token_of_the_hub_is_kept_nowhere_but_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "another")
    training = make_parser().fill({"model": "m", "train_file": ["f"], "output_dir": "out", "hub_token": "hf_secret"})[
        -1
    ]
    assert os.environ["HF_TOKEN"] == "hf_secret" and training.hub_token is None
    assert "hf_secret" not in json.dumps(training.to_dict(), default=str)
    own = {"hub_token": "hf_secret", "max_steps": 1, "save_steps": 1, "save_strategy": "steps", "eval_strategy": "no"}
    trainer = SaorTrainer(
        model=build_model("single_label"),
        args=build(output_dir=str(tmp_path), disable_tqdm=True, **own),
        train_dataset=build_dataset("single_label", 4),
    )
    trainer.train()
    trainer.save_model()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"training_args.bin", "trainer_state.json"} <= {path.name for path in files}
    assert not any(b"hf_secret" in path.read_bytes() for path in files)
