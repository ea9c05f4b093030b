# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The model card, README.md beside a model: what a stranger needs in order to load it and to judge it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

from .configuration_ernie_sparse import AUTO_MAP
from .files import whole_file

# The Hub's names of what the heads are for.
PIPELINE_TAGS = {
    "ErnieSparseForCandidateChoice": "multiple-choice",
    "ErnieSparseForMaskedLM": "fill-mask",
    "ErnieSparseForMultipleChoice": "multiple-choice",
    "ErnieSparseForQuestionAnswering": "question-answering",
    "ErnieSparseForSequenceClassification": "text-classification",
    "ErnieSparseForTokenClassification": "token-classification",
    "ErnieSparseModel": "feature-extraction",
}
# Said where nobody has named a license: the Hub's word for it.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Score:
    """A number of an evaluation, and the interval that holds it with 95 % confidence where one has been computed."""

    name: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class CardFacts:
    """
    What a card says beyond the model itself.

    Args:
        about (`str`): One or two sentences: what the model is.
        facts (`Mapping[str, object]`): Rows of a table: sizes of the data, steps, seeds.
        source (`str`, *optional*): The checkpoint it comes from, a hub id or a folder; a folder is never named.
        license (`str`, *optional*): Of the model; the source's, as far as it is known, when `None`.
        data (`str`, *optional*): The hub id of its data set.
        evaluated_on (`str`, *optional*): What `scores` are of, such as `imdb, test: 25,000 rows`.
        split (`str`): Of the data set, that they are of.
        scores (`Collection[Score]`)
        limits (`Collection[str]`): Sentences beyond those that hold for every model.
        usage (`str`): How else it runs, in Markdown.
    """

    about: str
    facts: Mapping[str, object] = field(default_factory=dict)
    source: str | None = None
    license: str | None = None
    data: str | None = None
    evaluated_on: str | None = None
    split: str = "validation"
    scores: Collection[Score] = ()
    limits: Collection[str] = ()
    usage: str = ""


def write_card(folder: Path, name: str, model: PreTrainedModel, facts: CardFacts):
    """
    Write README.md into `folder`.

    Args:
        name (`str`): What the model is loaded by: a repository's id, or the name of its folder.
    """
    base_model, license_name = _ancestry(facts.source)
    own_data, task = facts.data or "own files", PIPELINE_TAGS.get(class_name_of(model))
    results = [
        EvalResult(
            task_type=task,
            dataset_type=own_data,
            dataset_name=own_data,
            dataset_split=facts.split,
            metric_type=score.name.replace(" ", "_"),
            metric_value=round(score.value, 6),
        )
        for score in facts.scores
    ]
    data = ModelCardData(
        license=facts.license or license_name,
        library_name="transformers",
        pipeline_tag=task,
        base_model=base_model,
        datasets=None if facts.data is None else [facts.data],
        tags=["ernie_sparse", "long-document"],
        model_name=name.split("/")[-1],
        eval_results=results or None,
    )
    with whole_file(folder / "README.md") as temporary:
        ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(name, model, facts, base_model)}").save(temporary)


def class_name_of(model: PreTrainedModel) -> str:
    """The class of a model, whether or not it is sharded: FSDP2 makes one of its own of it."""
    return type(model).__name__.removeprefix("FSDP")


def _ancestry(source: str | None) -> tuple[str | None, str]:
    """The hub id of the checkpoint a model comes from, and its license, as far as it is known here."""
    if source is not None and Path(source).exists():
        # A folder's name tells others nothing; what its own card says does.
        try:
            data = ModelCard.load(Path(source) / "README.md", ignore_metadata_errors=True).data
        except Exception:  # No card, or one that is damaged: of many libraries' errors, and nothing depends on it.
            data = ModelCardData()
        base_model, license_name = (
            value if isinstance(value, str) else None for value in (data.base_model, data.license)
        )
        return base_model, license_name or UNKNOWN
    try:
        validate_repo_id(source)
    except HFValidationError:
        return None, UNKNOWN
    return source, UNKNOWN


def _text(name: str, model: PreTrainedModel, facts: CardFacts, base_model: str | None) -> str:
    config = model.config
    class_name = class_name_of(model)
    auto_class = next((auto for auto, path in AUTO_MAP.items() if path.endswith(f".{class_name}")), None)
    rows = {
        "reads": f"up to {config.max_position_embeddings:,} tokens",
        "pattern": f"`{config.pattern}`",
        "size": f"{config.num_hidden_layers} layers of width {config.hidden_size}, {model.num_parameters():,} parameters",
        **({"comes from": base_model} if base_model else {}),
        **facts.facts,
    }
    parts = [
        f"# {name.split('/')[-1]}",
        facts.about,
        "## Load it",
        "With the package ernie-sparse:",
        _loading(name, class_name, auto_class, ""),
    ]
    if auto_class:
        parts += [
            "Without it, by the code that lies beside the weights (read it first):",
            _loading(name, None, auto_class, ", trust_remote_code=True"),
        ]
    parts += [*([facts.usage] if facts.usage else []), "## What it is", _table(("", ""), rows.items())]
    if facts.scores:
        found = [(one.name, f"{one.value:.4f}", _interval(one.interval)) for one in facts.scores]
        parts += [
            "## Results",
            f"On {facts.evaluated_on}; intervals of 95 % by bootstrap over rows, of one training.",
            _table(("metric", "value", "interval"), found),
        ]
    limits = [
        f"An input of more than {config.max_position_embeddings:,} tokens is refused; cut it, or read it in windows.",
        "It knows what stood in its training text, with the errors and the bias of that.",
        *facts.limits,
    ]
    return "\n\n".join([*parts, "## Limits", "\n".join(f"- {limit}" for limit in limits)]) + "\n"


def _loading(name: str, class_name: str | None, auto_class: str | None, options: str) -> str:
    """A block of Python; of the package where the class has a name."""
    lines = [f"from transformers import {', '.join(filter(None, (auto_class, 'AutoTokenizer')))}", ""]
    if class_name:
        lines += ["import ernie_sparse" if auto_class else f"from ernie_sparse import {class_name}", ""]
    lines += [
        f'tokenizer = AutoTokenizer.from_pretrained("{name}"{options})',
        f'model = {auto_class or class_name}.from_pretrained("{name}"{options})',
    ]
    return "\n".join(["```python", *lines, "```"])


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _table(head: Collection[str], rows) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)
