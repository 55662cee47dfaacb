"""What tests of several modules share. Nothing here reaches the network or the user's own directories."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import settings

from gptoss_mlx.api import GptOss
from gptoss_mlx.model.transformer import Transformer, load_transformer
from tests import DEMO
from tests.checkpoints import SHAPES, load_shape

if os.environ.get("CI"):
    # Hosted Macs have no GPU to speak of, and results are to be the same everywhere.
    mx.set_default_device(mx.cpu)

# The same examples each time, however busy the machine is; the fuzzers and their command lines draw others.
settings.register_profile("suite", derandomize=True, deadline=None, database=None)
settings.load_profile("suite")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As a shell starts its background jobs; Ctrl-C is among the things tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _private_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data, configuration and Hub cache of the tests' own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HF_HOME"):
            patch.setenv(name, str(home / name.lower()))
        patch.setenv("GPTOSS_DATA", str(home / "models"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def demo() -> Iterator[GptOss]:
    """The embedded model, in float32: for tests of equality, and four times as fast on a CPU as bfloat16, in which
    the tests of the command line have it."""
    with GptOss(DEMO, name="demo", dtype="float32") as model:
        yield model


@pytest.fixture(scope="session")
def cold_demo() -> Iterator[GptOss]:
    """The same model with prompt caches of its own: tests clear them to compute without any."""
    with GptOss(DEMO, name="demo", dtype="float32") as model:
        yield model


@pytest.fixture(scope="session", params=SHAPES)
def shape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name and directory of each random checkpoint."""
    name = str(request.param)
    return name, load_shape(tmp_path_factory.mktemp("shape") / name, name)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    """The smallest random transformer, float32."""
    return load_transformer(load_shape(tmp_path_factory.mktemp("small"), "small"), mx.float32)


def settled(model: GptOss) -> None:
    """Waits until idle work is done: idle jobs run in their order, so the last of them says so."""
    done = threading.Event()

    def last() -> bool:
        done.set()
        return False

    model._runner._worker.submit_idle(last)
    assert done.wait(60)
