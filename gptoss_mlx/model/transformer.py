"""The gpt-oss transformer, in dependency order: attention, block, transformer.

Shapes: B batch, L new positions, N = B · L rows, H hidden, A query heads, K key-value heads, D head dim,
W sliding window, V vocabulary.

One decoded token should cost few kernels: on a GPU their launches, not their arithmetic, are what is left to
win. So q, k and v are one product and one rotation, biases are added by ``addmm``, one gather fetches both
biases of an expert, and the end of a block is one compiled kernel that also adds the next layer's output bias.
A block works on rows, [N, H]: only attention looks at batch and position, and on a CPU each view costs time too.

It should cost little Python too. For one token the parts of a block before and after its attention always have the
same shapes, so they are compiled, and replayed instead of built anew.

On a CPU nothing is compiled. There the time of a small model is that of its operations, and MLX composes each of
``mx.fast`` out of many: rotation, norm, attention of one token and mixture are written in fewer.

Several machines compute one model where :class:`Peers` is given. A, K and I are then those of the machine's share,
and the machines add up the embedding and the outputs of attention and experts (tensor); or each has a few of the
layers, and sends its output to the next one (pipeline).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mlx.core as mx
from mlx.nn.layers.base import Module

from ..cache.batch import BatchCache, BatchLayer
from ..cache.layered import PromptCache
from ..cache.layers import LayerCache, SlidingKVCache
from ..cache.quantized import QuantizedStates
from ..checkpoint.adapter import Adapter, read_adapter
from ..checkpoint.tensors import open_model
from ..config import ModelConfig
from ..errors import CheckpointError
from ..share import whole
from .attention import banded_attention, one_query_attention, quantized_attention, sliding_mask
from .experts import MoE
from .layers import Dense, Embedding, RMSNorm
from .peers import Peers, Total
from .rope import Angles, Rotary, yarn_concentration
from .weights import load_weights

__all__ = ["Transformer", "load_transformer"]


class Attention(Module):
    """Grouped-query attention with rotary positions and one learned sink logit a query head."""

    def __init__(
        self, config: ModelConfig, name: str, rotary: Rotary, compiled: bool, total: Total | None = None
    ) -> None:
        super().__init__()
        self._compiled, self._total = compiled, total
        queries, keys, H = config.query_size, config.key_value_size, config.hidden_size
        qkv, output = config.form(f"{name}.qkv_proj"), config.form(f"{name}.o_proj")
        self.qkv_proj = Dense(queries + 2 * keys, H, bias=True, quantization=qkv)
        self.o_proj = Dense(H, queries, bias=True, quantization=output)
        self.sinks = mx.zeros((config.num_attention_heads,))
        self._query_heads = config.num_attention_heads
        self._key_heads = config.num_key_value_heads
        self._head_dim = config.head_dim
        self._window = config.sliding_window
        self._rotary = rotary
        # YaRN's concentration multiplies queries and keys: squared, it is a factor of the scores.
        self._scale = config.head_dim**-0.5 * yarn_concentration(config.rope) ** 2

    def project(self, x: mx.array, angles: Angles, batch: int) -> tuple[mx.array, mx.array, mx.array]:
        """Queries, keys and values of new positions, the first two rotated.

        Args:
            x: [N, H], normed.
            angles: of their positions.
            batch: B.

        Returns:
            [B, A, L, D] and twice [B, K, L, D].
        """
        A, K, D = self._query_heads, self._key_heads, self._head_dim
        heads = self.qkv_proj(x).reshape(batch, -1, A + 2 * K, D).swapaxes(1, 2)  # [B, A + 2K, L, D]
        queries_and_keys, values = mx.split(heads, [A + K], axis=1)
        queries, keys = mx.split(self._rotary(queries_and_keys, angles), [A], axis=1)
        return queries, keys, values

    def attend(
        self,
        queries: mx.array,
        new_keys: mx.array,
        new_values: mx.array,
        cache: LayerCache | BatchLayer,
        mask: mx.array | None,
    ) -> mx.array:
        """Adds the new positions to the cache and attends to all of it.

        Args:
            queries, new_keys, new_values: from :meth:`project`.
            cache: this layer's.
            mask: for sliding layers with L > 1.

        Returns:
            [B, A, L, D].
        """
        if not isinstance(cache, BatchLayer):
            keys, values = cache.append(new_keys, new_values)
            return self._attention(queries, keys, values, mask)
        parts = cache.append(new_keys, new_values)
        return cache.in_order(
            [
                self._attention(
                    queries if part.rows is None else queries[part.rows], part.keys, part.values, part.mask
                )
                for part in parts
            ]
        )

    def _attention(
        self,
        queries: mx.array,
        keys: mx.array | QuantizedStates,
        values: mx.array | QuantizedStates,
        mask: mx.array | None,
    ) -> mx.array:
        """Queries [B, A, L, D] over keys and values of S positions -> [B, A, L, D]."""
        if isinstance(keys, QuantizedStates):
            assert isinstance(values, QuantizedStates)
            return quantized_attention(queries, keys, values, scale=self._scale, sinks=self.sinks, mask=mask)
        assert isinstance(values, mx.array)
        if queries.shape[2] == 1 and not self._compiled:
            return one_query_attention(queries, keys, values, scale=self._scale, sinks=self.sinks, mask=mask)
        if mask is not None and mask.ndim == 4 and queries.shape[2] > 1:
            return banded_attention(
                queries, keys, values, window=self._window, scale=self._scale, mask=mask, sinks=self.sinks
            )
        return mx.fast.scaled_dot_product_attention(
            queries,
            keys,
            values,
            scale=self._scale,
            # With "causal" the kernel skips whole blocks of keys; with an array it never does.
            mask=mask if mask is not None else "causal" if queries.shape[2] > 1 else None,
            sinks=self.sinks,
        )

    def output(self, attended: mx.array, addend: mx.array) -> mx.array:
        """The heads joined and projected, plus ``addend``: the residual with the output bias already in it.

        Args:
            attended: [B, A, L, D].
            addend: [N, H].

        Returns:
            [N, H].
        """
        heads = attended.swapaxes(1, 2).reshape(addend.shape[0], -1)
        if self._total is None:
            return self.o_proj(heads, addend)
        return addend + self._total(self.o_proj.product(heads))


class TransformerBlock(Module):
    """Attention, then the mixture of experts, each on a normed input and added to the residual."""

    def __init__(
        self, config: ModelConfig, name: str, rotary: Rotary, compiled: bool, total: Total | None = None
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config, compiled)
        self.self_attn = Attention(config, f"{name}.self_attn", rotary, compiled, total)
        self.post_attention_layernorm = RMSNorm(config, compiled)
        self.mlp = MoE(config, f"{name}.mlp", compiled, total)

    @property
    def output_bias(self) -> mx.array:
        """[H], of the attention. The block before adds it, so that the output product need not."""
        return self.self_attn.o_proj.bias

    def enter(self, x: mx.array, angles: Angles, batch: int) -> tuple[mx.array, mx.array, mx.array]:
        """The part before the attention: see :meth:`Attention.project`; x is [N, H]."""
        return self.self_attn.project(self.input_layernorm(x), angles, batch)

    def leave(
        self, attended: mx.array, x_with_bias: mx.array, next_bias: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """The part after the attention.

        Args:
            attended: [B, A, L, D], from :meth:`Attention.attend`.
            x_with_bias: [N, H], the block's input with this layer's output bias.
            next_bias: see :class:`MoE`.

        Returns:
            The next block's input, and the same with ``next_bias`` in it: [N, H] each.
        """
        x = self.self_attn.output(attended, x_with_bias)
        return self.mlp(self.post_attention_layernorm(x), x, next_bias)


class Transformer(Module):
    """gpt-oss, from token ids to logits. Works for any config: 20b, 120b, or the demo's.

    Args:
        config: its shape.
        compiled: whether MLX compiles what it can fuse. The results are the same to rounding.
        peers: the other machines that compute it, and this one's share; by default all of it is here.
    """

    def __init__(self, config: ModelConfig, *, compiled: bool = True, peers: Peers | None = None) -> None:
        super().__init__()
        self._rotary = rotary = Rotary(config, compiled)
        self.config = config
        self._peers = peers
        self._share = share = whole(config) if peers is None else peers.share
        total = peers.total if peers is not None and share.split == "tensor" else None
        if share.embedding:
            self.embed_tokens = Embedding(config, len(share.embedding))
        self.layers = [
            TransformerBlock(share.config(config, layer), f"layers.{layer}", rotary, compiled, total)
            for layer in share.layers
        ]
        if share.head:
            self.norm = RMSNorm(config, compiled)
            head = config.form("lm_head")
            self.lm_head = Dense(len(share.head), config.hidden_size, bias=False, quantization=head)
        self._parts = [(block.enter, block.leave) for block in self.layers]
        self._parts_for_one_token = self._parts
        if compiled:
            # Replayed for each number of rows that decode together.
            self._parts_for_one_token = [(mx.compile(enter), mx.compile(leave)) for enter, leave in self._parts]

    def __call__(
        self, tokens: mx.array, cache: PromptCache | BatchCache | None = None, *, last_only: bool = False
    ) -> mx.array:
        """The logits of the next token after each position.

        Args:
            tokens: [B, L], ids; of a batch [B, 1].
            cache: holds the positions before them; they are added to it. By default they begin a prompt.
            last_only: only the last position's logits, [B, 1, V]: over the vocabulary the others are costly.

        Returns:
            [B, L, V], in the model's dtype; of several machines each returns the columns that its share has of
            the head, or -inf [B, L, 1] if it has none.
        """
        B, L = tokens.shape
        cache = cache if cache is not None else self.make_cache()
        for x in self.layer_outputs(tokens, cache):  # noqa: B007  (the last one is used)
            pass
        if last_only:
            x, L = x.reshape(B, L, -1)[:, -1], 1
        if not self._share.head:
            none: mx.array = mx.depends(mx.full((B, L, 1), -mx.inf, x.dtype), x)
            return none
        return self.lm_head.product(self.norm(x)).reshape(B, L, -1)

    def layer_outputs(self, tokens: mx.array, cache: PromptCache | BatchCache) -> Iterator[mx.array]:
        """The output of one layer after the other, not evaluated.

        Args:
            tokens: [B, L], ids.
            cache: the positions before them; each layer's part grows when that layer is computed.

        Returns:
            [B * L, H] for each layer of this machine; the last one is also sent, where ``sends``.
        """
        B, L = tokens.shape
        parts = self._parts_for_one_token if L == 1 else self._parts
        if isinstance(cache, BatchCache):
            mask, offset = None, cache.prepare()
        else:
            mask, offset = self._sliding_mask(cache, L), mx.array(cache.offset)
        angles = self._rotary.angles(offset, L)
        output_biases = [layer.output_bias for layer in self.layers]
        x = self._input(tokens.reshape(B * L))  # [N, H]
        x_with_bias = x + output_biases[0]
        for (enter, leave), layer, layer_cache, next_bias in zip(
            parts, self.layers, cache.layers, (*output_biases[1:], None), strict=True
        ):
            layer_mask = mask if isinstance(layer_cache, SlidingKVCache) else None
            attended = layer.self_attn.attend(*enter(x, angles, B), layer_cache, layer_mask)
            x, x_with_bias = leave(attended, x_with_bias, next_bias)
            if next_bias is None and self._peers is not None and self.sends:
                x = self._peers.sent(x)
            if next_bias is None and isinstance(cache, BatchCache):
                cache.advance()
            yield x

    @property
    def sends(self) -> bool:
        """Whether the output of the last layer here goes to another machine."""
        return not self._share.last(self.config)

    def _input(self, tokens: mx.array) -> mx.array:
        """[N] -> [N, H]: the rows of the embedding, or what the layers before have computed."""
        rows, peers, dtype = self._share.embedding, self._peers, self.layers[0].input_layernorm.weight.dtype
        if peers is None or len(rows) == self.config.vocab_size:
            # MLX dequantises modes without biases to bfloat16, which holds their values.
            return self.embed_tokens.rows(tokens).astype(dtype)
        if not rows:
            return peers.received((tokens.size, self.config.hidden_size), dtype)
        here = (tokens >= rows.start) & (tokens < rows.stop)
        found = self.embed_tokens.rows(mx.where(here, tokens - rows.start, 0)).astype(dtype)
        return peers.total(mx.where(here[:, None], found, mx.array(0, found.dtype)))

    def hidden_states(self, tokens: mx.array | Sequence[int]) -> list[mx.array]:
        """The residual stream before the first layer and after each, for probes and comparisons. They are
        transformers' ``hidden_states``, but for the last one, to which transformers applies the final norm.

        Args:
            tokens: [B, L] or [L], ids from the beginning of a prompt.

        Returns:
            1 + ``num_hidden_layers`` arrays [B, L, H] in the model's dtype, not evaluated.

        Example:
            >>> states = model.transformer.hidden_states(model.tokenizer.encode("2+3"))
            >>> len(states) == 1 + model.config.num_hidden_layers, states[-1].shape[-1] == model.config.hidden_size
            (True, True)
        """
        ids = tokens if isinstance(tokens, mx.array) else mx.array(list(tokens))
        ids = ids[None] if ids.ndim == 1 else ids
        B, L = ids.shape
        outputs = [self._input(ids.reshape(B * L)), *self.layer_outputs(ids, self.make_cache())]
        return [output.reshape(B, L, -1) for output in outputs]

    def make_cache(self) -> PromptCache:
        """An empty cache for this model."""
        return PromptCache(self._share.config(self.config))

    def _sliding_mask(self, cache: PromptCache, length: int) -> mx.array | None:
        """One mask for all sliding layers; a single token needs none: its ring is its window."""
        window = self.config.sliding_window
        if length == 1:
            return None
        return sliding_mask(window, min(cache.offset, window), length)


def load_transformer(
    directory: str | Path,
    dtype: mx.Dtype = mx.bfloat16,
    *,
    adapter: str | Path | None = None,
    compiled: bool | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    peers: Peers | None = None,
) -> Transformer:
    """The model of a checkpoint directory, every weight evaluated.

    Args:
        directory: as OpenAI released it, as ``gptoss convert`` writes it or as mlx-lm does.
        dtype: bfloat16, or float32 for comparisons and on a CPU. float16 overflows in the deep layers.
        adapter: the directory of a LoRA adapter of attention and routers, which is applied.
        compiled: see :class:`Transformer`; by default on a GPU only. On a CPU MLX calls the system's C++ compiler
            for every fused kernel: seconds before the first token, and an error where there is no compiler.
        cancelled: is asked before each parameter is read.
        peers: see :class:`Transformer`; only this machine's share is read.

    Raises:
        CheckpointError: checkpoint or adapter cannot be read or trusted, or the adapter changes experts.
        ModelClosed: it was cancelled.
    """
    model = open_model(directory)
    compiled = mx.default_device() != mx.cpu if compiled is None else compiled
    transformer = Transformer(model.config, compiled=compiled, peers=peers)
    weights = load_weights(model, dtype, cancelled, None if peers is None else peers.share)
    transformer.load_weights(list(weights.items()), strict=True)
    if adapter is not None:
        _apply(transformer, read_adapter(adapter, model.config), dtype, directory)
    transformer.eval()
    return transformer


def _apply(transformer: Transformer, adapter: Adapter, dtype: mx.Dtype, base: str | Path) -> None:
    """Adds an adapter's factors to the layers that it changes."""
    if adapter.changes_experts:
        command = shlex.join(["gptoss", "convert", str(base), "--adapter", str(adapter.directory)])
        raise CheckpointError(
            f"{adapter.directory}: changes experts, so it cannot be applied; merge it: {command}"
        )
    layers = dict(transformer.named_modules())
    for name, factors in adapter.factors.items():
        down, up = mx.array(factors.down).astype(dtype), mx.array(factors.up).astype(dtype)
        mx.eval(down, up)
        layers[name.removesuffix(".weight")].adapt(down, up)
