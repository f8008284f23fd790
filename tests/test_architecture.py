"""The layout as an executable rule: floors, sizes, and no body written twice."""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "losses": 0, "metrics": 0, "figures": 0, "models": 1, "datamodules": 2,
    "lightning_modules": 3, "callbacks": 3, "export": 3, "experiments": 4,
}  # fmt: skip
SOURCES = sorted(path for room in FLOORS for path in (ROOT / room).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 400, 60, 12


@cache
def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text())


def imported_rooms(path: Path) -> set[str]:
    """Return our own top-level packages that a module imports, at whatever depth."""
    rooms = set()
    for node in ast.walk(parsed(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        rooms.update(name.split(".")[0] for name in names)
    return rooms & set(FLOORS)


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_imports_point_to_a_lower_floor() -> None:
    assert len(SOURCES) > 200
    for path in SOURCES:
        own = path.relative_to(ROOT).parts[0]
        upward = {room for room in imported_rooms(path) - {own} if FLOORS[room] >= FLOORS[own]}
        assert not upward, f"{path} (floor {FLOORS[own]}) imports {sorted(upward)}"


def test_floor_zero_imports_nothing_of_ours() -> None:
    """Losses and metrics import themselves by relative names: installed, they are `sonodistill.losses`."""
    for path in SOURCES:
        own = path.relative_to(ROOT).parts[0]
        if FLOORS[own] == 0:
            allowed = {"figures"} if own == "figures" else set()
            assert imported_rooms(path) <= allowed, path


def test_files_and_functions_stay_small() -> None:
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= MAX_FILE_LINES, path
        for function in functions(path):
            lines = (function.end_lineno or 0) - function.lineno + 1
            doc = ast.get_docstring(function, clean=False)
            lines -= len(doc.splitlines()) if doc else 0
            assert lines <= MAX_FUNCTION_LINES, (
                f"{path}: {function.name}: {lines} lines without its docstring"
            )


def test_a_folder_holds_few_modules() -> None:
    for folder in {path.parent for path in SOURCES}:
        modules = [path for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
        assert len(modules) <= MAX_MODULES, folder


@pytest.mark.parametrize("room", FLOORS)
def test_no_circular_imports_inside_a_room(room: str) -> None:
    """Modules of a room import each other in one direction, and so do folders that lie side by side."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] == room
    }
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom):
                around = name.split(".") + ["__init__"] * (path.name == "__init__.py")
                above = ".".join(around[: -node.level]) if node.level else ""
                module = ".".join(filter(None, (above, node.module)))
                deeper = {f"{module}.{alias.name}" for alias in node.names}
                found |= (deeper & set(modules)) or ({module} & set(modules))
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names} & set(modules)
        graph[name] = found - {name}
    folders: dict[str, set[str]] = defaultdict(set)
    packages = {name for name, path in modules.items() if path.name == "__init__.py"}
    for name, targets in graph.items():
        if name in packages:  # a package's public names come from everywhere in it
            continue
        own = name.rpartition(".")[0]
        others = {target if target in packages else target.rpartition(".")[0] for target in targets} - {own}
        # A folder and the one around it are read together.
        folders[own] |= {f for f in others if not f.startswith(f"{own}.") and not own.startswith(f"{f}.")}
    for level, edges in (
        ("modules", {n: t for n, t in graph.items() if n not in packages}),
        ("folders", folders),
    ):
        assert _circle(edges) is None, f"{level}: {' -> '.join(_circle(edges) or [])}"


def _circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return None


def test_no_function_body_is_written_twice() -> None:
    bodies = defaultdict(list)
    for path in SOURCES:
        for function in functions(path):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            if sum(1 for statement in body for _ in ast.walk(statement)) > 40:
                bodies["\n".join(ast.dump(node) for node in body)].append(f"{path.name}:{function.name}")
    assert [names for names in bodies.values() if len(names) > 1] == []


def test_every_room_is_packaged_and_none_is_ignored() -> None:
    settings = (ROOT / "setup.py").read_text()
    for room in FLOORS:
        assert f'"{room}"' in settings
        assert (ROOT / room / "__init__.py").is_file()
    for line in (ROOT / ".gitignore").read_text().split():
        if line.endswith("/") and "." not in line and "__pycache__" not in line:
            assert line.startswith("/"), f".gitignore: {line} is not anchored and could hide a package folder"


def test_no_file_shadows_a_third_party_package_or_says_nothing() -> None:
    for path in SOURCES:
        assert path.stem not in {
            "utils",
            "helpers",
            "misc",
            "common",
            "onnx",
            "torch",
            "coremltools",
            "timm",
        }, path


# Needed without an import of ours: tools, stubs, and what another package imports when it is asked to.
NOT_IMPORTED = {
    "mypy", "ruff", "types-PyYAML", "types-tqdm", "mkdocs-material", "mkdocstrings",
    "ipykernel",  # runs the notebook
    "flask", "flask-cors",  # moto's server
    "onnxscript",  # torch.onnx writes graphs with it
    "openpyxl",  # pandas reads Excel files with it
    "aiohttp", "s3fs", "gcsfs",  # file systems of fsspec
    "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg",  # decoders of pydicom
}  # fmt: skip
IMPORT_NAMES = {
    "mlflow-skinny": "mlflow",
    "opencv-python-headless": "cv2", "open_clip_torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml",
    "pytest-xdist": "xdist", "scikit-learn": "sklearn", "litert-torch": "litert_torch",
    "ai-edge-litert": "ai_edge_litert", "ai-edge-quantizer": "ai_edge_quantizer",
}  # fmt: skip


def test_every_package_that_is_asked_for_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    code = "\n".join(
        path.read_text() for room in (*FLOORS, "tests", "benchmarks") for path in (ROOT / room).rglob("*.py")
    )
    imported = set(re.findall(r"^ *(?:import|from) (\w+)", code, re.MULTILINE))
    names = {re.match(r"[\w-]+", requirement).group() for requirement in asked}
    assert {name for name in names if IMPORT_NAMES.get(name, name) not in imported} == NOT_IMPORTED


def test_no_page_holds_a_merge_conflict() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in lines), path
