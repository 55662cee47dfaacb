"""The package as it is declared, built and described: pyproject.toml, the wheel, the README."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.test_layers import ORDER

CODE = ("gptoss_mlx", "cli", "convert")
TRAINING = "gptoss_mlx/demo/training/"
"""Needs torch; in the repository and the source distribution only."""


def sources() -> Iterator[Path]:
    """What is installed, and not reached through the two links a second time."""
    for package in CODE:
        for path in (ROOT / package).rglob("*.py"):
            if not path.relative_to(ROOT).as_posix().startswith(TRAINING):
                yield path


def imported(path: Path) -> Iterator[str]:
    """Top-level names of all imports that are not relative, those under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def declared(extra: str = "") -> set[str]:
    """Distributions that installing the package, or an extra of it, installs by name."""
    table = project()
    requirements = table["optional-dependencies"][extra] if extra else table["dependencies"]
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {normal(name[0]) for name in names if name}


def test_every_import_is_declared() -> None:
    distributions = metadata.packages_distributions()
    modules = {name for path in sources() for name in imported(path)}
    missing = {
        name
        for name in modules - sys.stdlib_module_names - {"gptoss_mlx"}
        if not {normal(distribution) for distribution in distributions[name]} & (declared() | declared("mcp"))
    }
    assert not missing


def test_the_extra_for_servers_is_imported_by_their_client_alone() -> None:
    distributions = metadata.packages_distributions()
    client = ROOT / "gptoss_mlx" / "tools" / "mcp"
    own = declared("mcp") - declared()
    importing = {
        path
        for path in sources()
        for name in imported(path)
        if own & {normal(distribution) for distribution in distributions.get(name, ())}
    }
    assert importing
    assert all(path.is_relative_to(client) for path in importing)


def test_everything_declared_is_imported() -> None:
    distributions = metadata.packages_distributions()
    modules = {name for path in sources() for name in imported(path)}
    used = {normal(distribution) for name in modules for distribution in distributions.get(name, ())}
    # Checkpoints are safetensors files: its package is a part of what was asked for, and the reference of the
    # tests.
    assert declared() - {"safetensors"} <= used


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the source distribution, built from a copy of the repository."""
    copy, out = tmp_path_factory.mktemp("source") / "copy", tmp_path_factory.mktemp("built")
    copy.mkdir()
    for name in (*CODE, "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "data")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in (".ci", ".github"):
        shutil.copytree(ROOT / name, copy / name)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    build = f"from setuptools import build_meta as b; b.build_sdist({str(out)!r}); b.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True)
    return out


def names_of(path: Path) -> set[str]:
    """Files in a distribution, without the directory at the top of a source distribution."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return set(wheel.namelist())
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_holds_the_package_and_no_training_code(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in names_of(wheel) if ".dist-info/" not in name}
    modules = {path.relative_to(ROOT).as_posix() for path in sources()}
    modules = {name if name.startswith("gptoss_mlx/") else f"gptoss_mlx/{name}" for name in modules}
    checkpoint = {path.relative_to(ROOT).as_posix() for path in (ROOT / "gptoss_mlx/demo/checkpoint").iterdir()}
    assert names == modules | checkpoint | {"gptoss_mlx/py.typed", "gptoss_mlx/benchmark/chat.json"}


def test_the_source_distribution_holds_the_training_code(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    training = {path.relative_to(ROOT).as_posix() for path in (ROOT / TRAINING).glob("*.[pt]*")}
    assert f"{TRAINING}train.py" in training
    assert f"{TRAINING}newcomers.toml" in training
    assert training | {"gptoss_mlx/demo/README.md", "README.md", "LICENSE"} <= names_of(archive)


def test_the_source_distribution_holds_the_tests_and_what_they_read(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    needed = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/*.py")}
    needed |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/benchmarks/*.md")}
    needed |= {"SECURITY.md", "cli/app.py", "convert/README.md", ".ci/run", ".github/session.svg"}
    assert needed <= names_of(archive)


def test_links_of_a_release_lead_to_files_of_its_tag(tmp_path: Path) -> None:
    for name in ("README.md", "pyproject.toml", ".ci/release"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    home = "https://host.example/owner/name"
    run = [sys.executable, str(tmp_path / ".ci/release"), home]
    assert subprocess.run([*run, "v9"], capture_output=True, check=False).returncode == 1
    subprocess.run([*run, f"v{project()['version']}"], check=True)
    links = re.findall(r"\]\(([^)]+)\)", (tmp_path / "README.md").read_text())
    assert all(link.startswith(("https://", "#")) for link in links)
    tagged = [link.split("/", 7)[7] for link in links if link.startswith(home)]
    assert tagged
    assert all((ROOT / path).exists() for path in tagged)
    assert tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["urls"]["Repository"] == home


def readme_tree() -> dict[str, list[str]]:
    """The tree in README.md: the names under each directory at the top."""
    block = re.search(r"```\n(gptoss_mlx/ .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    tree: dict[str, list[str]] = {}
    for line in block[1].splitlines():
        names = re.split(r" {2,}", line.strip())[0].split()
        if line.startswith(" "):
            tree[list(tree)[-1]] += names
        else:
            tree[names[0]] = []
    return tree


def listing(directory: Path) -> set[str]:
    """What ``ls -F`` shows, without the marks of links and without caches."""
    entries = (path for path in directory.iterdir() if path.name != "__pycache__")
    return {path.name + "/" * (path.is_dir() and not path.is_symlink()) for path in entries}


def test_the_tree_in_the_readme_is_what_ls_shows() -> None:
    tree = readme_tree()
    assert set(tree) == {"gptoss_mlx/", "cli/", "convert/", "tests/"}
    for directory in ("gptoss_mlx/", "cli/"):
        assert sorted(tree[directory]) == sorted(listing(ROOT / directory))


def test_the_tree_in_the_readme_follows_the_order_of_the_layers() -> None:
    places = [place for line in ORDER for place in line.split()]
    names = [name.removesuffix("/").removesuffix(".py") for name in readme_tree()["gptoss_mlx/"]]
    assert names == [place for place in places if place in names] + ["py.typed"]
