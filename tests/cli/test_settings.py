"""Where a setting comes from, and which values are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gptoss_mlx.cli.settings import config_path, explain_settings, load_settings
from gptoss_mlx.errors import InvalidRequest
from tests.cli.program import gptoss


@pytest.fixture
def file(user: Path) -> Path:
    """The settings file, which does not exist yet."""
    path = user / "config" / "gptoss" / "config.toml"
    assert config_path() == path
    path.parent.mkdir(parents=True)
    return path


def test_a_flag_beats_the_environment_beats_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('effort = "low"\ntemperature = 1\nthink = "dim"\n')
    monkeypatch.setenv("GPTOSS_EFFORT", "high")
    loaded = load_settings(think="hide", seed=None)
    assert (loaded.effort, loaded.temperature, loaded.think, loaded.top_p) == ("high", 1.0, "hide", 1.0)


@pytest.mark.parametrize("content", ["efort = 1", "effort = 3", "seed = 1.5", "effort = ", 'effort = "huge"'])
def test_a_wrong_setting_is_named(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=r"config\.toml"):
        load_settings()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("temperature = 500", "temperature is 500.0; a number from 0 to 100"),
        ("temperature = nan", "temperature is nan"),
        ("top_p = 0", "top_p is 0"),
        ("seed = -3", "seed is -3"),
        ("max_tokens = 0", "max_tokens is 0"),
        ("kv_bits = 4", "kv_bits is 4; 8 is needed"),
        ('effort = "extreme"', "one of low, medium, high is needed"),
        ('temperature = "warm"', "a number is needed"),
        ("model = 20", "text is needed"),
        ("[x", "correct or delete the file"),
        ("seed = " + "9" * 5000, "has a number that is too long"),
        ("model = " + "[" * 100_000, "is nested too deeply"),
        ("efort" * 10_000 + " = 1", "no such setting"),
    ],
)
def test_a_setting_that_cannot_be_is_named_with_its_place(line: str, says: str, file: Path) -> None:
    file.write_text(line + "\n")
    with pytest.raises(InvalidRequest, match=r"config\.toml") as caught:
        explain_settings()
    assert says in str(caught.value)
    done = gptoss("config", "show")
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


def test_a_settings_file_that_is_no_text_file_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> str:
        done = gptoss("config", "show")
        assert (done.returncode in (1, 2), done.stderr.count("\n")) == (True, 1)
        assert "this is a bug" not in done.stderr
        return done.stderr

    os.mkfifo(file)
    assert "is not a regular file" in said()
    file.unlink()
    file.write_bytes(b"model = 'caf\xe9'")
    assert "is not UTF-8 text (byte 12)" in said()
    file.write_bytes(b"#" * (1 << 21))
    assert "larger than" in said()
    monkeypatch.setenv("GPTOSS_CONFIG", "/dev/zero")
    assert "is not a regular file" in said()
    monkeypatch.setenv("GPTOSS_CONFIG", "/dev/null")
    assert gptoss("config", "show").returncode == 0


def test_text_that_is_not_utf8_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_SYSTEM", os.fsdecode(b"caf\xe9"))
    with pytest.raises(InvalidRequest, match=r"GPTOSS_SYSTEM is caf.*, which is not UTF-8"):
        load_settings()
    with pytest.raises(InvalidRequest, match="--effort is"):
        load_settings(effort=os.fsdecode(b"\xe9"), system="x")
    with pytest.raises(InvalidRequest, match=r"--system is .*, which is not UTF-8"):
        load_settings(system=os.fsdecode(b"\xe9"))


def test_a_flag_overrides_what_the_file_says_and_is_checked_alike(file: Path) -> None:
    file.write_text("temperature = 0.5\nkv_bits = 8\n")
    assert load_settings(temperature=0.0).temperature == 0
    assert load_settings().kv_bits == 8
    with pytest.raises(InvalidRequest, match="--top-p is 2"):
        load_settings(top_p=2.0)


def test_a_setting_is_written_into_its_line_and_removed_again(home: Path) -> None:
    path = config_path()
    assert gptoss("config", "set", "Top-P", "0.5").stdout == f"top_p = 0.5  # {path}\n"
    path.write_text("# mine\ntop_p = 0.5 # half\neffort = 'low'\n")
    odd = 'Be "terse"\\ — \x7f\U0001f600\n'
    assert gptoss("config", "set", "top_p", "0.25").returncode == 0
    assert path.read_text() == "# mine\ntop_p = 0.25\neffort = 'low'\n"
    assert gptoss("config", "set", "system", odd).returncode == 0
    assert load_settings().system == odd
    assert gptoss("config", "unset", "effort").stdout == 'effort = "medium"  # default\n'
    assert path.read_text().startswith("# mine\ntop_p = 0.25\nsystem = ")
    path.write_text("'top_p' = 0.5\nsystem = '''\ntop_p = 3\n'''\n")  # lines that only look like it
    assert gptoss("config", "set", "top_p", "0.75").returncode == 0
    assert (load_settings().top_p, load_settings().system) == (0.75, "top_p = 3\n")


def test_a_setting_that_cannot_be_is_not_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, says in (
        (("effrt", "low"), "did you mean effort?"),
        (("nonsense", "low"), "there are model, effort"),
        (("effort", "huge"), "one of low, medium, high"),
        (("seed", "x"), "a whole number"),
    ):
        done = gptoss("config", "set", *arguments)
        assert (done.returncode, says in done.stderr) == (2, True)
    assert not config_path().exists()
    monkeypatch.setenv("GPTOSS_EFFORT", "high")
    assert "GPTOSS_EFFORT is set, and overrides" in gptoss("config", "set", "effort", "low").stdout


def test_lists_come_from_the_file_the_environment_and_flags(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('allow = ["time.*", "a b"]\n')
    assert load_settings().allow == ("time.*", "a b")
    assert load_settings(allow=["x"]).allow == ("x",)
    monkeypatch.setenv("GPTOSS_ALLOW", "git.status, git.log")
    assert load_settings().allow == ("git.status", "git.log")
    assert gptoss("config", "set", "deny", "files.write_*, memory.*").returncode == 0
    assert load_settings().deny == ("files.write_*", "memory.*")
    assert 'deny = ["files.write_*", "memory.*"]' in gptoss("config", "show").stdout


@pytest.mark.parametrize("line", ['allow = "time.*"', "allow = [1]", "allow = 7"])
def test_a_list_that_is_none_is_named(line: str, file: Path) -> None:
    file.write_text(line + "\n")
    with pytest.raises(InvalidRequest, match="a list of texts is needed"):
        load_settings()
