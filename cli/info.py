"""``gptoss info``: a model's architecture, the memory it needs and the speed to expect, from its config alone."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from ..checkpoint.tensors import open_model
from ..config import PRECISIONS, RELEASED, ModelConfig, Precision, precision_of, with_precision
from ..errors import CheckpointError, ConversionError, ModelNotFound
from ..files.units import format_bytes
from ..hub.models import DEMO, MANIFEST_NAME, converted_path, find_source, resolve
from ..memory.bandwidth import stated_bandwidth
from ..memory.budget import Budget
from ..memory.device import DeviceInfo
from ..memory.precision import choose_precision, loss_of, token_bytes
from ..memory.sizes import bytes_per_token, cache_bytes, parameter_count, tokens_per_second_limit, weight_bytes
from .precision import precision_content, precision_rows, verify_command
from .screen.spans import BOLD, GREEN, RED, YELLOW, Row, Span
from .screen.terminal import Terminal

__all__ = ["describe", "describe_conversion", "show_info"]

_CONTEXTS = (4096, 32768, 131072)


def show_info(reference: str, *, as_json: bool) -> None:
    """Prints the tables.

    Raises:
        ModelNotFound: the model is not on this machine, and no released one.
    """
    device = DeviceInfo.current()
    directory = None if reference in RELEASED else resolve(reference)
    config = RELEASED[reference] if directory is None else _config(directory)
    content = describe(config, device) | {"directory": _place(reference)}
    if directory is None or _is_source(reference, directory, config):
        content["convert"] = describe_conversion(reference, config, device)
    terminal = Terminal(sys.stdout)
    if as_json:
        terminal.line(json.dumps(content, indent=2))
        return
    for row in _rows(reference, content):
        terminal.paragraph(*row[1:], mark=row[0] if row else None)


def _config(directory: Path) -> ModelConfig:
    """The config with the forms of the weights; that of config.json alone, where they cannot be read directly."""
    try:
        return open_model(directory).config
    except CheckpointError:
        return ModelConfig.from_directory(directory)


def describe(config: ModelConfig, device: DeviceInfo) -> dict[str, Any]:
    """Everything that is printed of the model, as plain data."""
    bandwidth = stated_bandwidth(device.name)
    contexts = [context for context in _CONTEXTS if context <= config.max_position_embeddings]
    contexts = contexts or [config.max_position_embeddings]
    precisions = PRECISIONS if config.quantization is None else (precision_of(config),)
    return {
        "architecture": _architecture(config),
        "parameters": _parameters(config),
        "cache_bytes_per_token": cache_bytes(config, 10**5 + 1) - cache_bytes(config, 10**5),
        "device": {
            "name": device.name,
            "memory_bytes": device.memory_bytes,
            "gpu_bytes": device.gpu_bytes,
            "is_mac": device.is_mac,
            "bandwidth": bandwidth,
        },
        "precisions": {
            precision: {
                "weight_bytes": weight_bytes(config, precision),
                "bytes_per_token": bytes_per_token(config, precision),
                "tokens_per_second_limit": bandwidth and tokens_per_second_limit(config, bandwidth, precision),
                "memory": {context: _memory(config, device, precision, context) for context in contexts},
            }
            for precision in precisions
        },
    }


def describe_conversion(reference: str, config: ModelConfig, device: DeviceInfo) -> dict[str, Any]:
    """The precision that ``gptoss convert`` takes on a machine, and the bytes it downloads and both sides take."""
    choice = choose_precision(config, device)
    loss = loss_of(choice.precision)
    source, result = weight_bytes(config, "bf16"), weight_bytes(config, choice.precision)
    return {
        **precision_content(choice.precision, choice.reason, [loss] if loss else [], token_bytes(config)),
        "bytes_to_download": 0 if _is_here(reference) else source,
        "bytes_on_disk": source + result,
    }


def _is_source(reference: str, directory: Path, config: ModelConfig) -> bool:
    """Whether ``gptoss convert`` takes a directory by its name alone, and has not written it."""
    if reference == DEMO or config.quantization is not None or (directory / MANIFEST_NAME).exists():
        return False
    try:
        converted_path(reference)
    except ConversionError:
        return False
    return True


def _place(reference: str) -> str | None:
    """The directory of a model on this machine; None if it is not here."""
    try:
        return str(resolve(reference))
    except ModelNotFound:
        return None


def _is_here(reference: str) -> bool:
    try:
        find_source(reference)
    except ModelNotFound:
        return False
    return True


def _memory(config: ModelConfig, device: DeviceInfo, precision: Precision, context: int) -> dict[str, Any]:
    budget = Budget(config=with_precision(config, precision), device=device, context=context)
    return {"bytes": budget.needed_bytes(), "fits": budget.fits, "remedy": budget.wired_limit_command}


def _architecture(config: ModelConfig) -> dict[str, int]:
    return {
        "layers": config.num_hidden_layers,
        "sliding_layers": sum(kind == "sliding_attention" for kind in config.layer_types),
        "sliding_window": config.sliding_window,
        "experts": config.num_local_experts,
        "active_experts": config.num_experts_per_tok,
        "hidden_size": config.hidden_size,
        "expert_size": config.intermediate_size,
        "query_heads": config.num_attention_heads,
        "key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
    }


def _architecture_rows(of: dict[str, int]) -> list[Row]:
    full = of["layers"] - of["sliding_layers"]
    sliding = f"{of['sliding_layers']} sliding (window {of['sliding_window']})"
    return [
        _field("layers", f"{of['layers']}: {sliding}, {full} full"),
        _field("experts", f"{of['experts']}, {of['active_experts']} active"),
        _field("hidden", f"{of['hidden_size']}, experts {of['expert_size']}"),
        _field("heads", f"{of['query_heads']} query, {of['key_value_heads']} key-value"),
        _field("head dimension", f"{of['head_dim']}"),
        _field("vocabulary", f"{of['vocabulary']:,}"),
        _field("context", f"{of['context']:,}"),
    ]


def _parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by component, counted as :func:`parameter_count` counts them."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    query, key_value = config.query_size, config.key_value_size
    attention = hidden * query + query + 2 * (hidden * key_value + key_value) + query * hidden + hidden
    attention += config.num_attention_heads + 2 * hidden  # sinks, the two norms
    inner = config.intermediate_size
    expert = hidden * 2 * inner + 2 * inner + inner * hidden + hidden
    router = hidden * config.num_local_experts + config.num_local_experts
    embedding = config.vocab_size * hidden
    active = layers * (attention + router + config.num_experts_per_tok * expert) + embedding + hidden
    return {
        "total": parameter_count(config),
        "active": active,
        "experts": layers * (config.num_local_experts * expert + router),
        "attention": layers * attention,
        "embedding_and_head": 2 * embedding + hidden,
    }


def _rows(reference: str, content: dict[str, Any]) -> list[Row]:
    rows: list[Row] = [(Span(reference, BOLD),)]
    rows += [*_architecture_rows(content["architecture"]), ()]
    for name, count in content["parameters"].items():
        note = " for each token (the embedding is only looked up)" if name == "active" else ""
        rows.append(_field(name.replace("_", " "), f"{count:,}{note}"))
    rows += [_field("cache", f"{content['cache_bytes_per_token']:,} bytes a token of context"), ()]
    device = content["device"]
    rows.append(_field("this machine", _device(device)))
    for precision, figures in content["precisions"].items():
        rows += [(), (Span(f"dense layers in {precision}", BOLD),)]
        rows.append(_field("weights", f"{format_bytes(figures['weight_bytes']):>9}"))
        for context, need in figures["memory"].items():
            rows.append(_memory_row(context, need))
        limit = figures["tokens_per_second_limit"]
        read = f"{format_bytes(figures['bytes_per_token'])} are read for a token"
        speed = f"at most {limit:.0f} tokens/s: {read}" if limit else f"{read}; this chip's bandwidth is unknown"
        rows.append(_field("speed", speed))
    return rows + (_conversion_rows(reference, content["convert"]) if "convert" in content else [])


def _conversion_rows(reference: str, content: dict[str, Any]) -> list[Row]:
    download = format_bytes(content["bytes_to_download"]) if content["bytes_to_download"] else "nothing"
    fields = [
        *precision_rows(content, verify_command(converted_path(reference), reference)),
        ("download", f"{download}; the source and its conversion take {format_bytes(content['bytes_on_disk'])}"),
    ]
    title = Span(shlex.join(["gptoss", "convert", reference]) + ", on this machine", BOLD)
    return [(), (title,), *(_field(name, value) for name, value in fields)]


def _device(device: dict[str, Any]) -> str:
    memory = f"{format_bytes(device['memory_bytes'])}, {format_bytes(device['gpu_bytes'])} for models"
    bandwidth = f", {format_bytes(device['bandwidth'])}/s" if device["bandwidth"] else ""
    return f"{memory}{bandwidth}" if device["name"] == "this machine" else f"{device['name']}, {memory}{bandwidth}"


def _field(name: str, value: str) -> Row:
    return (Span(f"  {name:<20}"), Span(value))


def _memory_row(context: int, need: dict[str, Any]) -> Row:
    verdict = Span("fits", GREEN) if need["fits"] else Span("does not fit", RED)
    row = (Span(f"  {f'at {context:,} tokens':<20}"), Span(f"{format_bytes(need['bytes']):>9}  "), verdict)
    return (*row, Span(f"  after: {need['remedy']}", YELLOW)) if need["remedy"] else row
