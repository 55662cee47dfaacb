"""What the server says of itself: its text for people, its list of models, and what Ollama's clients look for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..config import RELEASED

if TYPE_CHECKING:
    from ..api import GptOss

__all__ = ["model_list", "model_names", "ollama_tags", "welcome"]


def model_names(model: GptOss) -> list[str]:
    """The names under which clients find the model; the first is the one that answers bear.

    Any other name in a request is accepted too: there is one model, and no request can load another.
    """
    own = model.directory.name if "/" in model.name else model.name
    released = next((size for size, config in RELEASED.items() if config == model.config), None)
    others = [f"{start}{released}" for start in ("gpt-oss-", "openai/gpt-oss-", "gpt-oss:") if released]
    return list(dict.fromkeys([own, *others]))


def model_list(model: GptOss) -> dict[str, Any]:
    """The list of models, with the keys of OpenAI's and of Anthropic's."""
    entries = [model_entry(name, model) for name in model_names(model)]
    return {
        "object": "list",
        "data": entries,
        "has_more": False,
        "first_id": entries[0]["id"],
        "last_id": entries[-1]["id"],
    }


def model_entry(name: str, model: GptOss) -> dict[str, Any]:
    """One of them."""
    created = int(model.directory.stat().st_mtime)
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "openai",
        "type": "model",
        "display_name": name,
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        "context_length": model.context_limit,
        "max_input_tokens": model.context_limit,
        "max_tokens": model.context_limit,
    }


def ollama_tags(model: GptOss) -> dict[str, Any]:
    """The list that Ollama's clients read before they ask: a name that is missing there, they would download."""
    return {"models": [{"name": name, "model": name} for name in model_names(model)]}


def welcome(url: str, model: GptOss, *, with_key: bool) -> str:
    """What to paste where.

    Args:
        url: of the server.
        model: that it serves.
        with_key: whether requests need a key.
    """
    name = model_names(model)[0]
    key = "YOUR_KEY" if with_key else "none"
    provider = "model_providers.gptoss"
    return f"""\
{name} answers at {url} (context: {model.context_limit:,} tokens)

openai-python, and whatever reads these variables:
    export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={key}

Codex, with that key in OPENAI_API_KEY:
    codex -c model_provider=gptoss -c model={name} \\
        -c {provider}.name=gptoss \\
        -c {provider}.wire_api=responses \\
        -c {provider}.base_url={url}/v1 \\
        -c {provider}.env_key=OPENAI_API_KEY

Claude Code:
    export ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN={key}
    claude --model {name}
"""
