import pytest

from ddr_jax.protocols.protocol import Protocol
from ddr_jax.results.costs import human, label_cost

CIFAR10_10 = (100, 32, 32, 3)


def test_images_cost_a_byte_or_four_per_number():
    costs = label_cost(Protocol(), CIFAR10_10, 10)
    assert (costs.images_uint8, costs.images_float32) == (307_200, 1_228_800)


@pytest.mark.parametrize(("classes", "size"), [(1, 1), (2, 1), (256, 1), (257, 2), (1000, 2), (65_536, 2), (65_537, 3)])
def test_hard_labels_cost_the_bytes_of_an_index(classes, size):
    assert label_cost(Protocol(), (7, 1, 1, 1), classes).labels_stored == 7 * size


def test_soft_labels_cost_a_float_per_class():
    costs = label_cost(Protocol(labels="soft"), CIFAR10_10, 10, teacher_parameters=5)
    assert (costs.labels_stored, costs.labels_recomputed, costs.teacher_passes) == (4_000, None, 0)


def test_teachers_labels_are_kept_for_every_epoch_or_recomputed():
    costs = label_cost(Protocol(labels="teacher", epochs=300), CIFAR10_10, 10, teacher_parameters=1_000, teachers=2)
    assert costs.labels_stored == 300 * 4_000
    assert (costs.labels_recomputed, costs.teacher_passes) == (8_000, 60_000)


def test_a_teacher_of_unknown_size_leaves_its_bytes_open():
    costs = label_cost(Protocol(labels="teacher", epochs=2), CIFAR10_10, 10)
    assert (costs.labels_recomputed, costs.teacher_passes) == (None, 200)
    assert "200 forward passes" in str(costs)


def test_costs_are_one_line():
    assert (
        str(label_cost(Protocol(), CIFAR10_10, 10)) == "images 307 kB (uint8) or 1.23 MB (float32); hard labels 100 B"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (9_996, "10.0 kB"),
        (12_340, "12.3 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (45_600_000_000, "45.6 GB"),
        (10**19, "10000 PB"),
    ],
)
def test_bytes_have_three_digits(size, text):
    assert human(size) == text
