# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""The HST layer, what stands before it (embeddings) and the stack of layers."""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .block_plan import BlockPlan, Documents
from .configuration_ernie_sparse import ErnieSparseConfig
from .hst_attention import ALL_ATTENTION_FUNCTIONS, eager_hst_attention
from .layer_alignment import LayerAlignment


class ErnieSparseEmbeddings(nn.Module):
    """Tokens: word, position and type embeddings, as in BERT. Representatives: one learned embedding each, plus the
    position embedding of their block's first token (our choice). Where `embedding_size` is not `hidden_size`, a
    projection follows, as in ELECTRA."""

    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        width = embedding_size(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.representative_embeddings = nn.Embedding(config.num_representatives_per_block, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None

    def forward(
        self,
        input_ids: torch.LongTensor | None,
        token_type_ids: torch.LongTensor | None,
        position_ids: torch.LongTensor,
        inputs_embeds: torch.Tensor | None,
        plan: BlockPlan,
    ) -> torch.Tensor:
        """The stream, `(length, hidden_size)`, from what is given of the tokens, `(num_tokens, …)`."""
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(position_ids)
        positions = self.position_embeddings(position_ids)
        stream = self._finish(inputs_embeds + self.token_type_embeddings(token_type_ids) + positions)
        if not plan.is_hierarchical:
            return stream
        # Called like the others: what is offloaded has its weights only then.
        own = self.representative_embeddings(
            torch.arange(self.representative_embeddings.num_embeddings, device=positions.device)
        )
        representatives = positions[plan.first_tokens, None] + own
        return plan.join(stream, self._finish(representatives.flatten(0, 1)))

    def _finish(self, embeddings: torch.Tensor) -> torch.Tensor:
        embeddings = self.dropout(self.LayerNorm(embeddings))
        return embeddings if self.projection is None else self.projection(embeddings)


def embedding_size(config: ErnieSparseConfig) -> int:
    """The width of the embeddings, `hidden_size` unless the config says otherwise."""
    return config.hidden_size if config.embedding_size is None else config.embedding_size


class ErnieSparseSelfAttention(nn.Module):
    """Projections to query, key and value around the attention backend that `attn_implementation` names."""

    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        self.config = config
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.attention_head_size**-0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        states: torch.Tensor,
        plan: BlockPlan | Documents,
        alignment: LayerAlignment | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The output, the maps if there are any and, with an alignment, its loss."""
        heads = [
            projection(states).unflatten(-1, (-1, self.attention_head_size))
            for projection in (self.query, self.key, self.value)
        ]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_hst_attention)
        kwargs = {"scaling": self.scaling, "dropout": self.attention_dropout, **kwargs}
        output, maps = attention(self, *heads, plan, **kwargs)
        loss = None
        if alignment is not None:
            moved = (each.index_select(0, alignment.sources) for each in heads)
            loss = alignment.loss(output, attention(self, *moved, alignment.plan, **kwargs)[0])
        # Only step 1's maps over tokens are recorded as `attentions`.
        return output.flatten(1), None if maps is None else maps.token_to_token, loss


class ErnieSparseSelfOutput(nn.Module):
    """The output projection, and LN1 over the residual."""

    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.project(states, residual))

    def project(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """What is normalised."""
        return self.dropout(self.dense(states)) + residual


class ErnieSparseAttention(nn.Module):
    """
    HST: local attention of every position (step 1), then global attention among the representatives (step 2) with the
    same projections and a layer norm of its own. In the last layer no token could read what step 2 writes, so it has
    none: every weight of the model is trained by every head.
    """

    def __init__(self, config: ErnieSparseConfig, is_last_layer: bool):
        super().__init__()
        self.self = ErnieSparseSelfAttention(config)
        self.output = ErnieSparseSelfOutput(config)
        self.representative_LayerNorm = None
        if not is_last_layer:
            self.representative_LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        states: torch.Tensor,
        plan: BlockPlan,
        alignment: LayerAlignment | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        local, _, loss = self.self(states, plan, alignment, **kwargs)
        states = self.output(local, states)
        if self.representative_LayerNorm is None or not plan.is_hierarchical:
            return states, loss
        representatives = states.index_select(0, plan.representatives)
        summary, *_ = self.self(representatives, plan.summaries, **kwargs)
        representatives = self.representative_LayerNorm(self.output.project(summary, representatives))
        return states.index_copy(0, plan.representatives, representatives), loss


class ErnieSparseIntermediate(nn.Module):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = ACT2FN[config.hidden_act]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.intermediate_act_fn(self.dense(states))


class ErnieSparseOutput(nn.Module):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(states)) + residual)


class ErnieSparseFeedForward(nn.Module):
    """One more feed-forward block, for question answering as BigBird does it."""

    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.intermediate = ErnieSparseIntermediate(config)
        self.output = ErnieSparseOutput(config)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.output(self.intermediate(self.dropout(states)), states)


class ErnieSparseLayer(GradientCheckpointingLayer):
    """One layer, from the stream to the stream; beside it, with an alignment, the layer's loss of it, summed over tokens."""

    def __init__(self, config: ErnieSparseConfig, is_last_layer: bool):
        super().__init__()
        self.chunk_size_feed_forward = config.chunk_size_feed_forward
        self.attention = ErnieSparseAttention(config, is_last_layer)
        self.intermediate = ErnieSparseIntermediate(config)
        self.output = ErnieSparseOutput(config)

    def forward(
        self,
        states: torch.Tensor,
        plan: BlockPlan,
        alignment: LayerAlignment | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        states, loss = self.attention(states, plan, alignment, **kwargs)
        chunks = states.split(self.chunk_size_feed_forward) if self.chunk_size_feed_forward else (states,)
        outputs = [self.output(self.intermediate(chunk), chunk) for chunk in chunks]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs), loss


class ErnieSparseHiddenStates(nn.Module):
    """What `output_hidden_states` records: the tokens as the batch has them, before a layer and after it."""

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return after


class ErnieSparseEncoder(nn.Module):
    def __init__(self, config: ErnieSparseConfig):
        super().__init__()
        last = config.num_hidden_layers - 1
        self.layer = nn.ModuleList([ErnieSparseLayer(config, i == last) for i in range(config.num_hidden_layers)])
        self.hidden_states = ErnieSparseHiddenStates()

    def forward(
        self,
        states: torch.Tensor,
        plan: BlockPlan,
        is_recorded: bool,
        alignment: LayerAlignment | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        The last stream and, with an alignment, the mean of the layers' losses. Where hidden states are recorded, they lie on
        the way from layer to layer.
        """
        hidden_states, losses = None, []
        if is_recorded:
            hidden_states, states = plan.recorded(states)
        for layer in self.layer:
            states, loss = layer(states, plan, alignment, **kwargs)
            losses.append(loss)
            if is_recorded:
                after, states = plan.recorded(states)
                hidden_states = self.hidden_states(hidden_states, after)
        return states, None if alignment is None else sum(losses) / len(losses)
