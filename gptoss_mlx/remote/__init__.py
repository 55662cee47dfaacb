"""A model that ``gptoss serve`` serves on this machine or another: the same chats, without MLX in this process.

    with connect("http://mac-studio.local:8080", api_key="…") as model:
        model.chat(effort="low").send("Why is the sky blue?").text

The conversation stays here, and every request sends all of it; the server's prompt caches make that cheap. Speaks
OpenAI's Responses API, so other servers of gpt-oss may work too.
"""

from .model import RemoteChat, RemoteModel, connect

__all__ = ["RemoteChat", "RemoteModel", "connect"]
