"""The model that is chosen when none is named, and the first start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptoss_mlx.cli.chat.first_start import offers
from gptoss_mlx.cli.screen.spans import plain
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.hub import models as hub
from gptoss_mlx.memory.device import DeviceInfo
from tests.cli.pty_session import FAKE, Person
from tests.convert.sources import write_layout
from tests.hub.fake_hub import serving


def test_without_a_name_the_best_of_what_is_here_is_meant(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.default_model() is None
    hub.mark_used(hub.resolve("demo"))
    assert hub.default_model() == "demo"
    monkeypatch.setattr(hub, "cached_snapshot", lambda repo_id: user if repo_id.endswith("120b") else None)
    assert hub.default_model() == "120b"
    source = write_layout("hf", user / "source", num_hidden_layers=1)
    for name in ("first", "second"):
        convert_checkpoint(source, hub.converted_path(name), dense="bf16")
        hub.mark_used(name)
    os.utime(hub.data_directory() / ".used" / "first", (2e9, 2e9))
    assert hub.default_model() == "first"


def test_a_first_start_says_what_fits_and_what_would_make_it_fit() -> None:
    def said(memory: int, gpu: int) -> str:
        device = DeviceInfo(name="M", memory_bytes=memory * 10**9, gpu_bytes=gpu * 10**9, is_mac=True)
        return "\n".join(plain(row) for row in offers(device))

    assert said(128, 96).count(" fits") == 2
    tight = said(16, 10)
    assert "iogpu.wired_limit_mb" in tight
    assert tight.count("does not fit") == 2
    assert "13.8 GB to download" in tight
    assert "wired_limit" not in said(8, 5)


def test_a_first_start_downloads_and_converts_if_told_to(tmp_path: Path) -> None:
    with serving("openai/gpt-oss-20b", hub.resolve("demo")) as server:
        env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
        person = Person([*FAKE, "chat"], tmp_path, 100, 40, env)
        person.wait_for("Your choice")
        assert not server.requested
        person.enter("1")
        person.wait_for("next: gptoss chat -m 20b", 120)
        person.wait_for_prompt()
        assert "20b · /help" in person.text()
        assert person.leave() == 0
    assert (tmp_path / "models" / "20b" / "manifest.json").is_file()


@pytest.mark.parametrize(("key", "code", "says"), [("2", 0, "demo · /help"), ("q", 3, "gptoss convert 20b")])
def test_a_first_start_asks_and_downloads_nothing_unasked(tmp_path: Path, key: str, code: int, says: str) -> None:
    person = Person([*FAKE, "chat"], tmp_path, 100, 30, {"HF_HOME": str(tmp_path)})
    person.wait_for("Your choice")
    assert "GB to download" in person.text()
    person.enter(key)
    person.wait_for(says)
    if key == "2":
        person.wait_for_prompt()
    assert (person.leave() if key == "2" else person.end()) == code
