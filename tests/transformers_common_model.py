# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""Our model under transformers' own common tests. Runs beside a copy of them only: see test_transformers_common.py."""

import unittest

from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from transformers.models.auto import modeling_auto

from ernie_sparse import (
    ErnieSparseConfig,
    ErnieSparseForMaskedLM,
    ErnieSparseForMultipleChoice,
    ErnieSparseForQuestionAnswering,
    ErnieSparseForSequenceClassification,
    ErnieSparseForTokenClassification,
    ErnieSparseModel,
)

MODEL_CLASSES = {
    "MODEL_MAPPING_NAMES": ErnieSparseModel,
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": ErnieSparseForMaskedLM,
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": ErnieSparseForMultipleChoice,
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": ErnieSparseForQuestionAnswering,
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": ErnieSparseForSequenceClassification,
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": ErnieSparseForTokenClassification,
}

# The common tests look classes up by name in these tables, not among the registered ones; what they miss, they skip.
for table, model_class in MODEL_CLASSES.items():
    getattr(modeling_auto, table)[ErnieSparseConfig.model_type] = model_class.__name__


class ErnieSparseModelTester:
    """What the common tests want to know of a model."""

    batch_size = 13
    seq_length = 7
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_choices = 4
    is_training = True

    def get_config(self) -> ErnieSparseConfig:
        return ErnieSparseConfig(
            vocab_size=99,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            attention_probs_dropout_prob=0.1,
            max_position_embeddings=512,
            type_vocab_size=16,
            # Two blocks at seven tokens.
            block_size=4,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[ErnieSparseConfig, dict]:
        shape = [self.batch_size, self.seq_length]
        inputs = {
            "input_ids": ids_tensor(shape, 99),
            "token_type_ids": ids_tensor(shape, 16),
            "attention_mask": random_attention_mask(shape),
        }
        return self.get_config(), inputs


class ErnieSparseModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = tuple(MODEL_CLASSES.values())

    def setUp(self):
        self.model_tester = ErnieSparseModelTester()
        self.config_tester = ConfigTester(self, config_class=ErnieSparseConfig, hidden_size=36)

    def test_config(self):
        self.config_tester.run_common_tests()
