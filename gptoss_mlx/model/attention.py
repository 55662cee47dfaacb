"""Attention for which MLX has no kernel: over a sliding window, over 8-bit keys and values, and on a CPU.

B batch, L new positions, S all positions, A query heads, K key-value heads, D head dim.
"""

from __future__ import annotations

import mlx.core as mx

from ..cache.quantized import KV_BITS, QuantizedStates

__all__ = ["banded_attention", "one_query_attention", "quantized_attention", "sliding_mask"]


def sliding_mask(window: int, before: int, length: int) -> mx.array:
    """The mask of a sliding layer: a query attends to its own position and the window − 1 before it.

    Up to ``window`` new positions share one mask over all keys. More of them are cut into bands
    (see :func:`banded_attention`).

    Args:
        window: W.
        before: positions in the cache, at most W.
        length: L, new positions.

    Returns:
        bool, [L, before + L] or [bands, 1, R, W + R], for bands of R queries.
    """
    if length <= window:
        queries = mx.arange(before, before + length)[:, None]
        keys = mx.arange(before + length)[None]
        return (keys <= queries) & (keys > queries - window)
    rows = _band_rows(window)
    begins = mx.arange(0, length, rows)[:, None, None, None]
    queries = begins + mx.arange(rows)[:, None]
    keys = begins + mx.arange(-window, rows)
    # Keys before the cached ones are padding.
    return (keys <= queries) & (keys > queries - window) & (keys >= -before)


def banded_attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    window: int,
    scale: float,
    mask: mx.array,
    sinks: mx.array,
) -> mx.array:
    """Sliding attention of many queries: a band of R queries attends to its own R keys and the W before.

    With bands of half a window a query is multiplied with 1.5 W keys, however long the prompt; with one mask over
    all keys it would be multiplied with L, and most scores would be dropped.

    Args:
        queries: [B, A, L, D].
        keys, values: [B, K, before + L, D].
        window: W.
        scale: of the scores.
        mask: from :func:`sliding_mask`.
        sinks: [A].

    Returns:
        [B, A, L, D].
    """
    batch, _, length, _ = queries.shape
    before, bands, rows = keys.shape[2] - length, mask.shape[0], _band_rows(window)
    ends = (window - before, bands * rows - length)

    def overlapping(states: mx.array) -> mx.array:  # [B, K, before + L, D] -> [B · bands, K, W + R, D]
        padded = mx.pad(states, [(0, 0), (0, 0), ends, (0, 0)])
        pieces = [
            padded[:, :, begin : begin + bands * rows].reshape(batch, states.shape[1], bands, rows, -1)
            for begin in range(0, window + rows, rows)
        ]
        joined = mx.concatenate(pieces, axis=3).swapaxes(1, 2)
        return joined.reshape(batch * bands, states.shape[1], window + rows, -1)

    bands_of = mx.pad(queries, [(0, 0), (0, 0), (0, ends[1]), (0, 0)])
    bands_of = bands_of.reshape(batch, queries.shape[1], bands, rows, -1).swapaxes(1, 2)
    attended = mx.fast.scaled_dot_product_attention(
        bands_of.reshape(batch * bands, queries.shape[1], rows, -1),
        overlapping(keys),
        overlapping(values),
        scale=scale,
        mask=mask if batch == 1 else mx.tile(mask, (batch, 1, 1, 1)),
        sinks=sinks,
    )
    attended = attended.reshape(batch, bands, queries.shape[1], rows, -1).swapaxes(1, 2)
    return attended.reshape(batch, queries.shape[1], bands * rows, -1)[:, :, :length]


def _band_rows(window: int) -> int:
    """R, the queries of a band: half a window if that is a whole number."""
    return window if window % 2 else window // 2


def one_query_attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    *,
    scale: float,
    sinks: mx.array,
    mask: mx.array | None = None,
) -> mx.array:
    """Attention of the last position, in 10 operations. ``mx.fast`` is one kernel on a GPU and 16 operations on a
    CPU, with a product for each query head; here the heads that share keys are rows of one.

    Args:
        queries: [B, A, 1, D].
        keys, values: [B, K, S, D].
        scale: of the scores.
        sinks: [A].
        mask: bool, [B, 1, 1, S], for rows that have fewer positions.

    Returns:
        [B, A, 1, D].
    """
    B, A, _, D = queries.shape
    K = keys.shape[1]
    grouped = (queries * scale).reshape(B, K, A // K, D)
    scores = grouped @ keys.swapaxes(-1, -2)  # [B, K, A / K, S]
    if mask is not None:
        scores = mx.where(mask, scores, mx.finfo(scores.dtype).min)
    ends = mx.broadcast_to(sinks.reshape(K, A // K, 1), (B, K, A // K, 1))
    weights = mx.softmax(mx.concatenate([scores, ends], axis=-1), axis=-1, precise=True)
    attended: mx.array = (weights[..., :-1] @ values).reshape(B, A, 1, D)
    return attended


def quantized_attention(
    queries: mx.array,
    keys: QuantizedStates,
    values: QuantizedStates,
    *,
    scale: float,
    sinks: mx.array,
    mask: mx.array | None = None,
) -> mx.array:
    """Causal attention of the last L positions over all S.

    A single query is multiplied with the codes themselves, so that decoding reads one byte a value. For more
    queries, and on CUDA, the states are dequantised for the time of this call, and the fused kernel does the rest.

    Args:
        queries: [B, A, L, D].
        keys, values: of S positions; the last L of them are the queries' own.
        scale: of the scores.
        sinks: [A].
        mask: bool, [B, 1, 1, S], for a single query of rows that have fewer positions.

    Returns:
        [B, A, L, D], in the queries' dtype.
    """
    B, A, L, D = queries.shape
    dtype = queries.dtype
    if L > 1 or not _multiplies_parts():
        return mx.fast.scaled_dot_product_attention(
            queries,
            keys.dequantized(dtype),
            values.dequantized(dtype),
            scale=scale,
            mask="causal" if mask is None else mask,
            sinks=sinks,
        )
    K, S, _ = keys.codes.shape[1:]
    heads = A // K
    grouped = queries.reshape(B, K, 1, heads, D).astype(mx.float32) * scale
    scores = _product(grouped, keys, transpose=True)  # [B, K, 1, A / K, S]
    if mask is not None:
        scores = mx.where(mask[:, None], scores, mx.finfo(mx.float32).min)
    rows = _value_rows(heads)
    weights = mx.softmax(scores, axis=-1).reshape(B, K, heads // rows, rows, S)
    attended = _product(weights, values, transpose=False).reshape(B, A, 1, D)
    # A sink adds e^sink to the denominator Σ e^score and nothing to the sum: that is a factor of
    # Σ e^score / (Σ e^score + e^sink) = sigmoid(logsumexp(scores) − sink).
    share = mx.sigmoid(mx.logsumexp(scores, axis=-1).reshape(B, A) - sinks)
    return (attended * share[..., None, None]).astype(dtype)


def _multiplies_parts() -> bool:
    """Whether this device multiplies codes that are a part of a larger buffer. MLX's CUDA backend needs weights
    whose arrays are contiguous (``supports_qmm_naive``)."""
    return mx.default_device() == mx.cpu or not mx.cuda.is_available()


def _value_rows(heads: int) -> int:
    """How many of the query heads that share values are rows of one product.

    For a single row Metal splits the context over many threadgroups (``qvm_split_k``, from 1,024 keys on); for
    four or more it has two threadgroups a key-value head, which walk the whole context (``qmm_n``). The product
    with the keys is parallel over them in any shape. MLX's CPU backend copies the codes for each product that
    shares them.
    """
    return heads if mx.default_device() == mx.cpu else 1


def _product(x: mx.array, states: QuantizedStates, *, transpose: bool) -> mx.array:
    """x [B, K, products, rows, ...] times the codes [B, K, S, ...]."""
    codes, scales, biases = (part[:, :, None] for part in states.parts)
    return mx.quantized_matmul(
        x, codes, scales, biases, transpose=transpose, group_size=states.group_size, bits=KV_BITS
    )
