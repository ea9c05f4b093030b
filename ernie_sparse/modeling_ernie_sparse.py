# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""PyTorch ERNIE-Sparse model."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

# Of a folder with code, transformers before 5.12 finds the files that this one imports, and not those that these import.
from .block_attention import block_attention  # noqa: F401
from .block_kernel import KernelTables  # noqa: F401
from .block_plan import BlockPlan, plan_batch
from .configuration_ernie_sparse import RANGES, ErnieSparseConfig, check_integer
from .head_outputs import (
    ALIGNMENT_ARGS,
    CANDIDATE_ARGS,
    CLASS_WEIGHTS_ARGS,
    DOCUMENTS_ARGS,
    HEAD_ARGS,
    PATTERN_ARGS,
    ErnieSparseHeadOutput,
    ErnieSparseModelOutput,
    ErnieSparseQuestionAnsweringOutput,
    Passes,
    Pattern,
    RegularizationKwargs,
)
from .hst_attention import eager_hst_attention  # noqa: F401
from .hst_layer import (
    ErnieSparseEmbeddings,
    ErnieSparseEncoder,
    ErnieSparseFeedForward,
    ErnieSparseHiddenStates,
    ErnieSparseSelfAttention,
    embedding_size,
)
from .input_checks import (
    BATCH,
    MASKS,
    batch_shape,
    check_candidates,
    check_choices,
    check_documents,
    check_inputs,
    check_kept,
    check_labels,
    check_number,
    check_rows,
    check_spans,
    check_tensor,
    num_documents,
    parsed_pattern,
    warn_of_missing_maps,
)
from .layer_alignment import LayerAlignment
from .saor import IGNORE_INDEX, SaorLoss, is_labelled
from .sparse_pattern import SparsePattern

# The masked-LM head's logits at a time, in training: 128 MiB of fp32. Fewer would read the vocabulary too often.
CHUNK_LOGITS = 2**25


class ErnieSparsePooler(nn.Module):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.pooler_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(hidden_states))


class ErnieSparsePredictionHeadTransform(nn.Module):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        width = embedding_size(config)
        self.dense = nn.Linear(config.hidden_size, width)
        self.transform_act_fn = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.transform_act_fn(self.dense(hidden_states)))


class ErnieSparseLMPredictionHead(nn.Module):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        self.transform = ErnieSparsePredictionHeadTransform(config)
        # Not the bias of the decoder, whose weight may be that of the word embeddings: who shards a model by its modules would have
        # to put both into one.
        self.decoder = nn.Linear(embedding_size(config), config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # In place: logits are by far the widest tensor.
        return self.decoder(self.transform(hidden_states)).add_(self.bias)


class ErnieSparseOnlyMLMHead(nn.Module):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        self.predictions = ErnieSparseLMPredictionHead(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.predictions(hidden_states)


@auto_docstring(
    custom_intro="The base class of all ERNIE-Sparse models, with transformers' methods to load, save and share them."
)
class ErnieSparsePreTrainedModel(PreTrainedModel):
    config_class = ErnieSparseConfig
    config: ErnieSparseConfig
    base_model_prefix = "ernie_sparse"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    # Whether all logits of a prediction are of classes.
    accepts_label_smoothing = True
    _supports_sdpa = True
    _no_split_modules = ["ErnieSparseEmbeddings", "ErnieSparseLayer"]
    _can_record_outputs = {"hidden_states": ErnieSparseHiddenStates, "attentions": ErnieSparseSelfAttention}

    def __init__(self, config: ErnieSparseConfig, *args, **kwargs):
        if not isinstance(config, PreTrainedConfig):
            raise TypeError(f"config={config!r:.80}: an ErnieSparseConfig is needed")
        # What was set since it was made.
        config.validate()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ErnieSparseLMPredictionHead):
            init.zeros_(module.bias)

    def get_position_embeddings(self) -> nn.Embedding:
        return self.base_model.embeddings.position_embeddings

    def resize_position_embeddings(self, new_num_position_embeddings: int):
        """
        Change how many tokens the model can read. A longer table of position embeddings repeats the present one from
        its first row on, as Longformer's was made; a shorter one is cut. `config.max_position_embeddings` is set as
        well.

        Args:
            new_num_position_embeddings (`int`): The new number of tokens, from 1 to 2**24.

        Raises:
            `ValueError`: It is not such a number.
        """
        if new_num_position_embeddings is None:
            raise ValueError("new_num_position_embeddings=None: a number is needed")
        check_integer("max_position_embeddings", new_num_position_embeddings, *RANGES["max_position_embeddings"])
        table = self.get_position_embeddings()
        rows = torch.arange(new_num_position_embeddings, device=table.weight.device) % table.num_embeddings
        table.weight = nn.Parameter(table.weight.detach()[rows], requires_grad=table.weight.requires_grad)
        table.num_embeddings = self.config.max_position_embeddings = new_num_position_embeddings

    def is_labelled(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """
        Which predictions of a batch have a label. The loss is a mean over these. Use it to count labels for
        `num_items_in_batch` when you accumulate gradients in a loop of your own.

        Args:
            batch (`Mapping[str, torch.Tensor]`): What `forward` is given, by name.

        Returns:
            `torch.BoolTensor`: One value per prediction: per token, per document or per question, as the head has
                them. `None` if the batch has no labels.
        """
        return is_labelled("categorical", batch["labels"]) if "labels" in batch else None

    def _encode(
        self,
        inputs: tuple[torch.Tensor | None, ...],
        labels,
        pattern: Pattern | None,
        consistency_pattern: Pattern | None = None,
        consistency_alpha: float = 1.0,
        consistency_temperature: float = 1.0,
        consistency_rows: torch.Tensor | None = None,
        **kwargs,
    ) -> Passes:
        """The base model's outputs of the one or, with a consistency pattern, of the two passes over `inputs`."""
        check_number("consistency_alpha", consistency_alpha, least=0)
        settings = {"alpha": consistency_alpha, "temperature": consistency_temperature}
        if consistency_pattern is None:
            return Passes([self.base_model(*inputs, pattern, return_dict=True, **kwargs)], **settings)
        if labels is None:
            raise ValueError("consistency_pattern needs labels: the two passes are compared where there is a label")
        if kwargs.get("alignment_pattern") is not None:
            raise ValueError("consistency_pattern and alignment_pattern are two regularisations: give one of them")
        size, length = batch_shape(inputs[0], inputs[-1])
        check_number("consistency_temperature", consistency_temperature, is_positive=True)
        num_rows = size
        if consistency_rows is not None:
            if kwargs.get("cu_seq_lens_q") is not None:
                raise ValueError("consistency_rows are rows of one document each, without cu_seq_lens_q")
            check_rows(consistency_rows, size)
            num_rows = consistency_rows.shape[0]
        consistency_pattern = parsed_pattern("consistency_pattern", consistency_pattern, (num_rows, length))
        outputs = [self.base_model(*inputs, pattern, return_dict=True, **kwargs)]
        if consistency_rows is not None:
            # Positions may be the same in all rows.
            inputs = [
                states if states is None or states.shape[0] != size else states.index_select(0, consistency_rows)
                for states in inputs
            ]
        outputs.append(self.base_model(*inputs, consistency_pattern, return_dict=True, **kwargs))
        return Passes(outputs, **settings, rows=consistency_rows)


@auto_docstring(
    custom_intro="The encoder without a head: hidden states of tokens and representatives, and a pooled output."
)
class ErnieSparseModel(ErnieSparsePreTrainedModel):
    def __init__(self, config: ErnieSparseConfig, add_pooling_layer: bool = True):
        r"""
        Args:
            config ([`ErnieSparseConfig`]):
                The configuration. Weights are random: `from_pretrained` loads a checkpoint.
            add_pooling_layer (`bool`, defaults to `True`):
                Whether there is a pooling layer, for `pooler_output`.
        """
        super().__init__(config)
        # Overrides of `from_pretrained` have not been checked yet.
        config.validate_pattern()
        self.gradient_checkpointing = False
        self.embeddings = ErnieSparseEmbeddings(config)
        self.encoder = ErnieSparseEncoder(config)
        self.pooler = ErnieSparsePooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value):
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring(custom_args=PATTERN_ARGS + DOCUMENTS_ARGS + ALIGNMENT_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pattern: Pattern | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        alignment_pattern: Pattern | None = None,
        num_tokens_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | ErnieSparseModelOutput:
        r"""
        Returns:
            [`ErnieSparseModelOutput`]: Hidden states and pooled output; with `return_dict=False` a `tuple` of what is
                not `None`.

        Raises:
            `ValueError`: An argument has a wrong type, dtype, shape, device or value. The message names the argument
                and says what is allowed. Among others: an empty input; a document longer than
                `max_position_embeddings`; ids out of range; an attention mask with other numbers than 0 and 1; an
                alignment pattern with representatives when `pattern` has none. On a GPU, ids out of range are a failed
                assertion on the device. A compiled or exported model does not check values.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        is_planned = isinstance(pattern, BlockPlan)
        shape, device = check_inputs(self.config, inputs, embedding_size(self.config), cu_seq_lens_q, is_planned)
        if num_tokens_in_batch is not None:
            check_number("num_tokens_in_batch", num_tokens_in_batch)
        warn_of_missing_maps(self.config, kwargs.get("output_attentions"))
        pattern = self.config.pattern if pattern is None else parsed_pattern("pattern", pattern, shape)
        if alignment_pattern is not None:
            alignment_pattern = parsed_pattern("alignment_pattern", alignment_pattern, shape)
        plan = self._plan(pattern, shape, device, attention_mask, cu_seq_lens_q)
        if cu_seq_lens_q is not None:
            check_documents(plan, self.config)
        alignment = None
        if alignment_pattern is not None:
            second = self._plan(alignment_pattern, shape, device, attention_mask, cu_seq_lens_q)
            alignment = LayerAlignment.of(plan, second)
        if inputs_embeds is not None and plan.is_real is not None:
            # Padding may hold anything, but what is not finite once it is normalised would reach real tokens, by weights of 0.
            is_lost = (attention_mask == 0) & ~inputs_embeds.float().square().sum(dim=-1).isfinite()
            inputs_embeds = inputs_embeds.masked_fill(is_lost.unsqueeze(-1), 0.0)
        position_ids = plan.token_numbers if position_ids is None else plan.take(position_ids)
        input_ids, token_type_ids, inputs_embeds = map(plan.take, (input_ids, token_type_ids, inputs_embeds))
        stream = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds, plan)
        is_recorded = kwargs.get("output_hidden_states", self.config.output_hidden_states) not in (None, False)
        stream, alignment_loss = self.encoder(stream, plan, is_recorded, alignment, **kwargs)
        if alignment_loss is not None:
            num_tokens = plan.num_tokens.sum() if num_tokens_in_batch is None else num_tokens_in_batch
            alignment_loss = alignment_loss / torch.as_tensor(num_tokens).clamp(min=1)
        is_empty = (plan.num_tokens == 0)[:, None]
        return ErnieSparseModelOutput(
            last_hidden_state=plan.give(stream),
            pooler_output=None if self.pooler is None else self.pooler(stream[plan.heads].masked_fill(is_empty, 0.0)),
            representative_hidden_state=plan.summary(stream) if plan.is_hierarchical else None,
            alignment_loss=alignment_loss,
        )

    def _plan(self, pattern: SparsePattern | BlockPlan, shape, device, attention_mask, cu_seq_lens) -> BlockPlan:
        if isinstance(pattern, BlockPlan):
            return pattern
        per_block = self.config.num_representatives_per_block
        return plan_batch(pattern, per_block, shape, device, attention_mask, cu_seq_lens)


@auto_docstring(
    custom_intro="The encoder with a masked language modeling head: scores of all tokens of the vocabulary."
)
class ErnieSparseForMaskedLM(ErnieSparsePreTrainedModel):
    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "ernie_sparse.embeddings.word_embeddings.weight",
    }

    def __init__(self, config: ErnieSparseConfig):
        super().__init__(config)
        self.ernie_sparse = ErnieSparseModel(config, add_pooling_layer=False)
        self.cls = ErnieSparseOnlyMLMHead(config)
        self.post_init()

    def get_output_embeddings(self):
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings):
        head, size = self.cls.predictions, new_embeddings.weight.shape[0]
        head.decoder = new_embeddings
        if getattr(new_embeddings, "bias", None) is not None:
            head.bias, new_embeddings.bias = new_embeddings.bias, None
        else:
            # New tokens begin with 0.
            head.bias = nn.Parameter(nn.functional.pad(head.bias.data, (0, size - len(head.bias))))

    @can_return_tuple
    @auto_docstring(custom_args=HEAD_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        pattern: Pattern | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[RegularizationKwargs],
    ) -> tuple | ErnieSparseHeadOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            The token to predict at each position; -100 for none.
        logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
            The positions for which logits are made and labels count. An `int` is the number of last positions of each
            row; 0 means all. A `torch.LongTensor` of shape `(num_kept,)` holds positions, the same for all rows. A
            `torch.BoolTensor` of shape `(batch_size, sequence_length)` is `True` at the positions to keep: `labels !=
            -100` saves the memory of all other logits. It has no effect in training with labels, where logits are made
            for labelled tokens only.

        Returns:
            [`ErnieSparseHeadOutput`]: `logits` has the shape `(batch_size, sequence_length, vocab_size)`. With
                `logits_to_keep` it is `(batch_size, num_kept, vocab_size)`, or `(num_true, vocab_size)` for a
                `torch.BoolTensor`. In training with labels it is `None`.

        Raises:
            `ValueError`: `labels` or `logits_to_keep` are not as described, or [`ErnieSparseModel.forward`] refuses
                the input.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        shape = batch_shape(input_ids, inputs_embeds)
        check_kept(logits_to_keep, shape)
        if labels is not None:
            check_labels("categorical", labels, BATCH, shape, self.config.vocab_size, num_items_in_batch)
        passes = self._encode(inputs, labels, pattern, **kwargs)
        if labels is not None and self.training:
            losses = self._training_losses(passes, labels, num_items_in_batch)
            return ErnieSparseHeadOutput(**passes.fields(losses))
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        # Of all rows alike, or of each its own.
        kept = kept if isinstance(kept, torch.Tensor) and kept.dim() == 2 else (slice(None), kept)
        logits = [self.cls(output.last_hidden_state[kept]) for output in passes.outputs]
        labels = None if labels is None else labels[kept]
        losses = passes.losses("categorical", logits, labels, num_items_in_batch)
        return ErnieSparseHeadOutput(logits=logits[0], **passes.fields(losses))

    def _training_losses(self, passes: Passes, labels: torch.Tensor, num_items) -> SaorLoss:
        """The losses alone: logits are by far the widest tensor, so there are only those of labelled tokens."""
        states = [output.last_hidden_state for output in passes.outputs]
        labels = labels.to(states[0].device)
        # How many tokens are labelled is not known to a compiler.
        if torch.compiler.is_compiling():
            return passes.losses("categorical", [self.cls(state) for state in states], labels, num_items)
        num_items = (labels != IGNORE_INDEX).sum() if num_items is None else num_items
        if passes.rows is None:
            return self._losses_by_chunks(passes, states, labels, num_items)
        # The rows of two passes and those of one, so that no logits are made twice.
        first, second, scale = states[0], states[1], len(labels) / len(passes.rows)
        is_single = torch.ones(len(labels), dtype=torch.bool, device=labels.device).index_fill_(0, passes.rows, False)
        double = passes._replace(alpha=passes.alpha * scale, rows=None)
        single = self._losses_by_chunks(double, [first[is_single]], labels[is_single], num_items).loss
        losses = self._losses_by_chunks(double, [first[passes.rows], second], labels[passes.rows], num_items)
        return SaorLoss(single + losses.loss, single + losses.task_loss, scale * losses.consistency_loss)

    def _losses_by_chunks(self, passes: Passes, states: list[torch.Tensor], labels, num_items) -> SaorLoss:
        """Of some labelled tokens at a time, whose logits are made once more in the backward pass."""

        def losses(labels: torch.Tensor, *states: torch.Tensor) -> SaorLoss:
            return passes.losses("categorical", [self.cls(state) for state in states], labels, num_items)

        is_labelled = labels != IGNORE_INDEX
        states, labels = [state[is_labelled] for state in states], labels[is_labelled]
        size = max(1, CHUNK_LOGITS // self.config.vocab_size)
        if labels.numel() <= size:
            return losses(labels, *states)
        chunks = zip(labels.split(size), *(state.split(size) for state in states), strict=True)
        parts = [checkpoint(losses, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        return SaorLoss(*(None if values[0] is None else sum(values) for values in zip(*parts, strict=True)))


@auto_docstring(
    custom_intro="The encoder with a linear layer on the pooled output: a class, labels or numbers per document."
)
class ErnieSparseForSequenceClassification(ErnieSparsePreTrainedModel):
    _distributions = {
        "regression": "gaussian",
        "single_label_classification": "categorical",
        "multi_label_classification": "bernoulli",
    }

    def __init__(self, config: ErnieSparseConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ernie_sparse = ErnieSparseModel(config)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _distribution(self, labels: torch.Tensor) -> str:
        if self.config.problem_type is not None:
            return self._distributions[self.config.problem_type]
        if self.num_labels == 1:
            return "gaussian"
        return "bernoulli" if labels.is_floating_point() else "categorical"

    def _checked(self, labels: torch.Tensor, num_rows: int, num_items, class_weights) -> tuple[str, torch.Tensor]:
        """What the logits of these labels mean, and the labels in the shape that its loss takes."""
        check_tensor("labels", labels, MASKS)
        distribution = self._distribution(labels)
        axes, shape, alike = ("batch_size", "num_labels"), (num_rows, self.num_labels), (num_rows,)
        if distribution == "categorical":
            axes, shape, alike = ("batch_size",), (num_rows,), (num_rows, 1)
        if labels.shape == alike and (distribution == "categorical" or self.num_labels == 1):
            labels = labels.view(shape)
        check_labels(distribution, labels, axes, shape, self.num_labels, num_items, class_weights)
        return distribution, labels

    def is_labelled(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        return is_labelled(self._distribution(batch["labels"]), batch["labels"]) if "labels" in batch else None

    @can_return_tuple
    @auto_docstring(custom_args=CLASS_WEIGHTS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        pattern: Pattern | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        class_weights: torch.Tensor | None = None,
        **kwargs: Unpack[RegularizationKwargs],
    ) -> tuple | ErnieSparseHeadOutput:
        r"""
        labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*):
            Classes, as integers of shape `(batch_size,)`; several labels, as numbers from 0 to 1 of shape
            `(batch_size, num_labels)`; or numbers to predict (regression), of the same shape. `config.problem_type`
            says which. If it is `None`, `num_labels == 1` means regression; otherwise floats are several labels and
            integers are classes. -100 stands for "no label", in regression NaN.

        Returns:
            [`ErnieSparseHeadOutput`]: `logits` has the shape `(batch_size, num_labels)`.

        Raises:
            `ValueError`: `labels` or `class_weights` are not as described, or [`ErnieSparseModel.forward`] refuses the
                input.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if labels is not None:
            num_rows = num_documents(pattern, batch_shape(input_ids, inputs_embeds), kwargs.get("cu_seq_lens_q"))
            distribution, labels = self._checked(labels, num_rows, num_items_in_batch, class_weights)
        passes = self._encode(inputs, labels, pattern, **kwargs)
        logits = [self.classifier(self.dropout(output.pooler_output)) for output in passes.outputs]
        losses = SaorLoss()
        if labels is not None:
            losses = passes.losses(distribution, logits, labels, num_items_in_batch, class_weights)
        return ErnieSparseHeadOutput(logits=logits[0], **passes.fields(losses))


@auto_docstring(custom_intro="The encoder with a linear layer on each token: a class per token, as for named entities.")
class ErnieSparseForTokenClassification(ErnieSparsePreTrainedModel):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ernie_sparse = ErnieSparseModel(config, add_pooling_layer=False)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring(custom_args=CLASS_WEIGHTS_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        pattern: Pattern | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        class_weights: torch.Tensor | None = None,
        **kwargs: Unpack[RegularizationKwargs],
    ) -> tuple | ErnieSparseHeadOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            The class of each token; -100 for none.

        Returns:
            [`ErnieSparseHeadOutput`]: `logits` has the shape `(batch_size, sequence_length, num_labels)`.

        Raises:
            `ValueError`: `labels` or `class_weights` are not as described, or [`ErnieSparseModel.forward`] refuses the
                input.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        if labels is not None:
            shape = batch_shape(input_ids, inputs_embeds)
            check_labels("categorical", labels, BATCH, shape, self.num_labels, num_items_in_batch, class_weights)
        passes = self._encode(inputs, labels, pattern, **kwargs)
        logits = [self.classifier(self.dropout(output.last_hidden_state)) for output in passes.outputs]
        losses = passes.losses("categorical", logits, labels, num_items_in_batch, class_weights)
        return ErnieSparseHeadOutput(logits=logits[0], **passes.fields(losses))


@auto_docstring(
    custom_intro="The encoder with a head for extractive question answering: where the answer starts and ends."
)
class ErnieSparseForQuestionAnswering(ErnieSparsePreTrainedModel):
    accepts_label_smoothing = False

    def __init__(self, config: ErnieSparseConfig):
        super().__init__(config)
        self.ernie_sparse = ErnieSparseModel(config, add_pooling_layer=False)
        self.qa_feed_forward = ErnieSparseFeedForward(config) if config.qa_feed_forward else nn.Identity()
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    @auto_docstring(custom_args=HEAD_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        start_positions: torch.LongTensor | None = None,
        end_positions: torch.LongTensor | None = None,
        pattern: Pattern | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[RegularizationKwargs],
    ) -> tuple | ErnieSparseQuestionAnsweringOutput:
        r"""
        start_positions, end_positions (`torch.LongTensor` of shape `(batch_size,)` or `(batch_size, num_mentions)`, *optional*):
            The first and the last token of the answer. If the answer is mentioned several times, give one column per
            mention: the loss is then minus the log of the probability that any of them is chosen. A position outside
            of the input or on padding counts as no label. Padding has no probability in the loss.

        Returns:
            [`ErnieSparseQuestionAnsweringOutput`]: `start_logits` and `end_logits` have the shape
                `(batch_size, sequence_length)`.

        Raises:
            `ValueError`: The positions are not as described, or [`ErnieSparseModel.forward`] refuses the input.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        batch_size, _ = batch_shape(input_ids, inputs_embeds)
        labels = check_spans(start_positions, end_positions, batch_size, num_items_in_batch)
        passes = self._encode(inputs, labels, pattern, **kwargs)
        logits = [self.qa_outputs(self.qa_feed_forward(output.last_hidden_state)) for output in passes.outputs]
        losses = SaorLoss()
        if labels is not None:
            sides = [
                self._side_losses(passes, logits, side, positions, attention_mask, num_items_in_batch)
                for side, positions in enumerate(labels)
            ]
            losses = SaorLoss(
                *(None if start is None else 0.5 * (start + end) for start, end in zip(*sides, strict=True))
            )
        start_logits, end_logits = logits[0].unbind(-1)
        return ErnieSparseQuestionAnsweringOutput(
            start_logits=start_logits, end_logits=end_logits, **passes.fields(losses)
        )

    def is_labelled(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Which questions have a label, `(batch_size,)`: those with an answer that starts on a real token."""
        if "start_positions" not in batch:
            return None
        size = batch["input_ids"].shape[-1] if "input_ids" in batch else batch["inputs_embeds"].shape[-2]
        return is_labelled("any_of", _targets(batch["start_positions"], size, batch.get("attention_mask")))

    def _side_losses(self, passes: Passes, logits, side: int, positions, attention_mask, num_items) -> SaorLoss:
        """The losses of the starts (`side` 0) or of the ends (1): a choice among the real tokens."""
        scores = [states[..., side].float() for states in logits]
        if attention_mask is not None:
            masks = zip(scores, passes.each(attention_mask), strict=True)
            scores = [score.masked_fill(mask == 0, torch.finfo(score.dtype).min) for score, mask in masks]
        targets = _targets(positions.to(scores[0].device), scores[0].shape[1], attention_mask)
        return passes.losses("any_of", scores, targets, num_items)


def _targets(positions: torch.Tensor, size: int, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """`(batch_size,)` or `(batch_size, num_mentions)` to `(batch_size, size)`: whether a real token is one of them."""
    positions = positions.unsqueeze(1) if positions.dim() == 1 else positions
    # One place more, for positions outside the input.
    positions = positions.masked_fill((positions < 0) | (positions >= size), size)
    is_target = torch.zeros(len(positions), size + 1, dtype=torch.bool, device=positions.device)
    is_target = is_target.scatter(1, positions, True)[:, :size]
    return is_target if attention_mask is None else is_target & (attention_mask != 0)


@auto_docstring(custom_intro="The encoder with a score per choice. A choice is a row, with the text it belongs to.")
class ErnieSparseForMultipleChoice(ErnieSparsePreTrainedModel):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__(config)
        self.ernie_sparse = ErnieSparseModel(config)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @can_return_tuple
    @auto_docstring(custom_args=HEAD_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        pattern: Pattern | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[RegularizationKwargs],
    ) -> tuple | ErnieSparseHeadOutput:
        r"""
        input_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`):
            Ids of the tokens, a row for each choice. Give either `input_ids` or `inputs_embeds`.
        attention_mask (`torch.Tensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            1 for real tokens and 0 for padding. All tokens are real when `None`.
        token_type_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            The types of the tokens, from 0 to `type_vocab_size - 1`; 0 when `None`.
        position_ids (`torch.LongTensor` of shape `(batch_size, num_choices, sequence_length)`, *optional*):
            The positions of the tokens. When `None`, the real tokens of each row are counted from 0.
        inputs_embeds (`torch.FloatTensor` of shape `(batch_size, num_choices, sequence_length, embedding_size)`, *optional*):
            Word embeddings instead of `input_ids`.
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The index of the right choice; -100 for none.

        Returns:
            [`ErnieSparseHeadOutput`]: `logits` has the shape `(batch_size, num_choices)`.

        Raises:
            `ValueError`: `labels` or inputs are not as described, or [`ErnieSparseModel.forward`] refuses the input.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        batch_size, num_choices, _ = check_choices(inputs)
        if labels is not None:
            check_labels("categorical", labels, BATCH[:1], (batch_size,), num_choices, num_items_in_batch)
        inputs = tuple(None if states is None else states.flatten(0, 1) for states in inputs)
        rows = kwargs.pop("consistency_rows", None)
        choices = None
        if rows is not None:
            check_rows(rows, batch_size)
            choices = (rows[:, None] * num_choices + torch.arange(num_choices, device=rows.device)).flatten()
        passes = self._encode(inputs, labels, pattern, consistency_rows=choices, **kwargs)._replace(rows=rows)
        logits = [
            self.classifier(self.dropout(output.pooler_output)).view(-1, num_choices) for output in passes.outputs
        ]
        losses = passes.losses("categorical", logits, labels, num_items_in_batch)
        return ErnieSparseHeadOutput(logits=logits[0], **passes.fields(losses))


@auto_docstring(
    custom_intro="""
    The encoder with one score per candidate, for candidates that are part of the input, as in WikiHop. Each candidate
    has a marker token, and its score is computed from the hidden state there. So one row, read once, can hold any
    number of candidates.
    """
)
class ErnieSparseForCandidateChoice(ErnieSparsePreTrainedModel):
    accepts_label_smoothing = False

    def __init__(self, config: ErnieSparseConfig):
        super().__init__(config)
        self.ernie_sparse = ErnieSparseModel(config, add_pooling_layer=False)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @can_return_tuple
    @auto_docstring(custom_args=CANDIDATE_ARGS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        candidate_positions: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        pattern: Pattern | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[RegularizationKwargs],
    ) -> tuple | ErnieSparseHeadOutput:
        r"""
        labels (`torch.LongTensor` of shape `(batch_size,)`, *optional*):
            The index of the right candidate; -100 for none.

        Returns:
            [`ErnieSparseHeadOutput`]: `logits` has the shape `(batch_size, num_candidates)`.

        Raises:
            `ValueError`: `candidate_positions` is missing or beyond the end of the input, `labels` are not as
                described, or [`ErnieSparseModel.forward`] refuses the input.
        """
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        check_candidates(candidate_positions, labels, batch_shape(input_ids, inputs_embeds), num_items_in_batch)
        passes = self._encode(inputs, labels, pattern, **kwargs)
        positions = passes.each(candidate_positions)
        logits = [self._scores(*each) for each in zip(passes.outputs, positions, strict=True)]
        losses = passes.losses("categorical", logits, labels, num_items_in_batch)
        return ErnieSparseHeadOutput(logits=logits[0], **passes.fields(losses))

    def _scores(self, output: ErnieSparseModelOutput, positions: torch.Tensor) -> torch.Tensor:
        states = output.last_hidden_state
        positions = positions.to(states.device)
        index = positions.clamp(min=0)[:, :, None].expand(-1, -1, states.shape[2])
        scores = self.classifier(self.dropout(states.gather(1, index))).squeeze(-1)
        return scores.masked_fill(positions < 0, torch.finfo(scores.dtype).min)


def _classifier_dropout(config: ErnieSparseConfig) -> nn.Dropout:
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


__all__ = [
    "ErnieSparseForCandidateChoice",
    "ErnieSparseForMaskedLM",
    "ErnieSparseForMultipleChoice",
    "ErnieSparseForQuestionAnswering",
    "ErnieSparseForSequenceClassification",
    "ErnieSparseForTokenClassification",
    "ErnieSparseModel",
    "ErnieSparsePreTrainedModel",
]
