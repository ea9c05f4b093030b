# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`ernie-sparse robustness`: a model under other sparse patterns, and the cheapest that keeps its score."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers.utils import logging

from ..checkpoints import digest_of_tokenizer, load_config, load_tokenizer
from ..command_line import CommandParser, fields_of
from ..configuration_ernie_sparse import ErnieSparseConfig
from ..errors import InputError
from ..files import check_folder, read_json, whole_file, whole_folder
from ..finetune.metrics import intervals
from ..finetune.predict import digest_of_model, load_settings
from ..results import Record, contents_digest, write_json
from ..run import Run
from ..sparse_pattern import SparsePattern
from . import dial, finetuned, masked_lm, report
from .arguments import RobustnessArguments
from .measures import (
    MAP_TOKENS,
    OwnOutputs,
    PatternCalls,
    attention_map,
    dropped_attention,
    peak_memory,
    seconds_beside,
    timed_batches,
)
from .patterns import cost, default_grid, label, parse_patterns
from .subject import Subject

# What is measured of each pattern lies there, in a file each.
KEPT = "patterns"
# What a clock and the system say of a pattern; `None` where they are not asked.
CLOCKED = ("seconds_per_document", "relative_time", "peak_memory_mib", "relative_memory")


def main(argv: list[str]):
    """Run `ernie-sparse robustness` with the arguments `argv`."""
    parser = CommandParser.of_command("robustness", RobustnessArguments)
    (args,) = parser.fill(parser.given(argv))
    record = Record(parser.prog, argv)
    logging.disable_progress_bar()
    config = load_config(args.model, None)
    own = config.pattern
    if args.patterns is not None:
        parse_patterns(own, args.patterns)
    if args.save is not None:
        check_target(args.save, args.model)
    tokenizer = load_tokenizer(args.model, config)
    load = loader(args, config)
    subject = load(args, config, tokenizer, args.validation_file)
    tests = None
    if args.test_file:
        # What is wrong with it is said before anything is measured.
        tests = load(args, config, tokenizer, args.test_file, subject.model, is_test=True)
    subject.model.to(PartialState(cpu=not torch.accelerator.is_available()).device)
    longest = int(max(subject.features["length"]))
    patterns, left_out = (
        default_grid(own, longest) if args.patterns is None else (parse_patterns(own, args.patterns), {})
    )
    run = Run(record, training_like(args.output_dir), identity(args, subject, tokenizer), (*report.FILES, KEPT))
    run.checkpoint()
    try:
        run.check_data({"validation": [subject.rows, subject.features]})
        found = measure(subject, patterns, run.folder / KEPT, args, record)
        results = collect(args, subject, patterns, left_out, found)
        if args.choose:
            results["choice"] = choose(args, subject, patterns, found)
        if args.choose and results["choice"]["pattern"] is not None:
            results["choice"] |= try_out(results["choice"]["pattern"], subject, tests, args, run, tokenizer)
        report.write(run.folder, {**results, **record.facts(), "environments": environments(found)})
    finally:
        run.release()


def loader(args: RobustnessArguments, config: ErnieSparseConfig):
    """How this model is loaded with its documents."""
    if "ErnieSparseForMaskedLM" in (config.architectures or ()):
        return masked_lm.load_subject
    if args.max_length is not None:
        raise InputError(
            f"--max-length {args.max_length} is for masked language models: this one's stands in its tokenizer"
        )
    return finetuned.load_subject


def training_like(output_dir: str) -> SimpleNamespace:
    """What [`Run`] asks of a training: the same command always goes on."""
    return SimpleNamespace(
        output_dir=output_dir, resume_from_checkpoint="last", resume_incomplete=False, process_index=0
    )


def identity(args: RobustnessArguments, subject: Subject, tokenizer) -> dict:
    """What decides the measures of a pattern, beside the documents. Which patterns there are does not."""
    return {
        "command": "ernie-sparse robustness",
        "model": digest_of_model(subject.model),
        "own_pattern": str(subject.model.config.pattern),
        "tokenizer": digest_of_tokenizer(tokenizer),
        "settings": dict(subject.settings),
        "metric": subject.metric,
        **{name: getattr(args, name) for name in ("seed", "batch_size", "attention_documents", "timing", "unlabelled")},
    }


def measure(
    subject: Subject,
    patterns: list[SparsePattern],
    folder: Path,
    args: RobustnessArguments,
    record: Record,
    is_full: bool = True,
) -> dict[SparsePattern, dict]:
    """
    What is measured of every pattern, the own one first, kept in `folder` as soon as it is there.

    Args:
        is_full (`bool`): Whether attention, time and memory are measured as well.
    """
    data = contents_digest(subject.rows, subject.features)
    found = {pattern: kept(folder / f"{pattern}.json", data) for pattern in patterns}
    missing = [pattern for pattern in patterns if found[pattern] is None]
    if not missing:
        return found
    own, size = patterns[0], len(subject.features)
    outputs = OwnOutputs(subject.forward, own)
    parts = subject.batches()
    maps = attention_maps(subject, args.attention_documents) if is_full else []
    timed = [subject.inputs(numbers) for numbers in timed_batches(parts)] if is_full and args.timing else []
    longest = subject.inputs(parts[0])
    with tqdm(total=size * len(patterns), initial=size * (len(patterns) - len(missing)), unit=" documents") as bar:
        try:
            for pattern in missing:
                bar.set_description(label(own, pattern))
                calls = PatternCalls(
                    subject.forward, subject.divergence, pattern, outputs, bar.update, subject.model.device
                )
                measures = {"data": data, "answers": subject.read(calls), "mean_kl": calls.mean_kl()}
                measures["flips"] = subject.flips((found[own] or measures)["answers"], measures["answers"])
                if subject.metric is not None:
                    measures["scores"] = subject.scores(measures["answers"])
                    measures["draws"] = subject.draws(measures["answers"], args.seed)
                if is_full:
                    measures["dropped_attention"] = dropped_attention(pattern, maps) if maps else None
                    measures |= clocked(subject, pattern, own, timed, longest) if timed else dict.fromkeys(CLOCKED)
                measures["environment"] = record.environment()
                found[pattern] = measures
                write_json(folder / f"{pattern}.json", measures, is_data=True)
        except BaseException:
            done = sum(value is not None for value in found.values())
            bar.close()
            print(f"{done} of {len(patterns)} patterns are kept: the same command resumes after them", file=sys.stderr)
            raise
    return found


def kept(path: Path, data: str) -> dict | None:
    """What an earlier start has measured of a pattern on these documents, if it did."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if content.get("data") == data else None


def attention_maps(subject: Subject, count: int) -> list:
    """The attention maps of the first documents, as far as [`MAP_TOKENS`]."""
    features, columns = subject.features, subject.features.column_names
    order = np.argsort(features["document" if "document" in columns else "number"], kind="stable")
    names = [name for name in ("input_ids", "token_type_ids") if name in columns]
    documents = [features[int(number)] for number in order[:count]]
    return [
        attention_map(
            subject.model,
            {name: torch.tensor([feature[name][:MAP_TOKENS]], device=subject.model.device) for name in names},
            subject.model.config.pattern,
        )
        for feature in documents
    ]


def clocked(subject: Subject, pattern: SparsePattern, own: SparsePattern, batches: list, longest: dict) -> dict:
    """Seconds of some batches and memory of the longest one, and their ratios to those of the own pattern."""
    seconds, ratio = seconds_beside(subject.forward, pattern, own, batches)
    memory = peak_memory(subject.forward, pattern, longest)
    own_memory = memory if pattern == own else peak_memory(subject.forward, own, longest)
    relative_memory = memory / own_memory if memory and own_memory else None
    return dict(zip(CLOCKED, (seconds, ratio, memory, relative_memory), strict=True))


def collect(args, subject: Subject, patterns: list[SparsePattern], left_out: dict, found: dict) -> dict:
    """Everything for robustness.json but the choice."""
    own, config, lengths = patterns[0], subject.model.config, subject.features["length"][:]
    costs = {pattern: cost(pattern, config, lengths) for pattern in patterns}
    entries = []
    for pattern in patterns:
        measures = found[pattern]
        entry = {"name": label(own, pattern), "pattern": str(pattern)}
        if subject.metric is not None:
            score, own_score = (found[which]["scores"][subject.metric] for which in (pattern, own))
            entry |= {
                "score": score,
                "interval": intervals(measures["draws"])[subject.metric],
                "retention": 100 * score / own_score if own_score > 0 else None,
                "scores": measures["scores"],
            }
        entry |= {name: measures[name] for name in ("flips", "mean_kl", "dropped_attention")}
        entry["keys_per_query"] = costs[pattern].keys_per_query
        entry["relative_cost"] = costs[pattern].operations / costs[own].operations
        entries.append(entry | {name: measures[name] for name in CLOCKED})
    maps = min(args.attention_documents, len(subject.features))
    return {
        "model": args.model,
        "kind": subject.kind,
        "task": args.task,
        "metric": subject.metric,
        "points": subject.points,
        "documents": len(subject.rows),
        "inputs": len(subject.features),
        "longest": max(lengths),
        "mean_length": sum(lengths) / len(lengths),
        "attention": {"documents": maps, "tokens": min(MAP_TOKENS, max(lengths))},
        "own_pattern": str(own),
        "patterns": entries,
        "left_out": left_out,
        "arguments": fields_of(args),
        "settings": dict(subject.settings),
    }


def losses(subject: Subject, found: dict, own: SparsePattern) -> dict[SparsePattern, dial.Loss]:
    scores = {
        pattern: (found[pattern]["scores"][subject.metric], found[pattern]["draws"][subject.metric])
        for pattern in found
    }
    own_score, own_draws = scores[own]
    return {
        pattern: dial.loss(own_score, score, own_draws, draws, subject.points)
        for pattern, (score, draws) in scores.items()
        if pattern != own
    }


def choose(args: RobustnessArguments, subject: Subject, patterns: list[SparsePattern], found: dict) -> dict:
    """The cheapest pattern within epsilon, and what every other one loses."""
    own, lengths = patterns[0], subject.features["length"][:]
    operations = {pattern: cost(pattern, subject.model.config, lengths).operations for pattern in patterns}
    costs = {pattern: value / operations[own] for pattern, value in operations.items()}
    lost = losses(subject, {pattern: found[pattern] for pattern in patterns}, own)
    chosen = dial.choose(costs, lost, args.epsilon)
    return {
        "epsilon": args.epsilon,
        "confidence": dial.CONFIDENCE,
        "pattern": None if chosen is None else str(chosen),
        "name": None if chosen is None else label(own, chosen),
        "losses": {label(own, pattern): {**value._asdict(), "cost": costs[pattern]} for pattern, value in lost.items()},
    }


def try_out(
    chosen: str, subject: Subject, tests: Subject | None, args: RobustnessArguments, run: Run, tokenizer
) -> dict:
    """What the pattern that was chosen costs on the test set, if there is one; and the model with it, where it is to be saved."""
    made, pair = {}, [subject.model.config.pattern, SparsePattern.parse(chosen)]
    if tests is not None:
        made["test"] = compare(tests, measure(tests, pair, run.folder / "test", args, run.record, False), pair)
    if args.save is not None:
        save(Path(args.save), args.model, chosen, subject, tokenizer)
        made["saved_in"] = args.save
    return made


def compare(subject: Subject, found: dict, pair: list[SparsePattern]) -> dict:
    """What the pattern that was chosen costs on other documents."""
    own, chosen = pair
    lost = losses(subject, found, own)[chosen]
    scores = [found[pattern]["scores"][subject.metric] for pattern in pair]
    return {
        "documents": len(subject.rows),
        "own_score": scores[0],
        "score": scores[1],
        "loss": lost.points,
        "loss_at_most": lost.at_most,
        "flips": found[chosen]["flips"],
        "mean_kl": found[chosen]["mean_kl"],
    }


def environments(found: dict) -> list[dict]:
    """What the patterns were measured on: one entry, unless an earlier start ran elsewhere."""
    different = []
    for measures in found.values():
        if measures["environment"] not in different:
            different.append(measures["environment"])
    return different


def check_target(target: str, model: str):
    """Raise an [`InputError`] unless a model can be written to `target`: a new folder, an empty one, or the model's own."""
    path = Path(target)
    check_folder(path, "--save")
    if path.is_dir() and any(path.iterdir()) and path.resolve() != Path(model).resolve():
        raise InputError(f"--save {target} is not empty: name another folder, or {model} itself")


def save(target: Path, name: str, pattern: str, subject: Subject, tokenizer):
    """
    Write the model `name` into `target`, its weights as they are stored, with another pattern in its config; where it lies
    there already, the config alone.
    """
    config, parent = load_config(name, pattern), target.absolute().parent
    if target.resolve() == Path(name).resolve():
        with whole_file(target / "config.json") as temporary:
            config.validate()
            config.to_json_file(temporary)
        return
    parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(target, parent) as complete:
        type(subject.model).from_pretrained(name, config=config, dtype="auto").save_pretrained(complete)
        tokenizer.save_pretrained(complete)
        if subject.kind != masked_lm.KIND:
            load_settings(name, config, tokenizer).save(complete)
