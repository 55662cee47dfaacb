"""The endpoints of OpenAI and Anthropic over a loaded model: an ASGI app.

    from gptoss_mlx.server import create_app
    app = create_app(gptoss.load("20b"))

Knows no terminal; ``gptoss serve`` runs it.
"""

from .app import create_app

__all__ = ["create_app"]
