import jax
import jax.numpy as jnp
import pytest

from ddr_jax.train import devices


class Device:
    def __init__(self, **stats):
        self.stats = stats or None

    def memory_stats(self):
        return self.stats


def test_a_device_that_does_not_say_has_no_known_limit():
    assert devices.limit(Device()) is None
    assert devices.limit(Device(bytes_limit=7)) == 7


def test_the_peak_is_the_fullest_devices_and_else_the_processs(monkeypatch):
    assert devices.peak_memory() > 1e7
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(peak_bytes_in_use=3), Device(peak_bytes_in_use=5)])
    assert devices.peak_memory() == 5


@pytest.mark.parametrize(
    ("text", "exhausted"),
    [("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes", True), ("INTERNAL: cuDNN error", False)],
)
def test_only_errors_of_memory_are_of_memory(text, exhausted):
    assert devices.exhausted(jax.errors.JaxRuntimeError(text)) == exhausted


def test_intermediates_are_every_value_of_inner_functions_too():
    @jax.jit
    def inner(x):
        return x * 2 + 1  # two of four float32

    x = jnp.zeros(4, jnp.float32)
    assert devices.intermediates(lambda x: inner(x).astype(jnp.bfloat16), x) == 4 * (4 + 4 + 2)
    assert devices.size({"a": x, "b": jax.ShapeDtypeStruct((3,), jnp.int8)}) == 19
