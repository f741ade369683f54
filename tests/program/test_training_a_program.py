"""``Program.module``: eval as captured, training with batch statistics, dropout and gradients, and the way back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gossamer.frontends.torch_module import capture
from gossamer.operators.quantization import dequantize, quantize
from gossamer.program import Edit, Interpreter, Program, dialect


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, momentum=0.5)
        self.drop = nn.Dropout(0.5)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.second(self.drop(self.first(x)))


IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def program(net: Net) -> Program:
    return capture(net, IMAGES)


def test_the_eval_module_computes_what_the_model_does(net: Net, program: Program) -> None:
    module = program.module()
    with torch.no_grad():
        (output,), again, expected = module(IMAGES), module(IMAGES), net(IMAGES)
    assert torch.equal(output, again[0])
    # The same float32 kernels on the same numbers in the same order.
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_eval_module_leaves_batch_statistics_alone(program: Program) -> None:
    module = program.module()
    before = module.get_buffer("norm.running_mean").clone()
    module(IMAGES)
    assert torch.equal(module.get_buffer("norm.running_mean"), before)


def test_training_moves_batch_statistics_as_pytorch_does(net: Net, program: Program) -> None:
    module, reference = program.module(training=True), nn.BatchNorm2d(4, momentum=0.5)
    module(IMAGES)
    reference(net.conv(IMAGES))
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(module.get_buffer(f"norm.{name}"), reference.get_buffer(name))
    assert torch.equal(program.tensors["norm.running_mean"], torch.zeros(4))


def test_training_drops_and_eval_does_not(program: Program) -> None:
    module = program.module(training=True)
    torch.manual_seed(0)
    first, second = module(IMAGES)[0], module(IMAGES)[0]
    assert not torch.equal(first, second)


def test_gradients_reach_every_parameter(program: Program) -> None:
    module = program.module(training=True)
    module(IMAGES)[0].square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert set(gradients) == {name for name, role in program.roles.items() if role == "parameter"}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())


def test_a_tied_weight_is_one_parameter(program: Program) -> None:
    assert sum(parameter.numel() for parameter in program.module(training=True).parameters()) == (
        program.parameter_count
    )


def test_what_was_trained_comes_back(program: Program) -> None:
    before = program.digest
    module = program.module(training=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(IMAGES)[0].square().sum().backward()
    optimizer.step()
    trained = program.with_tensors_of(module, "trained for one step")
    assert trained.digest != before
    del program.__dict__["digest"]
    assert program.digest == before
    assert trained.provenance[-1] == "trained for one step"
    assert not any(tensor.requires_grad for tensor in trained.tensors.values())
    frozen = trained.module()
    assert torch.equal(frozen.get_buffer("norm.running_var"), module.get_buffer("norm.running_var"))
    images = IMAGES.numpy()
    with torch.no_grad():
        expected = frozen(IMAGES)[0].numpy()
    assert (Interpreter(trained).run({"x": images})["output"] == expected).all()


def test_an_untrained_module_gives_the_same_program_back(program: Program) -> None:
    assert program.with_tensors_of(program.module(), "nothing").digest == program.digest


class TestQuantize:
    """The learned-step estimator: golden of specs/methods.md 0.12."""

    values = torch.tensor([-10, -1.3, -0.2, 0.26, 0.74, 3.1, 9])
    outputs = torch.tensor([-2, -1.5, 0, 0.5, 0.5, 1.5, 1.5])
    step_gradients = torch.tensor([-4, -0.4, 0.4, 0.48, -0.48, 3, 3])

    def approximate(self, x: Tensor, scale: Tensor, axis: int | None = None) -> Tensor:
        zero = torch.zeros_like(scale)
        return dequantize(quantize(x, scale, zero, axis, -4, 3), scale, zero, axis)

    def test_values_and_gradients_are_those_of_the_learned_step(self) -> None:
        x = self.values.clone().requires_grad_()
        scale = torch.tensor(0.5, requires_grad=True)
        approximation = self.approximate(x, scale)
        torch.testing.assert_close(approximation, self.outputs)
        assert torch.equal(torch.autograd.grad(approximation.sum(), x, retain_graph=True)[0], (x.abs() < 1.9).float())
        each = [torch.autograd.grad(item, scale, retain_graph=True)[0] for item in approximation]
        # Sums of three products of magnitude up to 20: a few float32 roundings.
        torch.testing.assert_close(torch.stack(each), self.step_gradients, rtol=1e-5, atol=1e-5)

    def test_a_scale_per_channel_gathers_the_gradient_of_its_channel(self) -> None:
        x = torch.stack([self.values, 2 * self.values]).requires_grad_()
        scale = torch.tensor([0.5, 1.0], requires_grad=True)
        self.approximate(x, scale, 0).sum().backward()
        assert scale.grad is not None
        torch.testing.assert_close(scale.grad, self.step_gradients.sum().repeat(2), rtol=1e-5, atol=1e-5)

    def test_zero_point_shifts_codes_and_has_no_gradient_inside(self) -> None:
        x = torch.tensor([-0.9, 0.1, 0.6, 40.0])
        scale, zero = torch.tensor(0.25), torch.tensor(3.0, requires_grad=True)
        codes = quantize(x, scale, zero, None, 0, 15)
        assert codes.tolist() == [0, 3, 5, 15]  # -0.9 / 0.25 + 3 = -0.6 rounds to -1, clipped to 0
        (gradient,) = torch.autograd.grad(dequantize(codes, scale, zero, None).sum(), zero)
        assert gradient == -0.25 * 2  # the clipped codes do not move with the zero point, the real values do

    @pytest.mark.parametrize("axis", [None, 0, 1, -1])
    def test_the_op_passes_torchs_own_checks(self, axis: int | None) -> None:
        shape = () if axis is None else (3 if axis == 0 else 4,)
        scale, zero = torch.full(shape, 0.3), torch.zeros(shape)
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        for arguments in ((x, scale, zero, axis, -4, 3), (x.requires_grad_(), scale, zero, axis, -4, 3)):
            torch.library.opcheck(quantize, arguments)
        torch.library.opcheck(dequantize, (x.detach().round(), scale, zero, axis))

    def test_it_survives_capture_and_trains(self) -> None:
        class Quantized(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.linspace(-1, 1, 16).reshape(4, 4))
                self.step = nn.Parameter(torch.full((4,), 0.25))
                self.register_buffer("zero", torch.zeros(4))

            def forward(self, x: Tensor) -> Tensor:
                codes = quantize(self.weight, self.step, self.zero, 0, -4, 3)
                return F.linear(x, dequantize(codes, self.step, self.zero, 0))

        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(5))
        program = capture(Quantized(), x)
        assert [node.target for node in program.call_nodes][:2] == [dialect.quantize, dialect.dequantize]
        module = program.module(training=True)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (module(x)[0] - x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        trained = program.with_tensors_of(module, "trained")
        assert not torch.equal(trained.tensors["step"], program.tensors["step"])
        assert not torch.equal(trained.tensors["weight"], program.tensors["weight"])


def test_training_keeps_an_edited_graph(program: Program) -> None:
    edit = Edit(program)
    (relu,) = (node for node in program.call_nodes if node.target is dialect.aten.relu.default)
    copy = edit.node(relu)
    edit.replace(copy, edit.after(copy, "silu", dialect.aten.silu.default, (copy.args[0],), copy.meta["value"]))
    module = edit.finish("relu -> silu").module(training=True)
    assert any(node.target is dialect.aten.silu.default for node in module.graph.nodes)
