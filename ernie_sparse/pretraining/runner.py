# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse pretrain`: masked-LM pretraining with SAOR on any corpus, from files or a hub data set."""

from collections.abc import Mapping
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.utils import logging

from ..checkpoints import check_memory, load_config, load_model, load_tokenizer, set_pattern
from ..command_line import CommandParser, fields_of
from ..configuration_ernie_sparse import ErnieSparseConfig
from ..errors import InputError, input_errors
from ..modeling_ernie_sparse import ErnieSparseForMaskedLM
from ..results import Record, digest
from ..run import Run
from ..tables import load_hub_rows
from ..trainer import SaorArguments, check_label_smoothing, check_optimizer
from ..training_arguments import RunArguments, check_best_metric, training_facts
from .arguments import PretrainArguments, parse_config
from .corpus import Corpus, parts_of_files, parts_of_rows
from .documents import Reading
from .masking import MaskAnew, Masking, MaskingCollator, mask_once
from .packing import Packer
from .report import finish
from .rows import RowStream, identity_of, written_rows
from .tokenizer import tokenizer_of_all_processes
from .trainer import PretrainTrainer, place_file

# Rows that stream have no epochs.
BY_STEPS = {"eval_strategy": "steps", "save_strategy": "steps"}


def build_config(args: PretrainArguments) -> ErnieSparseConfig:
    """The config of the model to train, but for what its tokenizer decides."""
    if args.model is not None:
        return load_config(args.model, args.pattern)
    values = parse_config(args.config)
    if args.max_length is not None:
        values.setdefault("max_position_embeddings", args.max_length)
    with input_errors(about="--config"):
        config = ErnieSparseConfig(**values)
    set_pattern(config, args.pattern)
    return config


def build_model(args: PretrainArguments, config: ErnieSparseConfig, tokenizer) -> ErnieSparseForMaskedLM:
    """The checkpoint's model, or a new one for the tokenizer's vocabulary."""
    if args.model is not None:
        return load_model(ErnieSparseForMaskedLM, args.model, config, new_head=True)
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    with input_errors(about="--config"):
        check_memory(ErnieSparseForMaskedLM, config, "--config")
        return ErnieSparseForMaskedLM(config)


def build_corpora(args: PretrainArguments, max_length: int, seed: int) -> dict[str, Corpus]:
    """What is trained on and, where it is a corpus of its own, what is evaluated on."""
    reading = Reading.for_rows_of(max_length, args.text_column, args.sample_by, args.skip_bad_rows)
    if args.dataset is None:
        parts = {"train": parts_of_files(args.train_file, args.train_weights)}
        if args.validation_file:
            parts["validation"] = parts_of_files(args.validation_file)
    else:
        splits = load_hub_rows(args.dataset, args.dataset_config, args.streaming)
        parts = {split: parts_of_rows(f"{args.dataset} {split}", rows) for split, rows in splits.items()}
        if "train" not in parts:
            raise InputError(f"--dataset {args.dataset} has no split train: only {', '.join(parts)}")
    found = {split: Corpus(parts[split], reading, seed) for split in ("train", "validation") if split in parts}
    if args.streaming and "validation" not in found:
        found["train"], found["validation"] = found["train"].held_out(args.validation_fraction)
    return found


def build_tokenizer(
    args: PretrainArguments,
    config: ErnieSparseConfig,
    corpus: Corpus,
    max_length: int,
    is_main_process: bool,
) -> PreTrainedTokenizerBase:
    """The model's tokenizer, another one, or one that is trained on the training text."""
    if args.train_tokenizer is None:
        return load_tokenizer(args.tokenizer or args.model, config if args.model else None)
    return tokenizer_of_all_processes(corpus.documents(), args.train_tokenizer, max_length, is_main_process)


class Rows(NamedTuple):
    """
    What is trained and evaluated on.

    Args:
        train (`Dataset` or [`RowStream`])
        validation (`Dataset`): Under one fixed masking.
        accounts (`dict`): Of what was written, by split.
    """

    train: Dataset | RowStream
    validation: Dataset
    accounts: dict


def build_rows(
    args: PretrainArguments, found: Mapping[str, Corpus], packer: Packer, masking: Masking, training: RunArguments
) -> Rows:
    accounts = {}

    def written(split: str) -> Dataset:
        rows, accounts[split] = written_rows(found[split], packer)
        return rows

    if args.streaming:
        rows = RowStream(found["train"], packer, training.process_index, training.world_size)
        validation = written("validation")
    elif "validation" in found:
        rows, validation = written("train"), written("validation")
    else:
        rows = written("train")
        if len(rows) < 2:
            raise InputError(
                f"the text fills {len(rows)} row(s) of {packer.max_length} tokens: too few to train and validate"
            )
        size = max(1, round(len(rows) * args.validation_fraction))
        split = rows.train_test_split(test_size=size, seed=training.seed)
        rows, validation = split["train"], split["test"]
    return Rows(rows, mask_once(validation, masking), accounts)


def main(argv: list[str]):
    """Run `ernie-sparse pretrain` with the arguments `argv`."""
    # Of bars that last a moment: of every checkpoint that is read or written.
    logging.disable_progress_bar()
    parser = CommandParser.of_command("pretrain", PretrainArguments, SaorArguments, RunArguments)
    given = parser.given(argv)
    args, saor, training = parser.fill(given, BY_STEPS if given.get("streaming") else None)
    training.prediction_loss_only = True
    training.include_num_input_tokens_seen = "non_padding"
    check_best_metric(training)
    check_optimizer(training)
    check_label_smoothing(training.label_smoothing_factor, saor, ErnieSparseForMaskedLM)
    check_streaming(args, saor, training)
    facts = {**fields_of(args, saor), **training_facts(training)}
    config = build_config(args)
    # What stands in for flags that are not given, so that a run is the same one where they are spelt out.
    resolved = {
        "tokenizer": args.tokenizer or args.model,
        "pattern": str(config.pattern),
        "max_length": args.max_length or config.max_position_embeddings,
    }
    if args.streaming:
        # They share the documents.
        resolved["dataloader_num_workers"] = training.dataloader_num_workers
    places = [place_file(process) for process in range(training.world_size)] if args.streaming else []
    run = Run(Record(parser.prog, argv), training, facts | resolved, checkpoint_files=places)
    checkpoint = run.checkpoint()
    try:
        pretrain(args, config, saor, training, run, facts, checkpoint)
    finally:
        run.release()


def check_streaming(args: PretrainArguments, saor: SaorArguments, training: RunArguments):
    """Raise an [`InputError`] where rows that stream or hold several documents cannot be trained on so."""
    if args.streaming and training.max_steps < 1:
        raise InputError("--streaming true needs --max-steps: how many rows there are is not known")
    if args.streaming and "epoch" in (training.eval_strategy, training.save_strategy):
        raise InputError("--streaming true has no epochs: --eval-strategy and --save-strategy are steps or no")
    if args.packing == "documents":
        for flag, is_wrong in (
            ("--saor-share", saor.saor_share < 1),
            ("--torch-compile", training.torch_compile),
            ("several GPUs in one process (use torchrun)", training.n_gpu > 1),
        ):
            if is_wrong:
                raise InputError(
                    f"--packing documents has all rows of a batch in one: {flag} needs --packing concatenate"
                )


def pretrain(
    args: PretrainArguments,
    config: ErnieSparseConfig,
    saor: SaorArguments,
    training: RunArguments,
    run: Run,
    facts: dict,
    checkpoint: str | None,
):
    """One run: read and pack the text, train, evaluate, leave model, results and picture in its folder."""
    set_seed(training.seed)
    max_length = args.max_length or config.max_position_embeddings
    if max_length > config.max_position_embeddings:
        raise InputError(
            f"--max-length {max_length} is more than max_position_embeddings={config.max_position_embeddings}"
        )
    seed = training.seed if training.data_seed is None else training.data_seed
    with training.main_process_first(desc="finding the text"):
        # The order of what is written is that of the sampler.
        found = build_corpora(args, max_length, seed if args.streaming else 0)
    if checkpoint is not None:
        tokenizer = load_tokenizer(checkpoint)
    else:
        tokenizer = build_tokenizer(args, config, found["train"], max_length, training.process_index == 0)
    # Of what was read for it.
    found["train"].skipped.clear()
    masking = Masking(tokenizer, args.mlm_probability, args.masking, training.seed)
    packer = Packer(tokenizer, max_length, args.packing, masking.needs_words)
    with training.main_process_first(desc="reading and packing the text"):
        rows = build_rows(args, found, packer, masking, training)
    run.check_data(digests_of(rows, found["train"], packer))
    if run.finished_results() is not None:
        return
    model = build_model(args, config, tokenizer)
    collator = MaskingCollator(masking, is_flat=args.packing == "documents")
    with input_errors():
        trainer = PretrainTrainer(
            model=model,
            args=training,
            saor=saor,
            train_dataset=rows.train,
            eval_dataset=rows.validation,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[MaskAnew(collator)],
            checkpoint=checkpoint,
        )
    said = [
        ("training rows", "as they stream" if args.streaming else f"{len(rows.train):,} of {max_length:,} tokens"),
        ("validation rows", f"{len(rows.validation):,}"),
        ("vocabulary", f"{len(tokenizer):,} tokens"),
        ("pattern", config.pattern),
    ]
    run.train(trainer, checkpoint, said)
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        finish(args, training, run, facts, rows.accounts, trainer, metrics)


def digests_of(rows: Rows, corpus: Corpus, packer: Packer) -> dict[str, str]:
    """What the rows are, by split: by their contents or, where they stream, by the files they come from."""
    found = {split: account["digest"] for split, account in rows.accounts.items()}
    return found if "train" in found else {"train": digest(identity_of(corpus, packer)), **found}
