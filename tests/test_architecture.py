"""The shape of the package: imports flow one way, and heavy ones are made where they are used."""

import ast
import sys
import tomllib
from pathlib import Path

import ambient
import pytest

ROOT = Path(ambient.__file__).parent
LAYERS = ["schemas", "curate", "train", "cli"]
"""Each may import those before it."""

NOT_CODE = {"tests", "docs", "benchmarks", "examples", "build", "demo", "runs", "dist"}
LIGHT = {"torch", "numpy", "pyarrow", "pillow", "safetensors", "rich", "typer"}
DISTRIBUTIONS = {"PIL": "pillow"}


def modules() -> list[Path]:
    """Relative paths of the package's Python files."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(path for path in paths if path.parts[0] not in NOT_CODE and not path.parts[0].startswith("."))


def imports(path: Path, *, top_level: bool) -> list[tuple[int, str]]:
    """(number of leading dots, dotted name) of what a module imports; top_level: only what importing it imports."""
    found = []
    waiting: list[ast.AST] = [ast.parse((ROOT / path).read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" if node.module else alias.name for alias in node.names]
            found += [(node.level, name) for name in names]
        elif top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif top_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
    return found


def layer_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def absolute(path: Path, dots: int, name: str) -> tuple[str, ...]:
    """The parts of a relative import's target, from the package's root."""
    package = path.parts[:-1]
    return (*package[: len(package) - (dots - 1)], *name.split("."))


def test_the_walk_sees_the_package() -> None:
    assert {layer_of(path) for path in modules()} == {*LAYERS, "__init__"}
    assert (1, "schemas.errors.UserError") in imports(Path("cli.py"), top_level=True)
    assert (1, "curate.ask.ask") not in imports(Path("cli.py"), top_level=True)
    assert (1, "curate.ask.ask") in imports(Path("cli.py"), top_level=False)
    assert absolute(Path("train/networks/unet.py"), 3, "schemas.space") == ("schemas", "space")
    assert absolute(Path("train/loop.py"), 1, "config") == ("train", "config")


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_flow_one_way(path: Path) -> None:
    allowed = {*LAYERS[: LAYERS.index(layer_of(path)) + 1]} if layer_of(path) in LAYERS else set()
    for dots, name in imports(path, top_level=False):
        if dots:
            target = absolute(path, dots, name)[0]
            assert target in {*allowed, "__version__"}, f"{path} imports {target}"


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_inside_the_package_are_relative(path: Path) -> None:
    for dots, name in imports(path, top_level=False):
        assert dots or name.split(".")[0] not in {"ambient", *LAYERS}


def needed(*starts: str) -> list[Path]:
    """The package's modules that are imported when these are."""
    known, waiting = set[Path](), [Path(start) for start in starts]
    while waiting:
        path = waiting.pop()
        if path in known:
            continue
        known.add(path)
        for dots, name in imports(path, top_level=True):
            target = "/".join(absolute(path, dots, name)) if dots else ""
            waiting += {Path(f"{target}.py"), Path(f"{target.rpartition('/')[0]}.py")} & MODULES
    return sorted(known)


MODULES = set(modules())
GPU_LOOPS = needed("curate/annotate.py", "train/loop.py", "train/generate.py")


def test_the_gpu_loops_are_found() -> None:
    expected = {"curate/classifier.py", "curate/images.py", "curate/query.py", "schemas/space.py", "train/target.py"}
    assert {Path(path) for path in expected} <= set(GPU_LOOPS)
    assert Path("curate/corruptions.py") not in GPU_LOOPS


@pytest.mark.parametrize("path", GPU_LOOPS, ids=str)
def test_top_level_imports_of_the_gpu_loops_are_few(path: Path) -> None:
    """polars, duckdb, scipy, pyiqa, open_clip, matplotlib ... are imported where they are used."""
    outside = {name.split(".")[0] for dots, name in imports(path, top_level=True) if not dots}
    outside = {DISTRIBUTIONS.get(name, name) for name in outside - set(sys.stdlib_module_names)}
    assert outside <= ({"pyarrow"} if layer_of(path) == "schemas" else LIGHT)


def test_every_folder_with_code_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in modules()}
    assert sorted(listed) == sorted(".".join(["ambient", *folder.parts]) for folder in folders)
    for folder in folders:
        assert (ROOT / folder / "__init__.py").exists()


def test_every_other_file_that_code_reads_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    packages = {package: Path(*package.split(".")[1:]) for package in data}
    listed = {
        path.relative_to(ROOT)
        for package, names in data.items()
        for name in names
        for path in (ROOT / packages[package]).glob(name)
    }
    found = {
        path.relative_to(ROOT)
        for folder in ("schemas", "curate", "train")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert listed == found | {Path("py.typed")}


def test_requirements_are_what_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["eval"]
    required = {requirement.split(">")[0].replace("-", "_") for requirement in listed}
    names = {"PIL": "pillow", "skimage": "scikit_image", "open_clip": "open_clip_torch"}
    imported = {name.split(".")[0] for path in modules() for dots, name in imports(path, top_level=False) if not dots}
    with_torch = {"triton"}  # where that is for GPUs
    assert {names.get(name, name) for name in imported - set(sys.stdlib_module_names)} <= required | with_torch
