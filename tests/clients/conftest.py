"""The server that the clients of the suite talk to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gptoss_mlx.api import GptOss
from tests.clients.conduct import respond
from tests.server.scripted import ScriptedGptOss
from tests.server.serving import listening


@pytest.fixture(scope="module")
def scripted() -> ScriptedGptOss:
    """The model behind :func:`url`."""
    return ScriptedGptOss(respond=respond)


@pytest.fixture(scope="module")
def url(scripted: ScriptedGptOss) -> Iterator[str]:
    """The base URL of a scripted model."""
    with listening(scripted) as url:
        yield url


@pytest.fixture(scope="module")
def demo_url(demo: GptOss) -> Iterator[str]:
    """The base URL of the demo."""
    with listening(demo) as url:
        yield url
