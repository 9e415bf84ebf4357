"""The option reference: the page that is kept is the page that is made."""

import dataclasses
from pathlib import Path

from ddr_jax.cli import options, reference


def test_the_option_reference_is_fresh():
    kept = (Path(__file__).parents[1] / "OPTIONS.md").read_text(encoding="utf-8")
    assert kept == reference.page(), "run: python -m ddr_jax.cli.reference > OPTIONS.md"


def test_the_option_reference_says_of_each_command_what_it_takes(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class One:
        """Of this test."""

        often: bool = False
        """How | often."""
        rates: tuple[float, ...] = (0.1, 0.2)
        """Several."""
        size: int = dataclasses.field(kw_only=True)
        """Needed."""

    monkeypatch.setattr(reference, "COMMANDS", {"one": One, "two": One, "demo": options.COMMANDS["demo"]})
    lines = reference.page().splitlines()
    assert "- `one`: Of this test." in lines
    shared = lines[lines.index("## one, two") :]
    assert "| `--often` | true or false | False | How \\| often. |" in shared
    assert "| `--rates` | a number, or a list of such | 0.1 0.2 | Several. |" in shared
    assert "| `--size` | a whole number | required | Needed. |" in shared
    assert "| `--seeds` | a whole number, 1 or more | 5 |" in "\n".join(lines[lines.index("## demo") :])
