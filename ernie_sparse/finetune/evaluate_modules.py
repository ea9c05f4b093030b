# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The metrics of `metrics.METRICS` as modules of `evaluate`, which its `combine` and evaluators take; no network."""

import evaluate
from datasets import Features, List, Value

from .metrics import METRICS, check_lists, compute

# A number goes in as a float even where it is a class: evaluate would truncate 0.7 to 0, scikit-learn refuses it.
NUMBER, STRING = Value("float64"), Value("string")
# A row of the predictions and of the references; numbers where nothing else is said.
ROWS = {
    "multi_label": (List(NUMBER), List(NUMBER)),
    "token_classification": (List(STRING), List(STRING)),
    "squad": (STRING, List(STRING)),
    "trivia_qa": (STRING, List(STRING)),
}


class FunctionMetric(evaluate.Metric):
    """The metric `METRICS[name]`."""

    def __init__(self, name: str, **kwargs):
        self.function = name
        super().__init__(**kwargs)

    @property
    def name(self) -> str:
        return self.function

    def _info(self):
        rows = dict(zip(("predictions", "references"), ROWS.get(self.name, (NUMBER, NUMBER)), strict=True))
        return evaluate.MetricInfo(
            description=METRICS[self.name].__doc__,
            citation="",
            inputs_description=", ".join(f"{column}: {row} each" for column, row in rows.items()),
            features=Features(rows),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """As evaluate has it, which would take a string apart where a list has to be."""
        columns = {"predictions": predictions, "references": references}
        check_lists(**{name: rows for name, rows in columns.items() if isinstance(self.features[name], List)})
        super().add_batch(**columns, **kwargs)

    def _compute(self, predictions, references):
        return compute([self.name], predictions, references)


def load(name: str, **kwargs) -> evaluate.Metric:
    """
    The module of a metric of `METRICS`; `kwargs` are those of `evaluate.Metric`. Rows stay in memory unless these say
    otherwise, so that two processes cannot meet in one cache file.
    """
    return FunctionMetric(name, **{"keep_in_memory": True, **kwargs})
