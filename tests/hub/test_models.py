"""References, installed models, and downloads from a Hub that misbehaves."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gptoss_mlx.cli.app import app
from gptoss_mlx.convert import convert_checkpoint
from gptoss_mlx.errors import (
    CheckpointError,
    ConversionError,
    DownloadError,
    GptOssError,
    ModelNotFound,
    NotEnoughDisk,
)
from gptoss_mlx.hub import downloads
from gptoss_mlx.hub import models as hub
from tests import DEMO
from tests.convert.sources import write_layout
from tests.hub.fake_hub import REVISION, FakeHub, serving

REPO = "someone/small-gpt-oss"


@pytest.fixture(autouse=True)
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data directory and an empty Hub cache; nothing outside this machine can be reached."""
    monkeypatch.setenv("GPTOSS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    _point_to("http://127.0.0.1:9", monkeypatch)
    return tmp_path


def _point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets ``HF_ENDPOINT`` for a library that read it when it was imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint."""
    return write_layout("hf", tmp_path_factory.mktemp("source") / "hf", num_hidden_layers=1)


@pytest.fixture
def server(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with that checkpoint and other files."""
    extra = {
        "original/model.safetensors": b"no",
        "metal/model.bin": b"no",
        "pytorch_model.bin": b"no",
        "README.md": b"no",
    }
    with serving(REPO, source, extra) as fake:
        _point_to(fake.url, monkeypatch)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield fake


def _convert(source: Path, name: str) -> Path:
    target = hub.converted_path(name)
    convert_checkpoint(source, target, dense="q8")
    return target


# References.


def test_the_demo_is_part_of_the_package() -> None:
    assert hub.resolve("demo") == DEMO


@pytest.mark.parametrize("reference", ["20b", "120b", "org/name"])
def test_what_is_not_here_names_the_command(reference: str) -> None:
    with pytest.raises(ModelNotFound, match=f"gptoss convert {reference}"):
        hub.resolve(reference)


@pytest.mark.parametrize(
    "reference", ["", "nothing", "./nothing", "~/nothing", "a/b/c", "/nothing", "../x", "20B"]
)
def test_other_references_are_one_line(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound) as caught:
        hub.resolve(reference)
    assert "\n" not in str(caught.value)


def test_a_directory_is_itself(source: Path) -> None:
    assert hub.resolve(str(source)) == source


@pytest.mark.parametrize("what", ["nested deeply", "a FIFO", "a list", "bits of infinity"])
def test_a_config_that_cannot_be_read_is_listed_all_the_same(what: str, source: Path) -> None:
    config = _convert(source, "mine") / "config.json"
    config.unlink()
    if what == "a FIFO":
        os.mkfifo(config)
    else:
        contents = {
            "nested deeply": "[" * 100_000,
            "a list": "[]",
            "bits of infinity": '{"quantization":{"bits":1e999}}',
        }
        config.write_text(contents[what])
    listed = CliRunner().invoke(app, ["models"])
    assert listed.exit_code == 0
    name, _, _, form, *_ = listed.stdout.split()
    assert (name, form) == ("mine", "?")


def test_a_file_is_no_model(source: Path) -> None:
    with pytest.raises(ModelNotFound, match="is neither a directory nor a GGUF file"):
        hub.resolve(str(source / "config.json"))


def test_a_converted_model_is_found_by_name(source: Path) -> None:
    target = _convert(source, "20b")
    assert hub.resolve("20b") == target
    with pytest.raises(ModelNotFound):  # but it is not the source of a conversion
        hub.find_source("20b")


def test_an_unfinished_directory_is_no_model(source: Path) -> None:
    (_convert(source, "20b") / "manifest.json").unlink()
    with pytest.raises(ModelNotFound):
        hub.resolve("20b")


def test_the_name_of_a_conversion_is_the_last_part(homes: Path) -> None:
    assert hub.converted_path("openai/gpt-oss-20b") == homes / "data" / "gpt-oss-20b"
    assert hub.converted_path("20b") == homes / "data" / "20b"
    assert hub.converted_path("/some/where/") == homes / "data" / "where"
    assert hub.converted_path("20b", "adapters/my tune") == homes / "data" / "20b-my-tune"


def test_a_converted_demo_has_a_name_that_finds_it(homes: Path) -> None:
    report = convert_checkpoint("demo", dense="q8")
    assert hub.resolve(report.destination.name) == report.destination
    assert hub.resolve("demo") != report.destination
    with pytest.raises(ConversionError, match="built-in"):
        convert_checkpoint("demo", homes / "data" / "demo", dense="q8")


# Installed models.


def test_models_are_listed_last_used_first(source: Path) -> None:
    assert [model.name for model in hub.list_models() if model.converted] == []
    for name in ("a", "b", "c"):
        _convert(source, name)
    hub.mark_used("b")
    listed = [model for model in hub.list_models() if model.converted]
    assert [model.name for model in listed] == ["b", "a", "c"]
    assert [model.last_used is None for model in listed] == [False, True, True]
    assert listed[0].nbytes == sum(path.stat().st_size for path in listed[0].path.iterdir())


def test_marking_leaves_the_model_as_it_was_written(source: Path) -> None:
    from gptoss_mlx.convert import verify_checkpoint

    target = _convert(source, "20b")
    hub.mark_used(target)
    hub.mark_used("demo")
    hub.mark_used(source)
    assert verify_checkpoint(target).ok
    assert [model.name for model in hub.list_models() if model.last_used is not None] == ["20b", "demo"]


# Downloads.


def test_only_what_is_needed_is_downloaded(server: FakeHub, source: Path) -> None:
    directory = hub.resolve(REPO, download=True)
    assert {path.name for path in directory.iterdir()} == {path.name for path in source.iterdir()}
    assert set(server.requested) == {path.name for path in source.iterdir()}
    assert directory.name == REVISION


def test_a_download_is_used_again(server: FakeHub) -> None:
    directory = hub.resolve(REPO, download=True)
    server.requested.clear()
    assert hub.resolve(REPO) == directory
    assert hub.resolve(REPO, download=True) == directory
    assert server.requested == []


def test_nothing_is_downloaded_unasked(server: FakeHub) -> None:
    with pytest.raises(ModelNotFound):
        hub.resolve(REPO)
    assert server.requested == []


def test_progress_ends_at_the_size_of_the_files(server: FakeHub) -> None:
    seen: list[tuple[int, int]] = []
    hub.resolve(REPO, download=True, progress=lambda done, total: seen.append((done, total)))
    plan = downloads.plan_download(REPO)
    assert seen[-1] == (plan.nbytes, plan.nbytes)
    assert plan.missing_bytes == 0
    assert all(0 <= done <= total for done, total in seen)


def test_conversion_downloads_and_records_the_revision(server: FakeHub, homes: Path) -> None:
    stages: set[str] = set()
    report = convert_checkpoint(
        REPO, dense="q8", download=True, progress=lambda stage, done, total: stages.add(stage)
    )
    assert report.revision == REVISION
    assert report.destination == homes / "data" / "small-gpt-oss"
    assert stages == {"download", "convert"}
    manifest = json.loads((report.destination / "manifest.json").read_text())
    assert manifest["source"] == {"name": REPO, "revision": REVISION, "layout": "Hugging Face"}


@pytest.mark.parametrize("reference", [f"{REPO}@v1", f"https://huggingface.co/{REPO}/tree/v1"])
def test_a_revision_is_asked_for_and_found_again(reference: str, server: FakeHub, homes: Path) -> None:
    report = convert_checkpoint(reference, dense="q8", download=True)
    assert report.destination == homes / "data" / "small-gpt-oss-v1"
    assert any(f"/{REPO}/revision/v1" in path for path in server.paths)
    requests = len(server.paths)
    assert hub.find_source(reference).name == REVISION
    assert len(server.paths) == requests
    with pytest.raises(ModelNotFound, match="not on this machine"):
        hub.find_source(f"{REPO}@v2")


def test_the_command_takes_a_revision(server: FakeHub, homes: Path) -> None:
    done = CliRunner().invoke(app, ["convert", REPO, str(homes / "out"), "--revision", "v1"])
    assert done.exit_code == 0
    assert any(f"/{REPO}/revision/v1" in path for path in server.paths)
    # The cost is said before the download.
    assert done.stderr.startswith("download: ")


def test_a_cut_connection_is_taken_up_again(server: FakeHub, source: Path) -> None:
    server.cuts["model.safetensors"] = 2
    directory = hub.resolve(REPO, download=True)
    assert (directory / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_the_command_tells_of_retries_in_its_own_words(
    server: FakeHub, homes: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.cuts["model.safetensors"] = 1
    server.statuses["config.json"] = [429, 200]
    done = CliRunner().invoke(app, ["convert", REPO, str(homes / "out")])
    assert done.exit_code == 0
    remarks = done.stderr.splitlines()
    assert [line for line in remarks if line.startswith("the Hub: HTTP Error 429")]
    assert [
        line for line in remarks if line.startswith("the Hub: Error while downloading from model.safetensors: ")
    ]
    chosen = (
        "download: ",
        "on disk: ",
        "time: ",
        "dense layers: ",
        "experts: ",
        "reason: ",
        "loses: ",
        "read for a token: ",
    )
    assert all(line.startswith(("the Hub: ", *chosen)) for line in remarks)
    assert capfd.readouterr().err == ""


def _refused(match: str, homes: Path, error: type[GptOssError] = DownloadError) -> None:
    """Expects an error of one line with the remedy."""
    with pytest.raises(error, match=match) as caught:
        convert_checkpoint(REPO, homes / "out", dense="q8", download=True)
    assert "\n" not in str(caught.value)
    assert not (homes / "out").exists()


def test_a_connection_that_always_breaks_is_an_error(server: FakeHub, homes: Path) -> None:
    server.cuts["model.safetensors"] = 10_000
    server.files["model.safetensors"] = server.files["model.safetensors"][:4000]
    _refused("run the same command again", homes)


def test_fewer_bytes_than_announced_are_an_error(server: FakeHub, homes: Path) -> None:
    server.shortened.add("model.safetensors")
    _refused("run the same command again", homes)


def test_no_such_repository(server: FakeHub, homes: Path) -> None:
    server.statuses["api"] = [404]
    _refused("no such repository on the Hub, or a private one", homes)


def test_without_permission(server: FakeHub, homes: Path) -> None:
    server.statuses["api"] = [401]
    _refused("hf auth login", homes)


def test_a_restricted_repository(server: FakeHub, homes: Path) -> None:
    server.statuses["api"] = [403]
    _refused(f"accept its terms on huggingface.co/{REPO}", homes)


@pytest.mark.parametrize("status", [401, 404, 416, 500, 503])
def test_a_file_that_is_refused(status: int, server: FakeHub, homes: Path) -> None:
    server.statuses["model.safetensors"] = [status]
    _refused("again|login", homes)


def test_a_server_that_recovers(server: FakeHub, homes: Path) -> None:
    server.statuses["model.safetensors"] = [429, 200]
    assert hub.resolve(REPO, download=True).name == REVISION


def test_no_network(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    _refused("the Hub cannot be reached", homes)


def test_offline_on_purpose(server: FakeHub, homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _refused("HF_HUB_OFFLINE is set", homes)


def test_pickles_alone_are_refused(server: FakeHub, homes: Path) -> None:
    del server.files["model.safetensors"]
    _refused("contains no safetensors; pickles are never read", homes)


def test_a_damaged_file_on_the_hub_is_not_converted(server: FakeHub, homes: Path) -> None:
    server.files["model.safetensors"] = server.files["model.safetensors"][:-10]
    _refused("model.safetensors: is truncated", homes, CheckpointError)


def test_a_disk_too_small_is_noticed_before_the_download(
    server: FakeHub, homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "free_space", lambda place: 1000)
    _refused("are needed and 1.00 kB are free", homes, NotEnoughDisk)
    assert server.requested == []


def test_a_disk_that_fills_up(server: FakeHub, homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    _refused("the disk is full", homes, NotEnoughDisk)
