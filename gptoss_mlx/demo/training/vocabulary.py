"""The demo model's vocabulary: the first ranks of o200k, every digit a token of its own.

Writes the Hugging Face form (tokenizer.json and its companions). Knows nothing of the corpus.
"""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

from gptoss_mlx.tokenizer import O200K_PATTERN, Tokenizer

__all__ = ["SPECIAL_TOKENS", "demo_ranks", "demo_tokenizer", "read_ranks", "special_ids", "tokenizer_files"]

SPECIAL_TOKENS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
    "<|endofprompt|>",
)


def read_ranks(path: str | Path, count: int | None = None) -> list[bytes]:
    """The tokens of a ``.tiktoken`` file in the order of their ranks, the first ``count`` of them."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return [base64.b64decode(line.split()[0]) for line in lines[:count]]


def demo_ranks(ranks: list[bytes], size: int) -> dict[bytes, int]:
    """The first ``size`` tokens with fewer than two digits, numbered in order.

    The parts of a kept token have fewer than two digits too, so every kept token can still be reached.
    """
    kept = [piece for piece in ranks if sum(48 <= byte <= 57 for byte in piece) < 2]
    if len(kept) < size:
        raise ValueError(f"{size} tokens wanted, the vocabulary has {len(kept)}")
    return {piece: rank for rank, piece in enumerate(kept[:size])}


def special_ids(size: int) -> dict[str, int]:
    """The control tokens, numbered after ``size`` ordinary tokens."""
    return {name: size + index for index, name in enumerate(SPECIAL_TOKENS)}


def demo_tokenizer(path: str | Path, size: int) -> Tokenizer:
    """The demo model's tokenizer from a ``.tiktoken`` file."""
    ranks = demo_ranks(read_ranks(path), size)
    return Tokenizer.from_ranks(ranks, special_ids(size))


def tokenizer_files(ranks: dict[bytes, int], special: dict[str, int]) -> dict[str, str]:
    """File name → content of the tokenizer in the Hugging Face form."""
    alphabet = _byte_alphabet()

    def written(piece: bytes) -> str:
        return "".join(alphabet[byte] for byte in piece)

    merges = [list(map(written, pair)) for piece in ranks if (pair := _merge_of(piece, ranks))]
    split = {"type": "Split", "pattern": {"Regex": O200K_PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, token) for name, token in special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {written(piece): rank for piece, rank in ranks.items()},
            "merges": merges,
        },
    }
    settings = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    roles = {key: settings[key] for key in ("bos_token", "eos_token", "pad_token")}
    return {
        "tokenizer.json": json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(roles, indent=2) + "\n",
    }


def _added_token(name: str, token: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": name, **flags}


def _merge_of(piece: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two tokens that byte-pair encoding merges into ``piece``."""
    if len(piece) == 1:
        return None
    parts = [piece[index : index + 1] for index in range(len(piece))]
    limit = ranks[piece]
    while len(parts) > 2:
        candidates = [(ranks.get(a + b, limit), at) for at, (a, b) in enumerate(itertools.pairwise(parts))]
        rank, at = min(candidates)
        if rank >= limit:
            raise ValueError(f"{piece!r} is not reached by merging tokens of lower rank")
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _byte_alphabet() -> list[str]:
    """GPT-2's printable character for each of the 256 bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
