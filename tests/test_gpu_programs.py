"""What XLA for a GPU is given to compile, as far as a CPU can tell: products whose operands its fusion can follow.

XLA's fusion of products takes a strided slice for its whole operand and then ends the process, so no product may take
one, nor pixels with zeros between them, unless the formulation has been compiled on a GPU.
"""

from collections import defaultdict
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest
from jax.extend.mlir import ir

from ddr_jax import nets
from ddr_jax.nets import resnet
from ddr_jax.nets.precision import arithmetic, operands

STUDENTS, BATCH = 2, 2
# What a fusion of products follows for certain. Arithmetic it follows less, and pools before a head have compiled.
LAYOUT = {f"stablehlo.{name}" for name in ("reshape", "transpose", "concatenate", "convert", "broadcast_in_dim")}
LAYOUT |= {"stablehlo.slice", "stablehlo.pad", "stablehlo.reverse"}

SMALL = ("ResNet", "AlexNet", "LeNet", "VGG-11", "ViT")
STRIDED = [
    *[(name, 64) for name in nets.NETS if name.startswith(SMALL) and "-IN" not in name],  # IN is what no suffix means
    *[(name, 224) for name in nets.NETS if name.startswith(("torchvision-ResNet", "torchvision-AlexNet"))],
    *[(f"torchvision-{name}", 64) for name in ("AlexNet", "VGG-11", "ResNet-18", "ResNet-50")],
]


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Networks are traced as for a GPU, ResNets with one block a stage: the others repeat it without a stride."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(resnet, "BLOCKS", dict.fromkeys(resnet.BLOCKS, (1, 1, 1, 1)))
    jax.clear_caches()


def lowered(name: str, side: int, precision: str) -> ir.Module:
    """The forward pass and the gradient of students side by side, as StableHLO for CUDA."""
    net = nets.build(name, num_classes=10)
    images = jax.ShapeDtypeStruct((STUDENTS, BATCH, side, side, 3), jnp.float32)
    variables = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (side, side, 3)))
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((STUDENTS, *leaf.shape), leaf.dtype), variables)

    def gradient(variables, images):
        def loss(params):
            taken = {**variables, "params": operands(precision, params)}
            logits, _ = nets.apply_train(net, taken, operands(precision, images), jax.random.key(1))
            return (logits.astype(jnp.float32) ** 2).sum()

        with arithmetic(precision):
            return jax.grad(loss)(variables["params"])

    traced = jax.jit(jax.vmap(gradient)).trace(variables, images)
    return traced.lower(lowering_platforms=("cuda",)).compiler_ir()


class Program:
    """A StableHLO module in which values are followed back, into and out of its functions."""

    def __init__(self, module: ir.Module):
        self.functions, self.calls, self.products = {}, defaultdict(list), []
        for function in module.body.operations:
            self.functions[function.name.value] = function
            for operation in every_operation(function):
                if operation.name == "func.call":
                    self.calls[callee(operation)].append(operation)
                if operation.name == "stablehlo.dot_general":
                    self.products.append(operation)

    def behind(self, value: ir.Value) -> Iterator[ir.Operation]:
        """The operations that move a value's numbers about before it is what it is."""
        waiting, seen = [value], set()
        while waiting:
            value = waiting.pop().maybe_downcast()
            if value in seen:
                continue
            seen.add(value)
            if isinstance(value, ir.BlockArgument):
                waiting += self._given(value)
                continue
            operation = value.owner.operation
            if operation.name == "func.call":
                waiting.append(self._returned(callee(operation))[value.result_number])
            elif operation.name in LAYOUT:
                yield operation
                waiting += operation.operands

    def _given(self, argument: ir.BlockArgument) -> list[ir.Value]:
        owner = argument.owner.owner.operation
        calls = self.calls[owner.attributes["sym_name"].value] if owner.name == "func.func" else []
        return [call.operands[argument.arg_number] for call in calls]

    def _returned(self, name: str) -> list[ir.Value]:
        *_, last = self.functions[name].body.blocks[0].operations
        return list(last.operands)


def every_operation(function) -> list[ir.Operation]:
    found = []
    function.operation.walk(lambda operation: found.append(operation.operation) or ir.WalkResult.ADVANCE)
    return found


def callee(call: ir.Operation) -> str:
    return ir.FlatSymbolRefAttr(call.attributes["callee"]).value


def numbers(operation: ir.Operation, attribute: str) -> list[int]:
    return list(ir.DenseI64ArrayAttr(operation.attributes[attribute]))


def spreads(operation: ir.Operation) -> bool:
    """Whether an operation takes pixels that are not next to each other, or puts zeros between or repeats them."""
    if operation.name == "stablehlo.slice":
        return any(stride > 1 for stride in numbers(operation, "strides"))
    if operation.name == "stablehlo.pad":
        return any(numbers(operation, "interior_padding"))
    maps = operation.name == "stablehlo.broadcast_in_dim" and len(operation.operands[0].type.shape) >= 5
    return maps and len(operation.results[0].type.shape) > 5


def spread_in_products(module: ir.Module) -> list[str]:
    """What spreads pixels on their way into a matrix product, as text."""
    program = Program(module)
    assert program.products
    operands = [operand for product in program.products for operand in product.operands]
    return [str(operation) for operand in operands for operation in program.behind(operand) if spreads(operation)]


@pytest.mark.parametrize(("name", "side"), STRIDED)
def test_no_product_takes_a_strided_slice(on_a_gpu, name, side):
    assert not spread_in_products(lowered(name, side, "float32"))


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")  # since JAX 0.11; see ARCHITECTURE.md
@pytest.mark.skipif(
    jax.__version_info__ >= (0, 12), reason="JAX 0.12 lowers Triton's kernels where there is a GPU only"
)
@pytest.mark.parametrize("name", ["ResNet-18-BN", "ResNet-50"])
def test_no_product_of_bfloat16_does_either(on_a_gpu, name):
    assert not spread_in_products(lowered(name, 64, "bfloat16"))


def test_a_strided_slice_is_found_behind_a_function(on_a_gpu):
    @jax.jit
    def product(x, kernel):
        return x.astype(jnp.float32).reshape(2, -1) @ kernel

    def sliced(x, kernel):
        return product(x[:, ::2], kernel)

    shapes = jax.ShapeDtypeStruct((2, 8, 4), jnp.bfloat16), jax.ShapeDtypeStruct((16, 3), jnp.float32)
    (found,) = spread_in_products(jax.jit(sliced).trace(*shapes).lower(lowering_platforms=("cuda",)).compiler_ir())
    assert "0:8:2" in found
