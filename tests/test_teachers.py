import chex
import jax
import numpy as np

from ddr_jax import nets, teachers


def test_weights_survive_a_round_trip(tmp_path):
    net = nets.build("ConvNet-1-BN", width=4, num_classes=3)
    variables = jax.device_get(nets.init(net, jax.random.key(0), (8, 8, 1)))
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(teachers.to_bytes(variables))
    chex.assert_trees_all_equal(teachers.load(path), variables)


def test_labels_are_the_mean_logits_whatever_the_batch():
    net = nets.build("MLP", width=4, num_classes=3)
    pair = [jax.device_get(nets.init(net, jax.random.key(seed), (8, 8, 1))) for seed in (0, 1)]
    images = np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32)
    expected = np.mean([nets.apply(net, variables, images) for variables in pair], 0)
    for batch in (4, 10, 64):
        chex.assert_trees_all_close(teachers.label(net, teachers.stack(pair), images, batch), expected, atol=1e-5)
