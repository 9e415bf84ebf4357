"""The house's walls: which folder may see which, and what the command line may import before it answers."""

import ast
import subprocess
import sys
from pathlib import Path

import ddr_jax

PACKAGE = Path(ddr_jax.__file__).parent
FLOORS = (  # imports go from a later line to an earlier one, those for type checkers too
    ("types",),
    ("scores", "nets"),
    ("data",),
    ("protocols",),
    ("augment", "results"),
    ("train", "rates"),
    ("evaluate",),
    ("sweep",),
    ("cli",),
)
FILES = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py"]


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in the file: ddr_jax.data.readers as data.readers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "ddr_jax":
            found |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddr_jax."):
            module = node.module.removeprefix("ddr_jax.")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def folder_of(module: str) -> str:
    return module.split(".")[0]


def test_imports_go_downwards():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert {folder_of(name_of(path)) for path in FILES} <= set(floor)
    upward = {
        (name_of(path), module)
        for path in FILES
        for module in imported(path)
        if folder_of(module) != folder_of(name_of(path)) and floor[folder_of(module)] >= floor[folder_of(name_of(path))]
    }
    assert upward == set()


def test_no_modules_import_one_another_in_a_circle():
    modules = {name_of(path) for path in FILES}
    graph = {name_of(path): imported(path) & modules - {name_of(path)} for path in FILES if path.name != "__init__.py"}

    def reachable(module: str) -> set[str]:
        seen, waiting = set(), [module]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    assert {module for module in graph if module in reachable(module)} == set()


def test_folders_stay_small_enough_to_know():
    top = [path for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(top) <= 13  # the package's own __init__ beside twelve
    for folder in (path for path in top if path.is_dir() and path.name != "nets"):
        assert len(list(folder.glob("*.py"))) <= 10, folder


def test_only_nets_imports_flax():
    importing = {folder_of(name_of(path)) for path in FILES if "from flax" in path.read_text()}
    assert importing == {"nets"}


def test_the_command_line_answers_before_jax_is_imported():
    code = "import ddr_jax.cli.main, sys; sys.exit('jax' in sys.modules or 'tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there():
    assert all(getattr(ddr_jax, name) is not None for name in ddr_jax.__all__)


def test_functions_fit_a_screen():
    long = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = len(node.args.args) + len(node.args.kwonlyargs)
                if node.end_lineno - node.lineno >= 50 or arguments > 10:
                    long.append(f"{path.name}:{node.lineno} {node.name}")
    assert long == []
