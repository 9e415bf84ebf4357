"""The house's walls: which room may see which, and what the command line may import before it answers."""

import ast
import subprocess
import sys
from pathlib import Path

import ddr_jax

PACKAGE = Path(ddr_jax.__file__).parent
FLOORS = (  # imports go from a later line to an earlier one
    ("types",),
    (
        "files",
        "readers",
        "nets",
        "losses",
        "metrics",
        "intervals",
        "optim",
        "sampling",
        "costs",
        "memory",
        "compilation",
    ),
    ("protocol", "folders", "whitening"),
    ("datasets", "presets", "recipes", "randaugment"),
    ("distilled", "coresets", "teachers", "readout", "compare", "stability", "augment", "ddranking_configs"),
    ("train", "store", "configs"),
    ("population", "report"),
    ("provenance", "result"),
    ("arms", "demo", "comparison", "grids"),
    ("evaluate", "options"),
    ("cross",),
    ("cli",),
)


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, wherever in the file; types for checkers alone do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "ddr_jax":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddr_jax."):
            rooms.add(node.module.split(".")[1])
    return rooms


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_go_downwards():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE]
    assert {room_of(path) for path in files} == set(floor)
    upward = {
        (room_of(path), room)
        for path in files
        for room in imported_rooms(path) - {room_of(path)}
        if floor[room] >= floor[room_of(path)]
    }
    assert upward == set()


def test_only_nets_imports_flax():
    users = {room_of(path) for path in PACKAGE.rglob("*.py") if "flax" in path.read_text().replace("ddr-jax", "")}
    assert users <= {"nets", "provenance", "train"}  # provenance names its version, train speaks of its modules
    importing = {room_of(path) for path in PACKAGE.rglob("*.py") if "from flax" in path.read_text()}
    assert importing == {"nets"}


def test_the_command_line_answers_before_jax_is_imported():
    code = "import ddr_jax.cli, sys; sys.exit('jax' in sys.modules or 'tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there():
    assert all(getattr(ddr_jax, name) is not None for name in ddr_jax.__all__)


def test_functions_fit_a_screen():
    long = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = len(node.args.args) + len(node.args.kwonlyargs)
                if node.end_lineno - node.lineno >= 60 or arguments > 10:
                    long.append(f"{path.name}:{node.lineno} {node.name}")
    assert long == []
