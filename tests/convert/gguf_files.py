"""Random models as GGUF files, written by Python's ``gguf`` package with llama.cpp's names or with Ollama's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from gptoss_mlx.tokenizer import CONTROL_TOKENS

__all__ = ["Floats", "float_tensors", "mxfp4_blocks", "write_gguf", "write_hugging_face"]

Floats = dict[str, npt.NDArray[np.float32]]
_TYPES: Any = gguf.GGMLQuantizationType
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.router": "ffn_gate_inp",
}


def float_tensors(checkpoint: Path) -> tuple[Floats, dict[str, npt.NDArray[np.uint8]]]:
    """The floats of a Hugging Face checkpoint, and its MXFP4 blocks and scales."""
    from safetensors.numpy import load_file

    tensors = load_file(checkpoint / "model.safetensors")
    packed = {name: array for name, array in tensors.items() if name.endswith(("_blocks", "_scales"))}
    return {name: array.astype(np.float32) for name, array in tensors.items() if name not in packed}, packed


def mxfp4_blocks(blocks: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """GGUF's blocks of Hugging Face's: the scale, then the first 16 values as lower halves of the bytes."""
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    halves = codes[..., :16] | (codes[..., 16:] << 4)
    return np.concatenate([scales[..., None], halves], axis=-1).reshape(*blocks.shape[:2], -1)


def _add(writer: gguf.GGUFWriter, name: str, values: npt.NDArray[np.float32], kind: Any) -> None:
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def write_gguf(
    path: Path, checkpoint: Path, dense: str = "BF16", *, ollama: bool = False, first_ollama: bool = False
) -> Path:
    """Writes a Hugging Face checkpoint with packed experts as a GGUF file.

    Args:
        path: of the file.
        checkpoint: the source.
        dense: the type of attention, embedding and head.
        ollama: whether names and joined tensors are Ollama's.
        first_ollama: whether experts have the type that Ollama used first.
    """
    values = json.loads((checkpoint / "config.json").read_text())
    floats, packed = float_tensors(checkpoint)
    writer = gguf.GGUFWriter(path, "gptoss" if ollama else "gpt-oss")
    _add_metadata(writer, values)
    kind = _TYPES[dense]
    for theirs, ours in {
        "model.embed_tokens": "token_embd",
        "lm_head": "output",
    }.items():
        _add(writer, f"{ours}.weight", floats[f"{theirs}.weight"], kind)
    writer.add_tensor("output_norm.weight", floats["model.norm.weight"])
    for n in range(values["num_hidden_layers"]):
        layer = {
            name.removeprefix(f"model.layers.{n}."): array
            for name, array in (floats | packed).items()
            if name.startswith(f"model.layers.{n}.")
        }
        _add_layer(writer, f"blk.{n}", layer, kind, ollama=ollama, first_ollama=first_ollama)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_layer(
    writer: gguf.GGUFWriter, block: str, layer: dict[str, Any], kind: Any, *, ollama: bool, first_ollama: bool
) -> None:
    writer.add_tensor(f"{block}.attn_norm.weight", layer["input_layernorm.weight"])
    norm = "ffn_norm" if ollama else "post_attention_norm"
    writer.add_tensor(f"{block}.{norm}.weight", layer["post_attention_layernorm.weight"])
    writer.add_tensor(f"{block}.attn_sinks" + ("" if ollama else ".weight"), layer["self_attn.sinks"])
    modules = dict(_MODULES)
    if ollama:
        modules["self_attn.o_proj"] = "attn_out"
        parts = [modules.pop(f"self_attn.{part}_proj") and f"self_attn.{part}_proj" for part in "qkv"]
        _add(writer, f"{block}.attn_qkv.weight", np.concatenate([layer[f"{part}.weight"] for part in parts]), kind)
        writer.add_tensor(f"{block}.attn_qkv.bias", np.concatenate([layer[f"{part}.bias"] for part in parts]))
    for theirs, ours in modules.items():
        own = _TYPES.F32 if theirs == "mlp.router" else kind
        _add(writer, f"{block}.{ours}.weight", layer[f"{theirs}.weight"], own)
        writer.add_tensor(f"{block}.{ours}.bias", layer[f"{theirs}.bias"])
    experts = "mlp.experts"
    for module, cuts in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
        blocks, scales = layer[f"{experts}.{module}_blocks"], layer[f"{experts}.{module}_scales"]
        if first_ollama:
            whole = np.concatenate([scales[..., None], blocks], axis=-1).reshape(*blocks.shape[:2], -1)
        else:
            whole = mxfp4_blocks(blocks, scales)
        bias = layer[f"{experts}.{module}_bias"]
        step = 1 if ollama else len(cuts)
        for first, cut in enumerate(("gate_up" if module == "gate_up_proj" else "down",) if ollama else cuts):
            own_kind: Any = 4 if first_ollama else _TYPES.MXFP4
            part = np.ascontiguousarray(whole[:, first::step])
            _add_packed(writer, f"{block}.ffn_{cut}_exps.weight", part, own_kind)
            writer.add_tensor(f"{block}.ffn_{cut}_exps.bias", np.ascontiguousarray(bias[:, first::step]))


def _add_packed(writer: gguf.GGUFWriter, name: str, part: npt.NDArray[np.uint8], kind: Any) -> None:
    if kind != 4:
        writer.add_tensor(name, part, raw_dtype=kind)
        return
    # A type that the package does not know: as MXFP4, with the number changed afterwards.
    writer.add_tensor(name, part, raw_dtype=_TYPES.MXFP4)
    number: Any = _FirstOllama.MXFP4
    writer.tensors[-1][name].dtype = number


class _FirstOllama(int):
    """Number 4, where the writer takes a member of an enumeration."""

    MXFP4: _FirstOllama


_FirstOllama.MXFP4 = _FirstOllama(4)


def _add_metadata(writer: gguf.GGUFWriter, values: dict[str, Any]) -> None:
    rope = values["rope_scaling"]
    writer.add_block_count(values["num_hidden_layers"])
    writer.add_context_length(values["max_position_embeddings"])
    writer.add_embedding_length(values["hidden_size"])
    writer.add_feed_forward_length(values["intermediate_size"])
    writer.add_expert_feed_forward_length(values["intermediate_size"])
    writer.add_head_count(values["num_attention_heads"])
    writer.add_head_count_kv(values["num_key_value_heads"])
    writer.add_key_length(values["head_dim"])
    writer.add_value_length(values["head_dim"])
    writer.add_layer_norm_rms_eps(values["rms_norm_eps"])
    writer.add_sliding_window(values["sliding_window"])
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in values["layer_types"]])
    writer.add_rope_freq_base(float(values["rope_theta"]))
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_expert_count(values["num_local_experts"])
    writer.add_expert_used_count(values["num_experts_per_tok"])
    tokens = [gpt2_letter(byte) for byte in range(256)]
    tokens += [*CONTROL_TOKENS, "<added>", *(f"<|reserved_{n}|>" for n in range(values["vocab_size"] - 265))]
    types = [1] * 256 + [3] * len(CONTROL_TOKENS) + [4] + [3] * (values["vocab_size"] - 265)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])


def gpt2_letter(byte: int) -> str:
    """The printable character of a byte in byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))


def write_hugging_face(directory: Path, checkpoint: Path, dense: str) -> Path:
    """The checkpoint with its dense layers rounded as a type of GGUF rounds them: the same values."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(checkpoint / "model.safetensors")
    kind = _TYPES[dense]
    ends = (
        "q_proj.weight",
        "k_proj.weight",
        "v_proj.weight",
        "o_proj.weight",
        "embed_tokens.weight",
        "lm_head.weight",
    )
    for name, array in tensors.items():
        if name.endswith(ends):
            tensors[name] = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind).astype(np.float32)
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text((checkpoint / "config.json").read_text())
    return directory
