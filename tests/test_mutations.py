"""The list of experiments/mutations.py stands for what is in the package."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "mutations.py"


@pytest.fixture(scope="module")
def mutations():
    spec = importlib.util.spec_from_file_location("mutations", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_mutation_stands_once_in_the_package_and_changes_it(mutations):
    wrong = []
    for mutation in mutations.MUTATIONS:
        try:
            text = mutations.file_of(mutation).read_text()
        except ValueError as error:
            wrong.append(str(error))
            continue
        changed = text.replace(mutation.old, mutation.new)
        tomllib.loads(changed) if mutation.place.endswith(".toml") else compile(changed, mutation.place, "exec")
        assert mutation.old != mutation.new
    assert not wrong, "\n".join(wrong)
    assert len(set(mutations.MUTATIONS)) == len(mutations.MUTATIONS)
    files = {word for mutation in mutations.MUTATIONS for word in mutation.tests.split() if word.endswith(".py")}
    assert {file for file in files if not (mutations.ROOT / file).exists()} == set()


def test_a_text_that_moved_away_is_named(mutations):
    with pytest.raises(ValueError, match="'EPS = 1e-9' stands 0 times in ddr_jax/nets, not once"):
        mutations.file_of(mutations.Mutation("nets", "EPS = 1e-9", "", ""))
