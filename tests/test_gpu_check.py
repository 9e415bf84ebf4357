"""The check of every student on a GPU, on a CPU: its cases, its processes and what becomes of them; no speeds."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ddr_jax.nets import NETS, names

SCRIPT = Path(__file__).parents[1] / "experiments" / "gpu_check.py"
TINY = "MLP/28px/float32/1"
OWN = {"float32": 1e-6, "bfloat16": 0.1}  # a CPU's errors


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def bench(gpu_check, tmp_path):
    """What runs cases with a minute to go, on a device that nobody asked."""
    (tmp_path / "records").mkdir()

    def of(*cases, platform="cpu", seconds=60.0):
        device = {"platform": platform, "kind": "a device", "jax": "0"}
        deadline = gpu_check.time.monotonic() + seconds
        return gpu_check.Bench(device, tmp_path, tmp_path, deadline, 1, [gpu_check.read(case) for case in cases])

    return of


def python(program):
    """In place of a case's process, one that runs a program."""
    return lambda name, platform, scratch, *words: [sys.executable, "-c", program]


def test_the_list_covers_every_network_at_every_precision(gpu_check, capsys):
    assert gpu_check.main(["--list"])
    cases = [gpu_check.read(name) for name in capsys.readouterr().out.split()]
    checks = [case for case in cases if isinstance(case, gpu_check.Check)]
    assert len({case.name for case in cases}) == len(cases)
    covered = {(case.net, case.precision, case.students) for case in checks}
    same = {name for name in NETS if "-IN" in name or (name.startswith("torchvision-ResNet") and name.endswith("-BN"))}
    for net in NETS.keys() - same:
        assert covered >= {(net, precision, count) for precision in gpu_check.PRECISIONS for count in (1, 3)}
    for name in same:  # what is left out is another name of what is there
        other = names.find(name.replace("-IN", "") if "-IN" in name else name.removesuffix("-BN"))
        assert (other.target, other.settings) == (NETS[name].target, NETS[name].settings)
    assert {case.side for case in checks if case.net == "ConvNet-3"} == {28, 32, 64, 224}
    assert {case.engine for case in cases if case not in checks} == set(gpu_check.ENGINES)


def test_the_most_used_networks_come_first_and_once_before_any_comes_twice(gpu_check):
    cases = gpu_check.every_case()[: len(gpu_check.USED)]
    assert [case.net for case in cases] == list(gpu_check.USED)


@pytest.mark.slow
def test_a_case_runs_passes_and_is_not_run_again(gpu_check, tmp_path, capsys, monkeypatch):
    words = ["--out", str(tmp_path), "--processes", "1", "--only", TINY]
    assert gpu_check.main(words)
    assert capsys.readouterr().out.splitlines() == [f"{TINY}: pass", "1 of 1 pass"]
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "records").iterdir())
    assert record["gradient"] < 1e-5
    assert record["labels"] < 1e-5
    assert min(record[speed] for speed in ("train", "test", "label", "peak")) > 0
    assert f"| {TINY} | pass |" in (tmp_path / "gpu_check.md").read_text()
    monkeypatch.setattr(gpu_check.Bench, "call", lambda *_: pytest.fail("it runs again"))
    assert gpu_check.main(words)
    assert capsys.readouterr().out.splitlines() == ["1 of 1 pass"]


def test_a_network_that_does_not_exist_is_a_failing_line(bench):
    checked = bench("NoSuchNet/32px/float32/1")
    checked.run()
    (record,) = checked.records.values()
    assert not record["passed"]
    assert "Unknown network 'NoSuchNet'" in record["reason"]


def test_a_case_that_aborts_is_a_failing_line_and_the_next_one_runs(gpu_check, bench, monkeypatch):
    aborts = "import os, sys; print('F0000 tiling.cc:7] Check failed: a == b', file=sys.stderr, flush=True); os.abort()"
    passes = 'print(\'{"passed": true, "train": 5.0}\')'
    monkeypatch.setattr(
        gpu_check, "command", lambda name, *_: [sys.executable, "-c", aborts if name == TINY else passes]
    )
    checked = bench(TINY, "speed/ConvNet-3-32px-1/ours", "MLP/32px/tf32/3")
    checked.run()
    table = (checked.folder / "gpu_check.md").read_text()
    assert f"| {TINY} | FAILS: the CPU's float64: SIGABRT: F0000 tiling.cc:7] Check failed: a == b |" in table
    assert "| speed/ConvNet-3-32px-1/ours | pass | 5 |" in table
    assert "| MLP/32px/tf32/3 | skipped, CPUs have no tf32 |" in table
    assert "1 of 2 pass (1 fail, 1 skipped)" in table


def test_a_case_that_the_deadline_cuts_off_keeps_no_record_and_is_left_for_the_next_run(gpu_check, bench, monkeypatch):
    monkeypatch.setattr(gpu_check, "command", python("import time; time.sleep(60)"))
    checked = bench("speed/ConvNet-3-32px-1/ours", TINY, seconds=1.5)
    checked.run()
    assert not checked.records
    assert "0 of 2 pass (2 not run yet)" in (checked.folder / "gpu_check.md").read_text()


def test_a_case_that_hangs_fails(gpu_check, bench, monkeypatch):
    monkeypatch.setattr(gpu_check, "command", python("import time; time.sleep(60)"))
    monkeypatch.setattr(gpu_check, "CASE_SECONDS", 1)
    checked = bench("speed/ConvNet-3-32px-1/ours", platform="gpu")
    checked.run()
    assert checked.records["speed/ConvNet-3-32px-1/ours"]["reason"] == "no end after 1 s"


def test_a_case_without_memory_beside_others_is_tried_again_alone(gpu_check, bench, monkeypatch):
    monkeypatch.setattr(gpu_check, "command", python("raise MemoryError('RESOURCE_EXHAUSTED: out of memory')"))
    checked = bench("speed/ConvNet-3-32px-1/ours")
    checked.processes, tried = 2, []
    monkeypatch.setattr(checked, "call", lambda case, *_: tried.append(case) or gpu_check.Bench.call(checked, case))
    checked.run()
    assert len(tried) == 2
    assert "RESOURCE_EXHAUSTED" in checked.records["speed/ConvNet-3-32px-1/ours"]["reason"]


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-3), ("tf32", 0.055), ("bfloat16", 0.22)])
def test_errors_may_be_what_rounding_makes_of_them(gpu_check, precision, most):
    assert gpu_check.allowed(precision, OWN) == pytest.approx(most)
    assert gpu_check.allowed(precision, dict.fromkeys(OWN, 3.0)) == 0.9  # never as large as an unrelated gradient's


def test_records_of_another_code_or_device_do_not_count(gpu_check, bench, monkeypatch):
    case = gpu_check.read(TINY)
    mine = bench(TINY).file(case)
    assert mine != bench(TINY, platform="gpu").file(case)
    monkeypatch.setattr(gpu_check, "code_digest", lambda: "another")
    assert mine != bench(TINY).file(case)


def test_nothing_it_imports_needs_the_command_lines_libraries():
    program = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tyro", "tensorflow_datasets", "matplotlib"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, {str(SCRIPT.parent)!r})
import gpu_check
assert "jax" not in sys.modules  # it would hold the device's memory
import gpu_check_case
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
