"""bfloat16 reaches convolutions only, and only where the processor is built for it."""

import logging
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas import backbones, precision
from mbnas.assignment import Assignment
from mbnas.layers import ActivationQuantizer, WeightQuantizer
from mbnas.networks import multibit
from mbnas.settings import Precision, Recipe, Training

CPU = torch.device("cpu")
TABLE = backbones.build("resnet8", width=4, image=(3, 16, 16), classes=5)


def logits(of: Precision, seen: list[Tensor]) -> Tensor:
    """Of one network, while what quantizers and batch-norms read and return is noted down."""
    torch.manual_seed(0)
    network = multibit(TABLE, Assignment.uniform(2, 2, len(TABLE.searchable)))
    for module in network.modules():
        if isinstance(module, ActivationQuantizer | WeightQuantizer | nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _module, inputs, output: seen.extend((inputs[0], output))
            )
    x = torch.rand(8, 3, 16, 16)
    with precision.autocast(Recipe(epochs=1, precision=of), CPU):
        result: Tensor = network(x)
    result.square().sum().backward()
    assert all(
        each.grad is not None and each.grad.isfinite().all() for each in network.parameters()
    )
    return result


@pytest.fixture
def native(request: pytest.FixtureRequest) -> object:
    """A processor that has bfloat16, or that has not."""
    abilities = {"avx512_bf16": request.param}
    precision.has_bfloat16.cache_clear()
    precision._say_float32.cache_clear()
    with mock.patch("torch.cpu.get_capabilities", return_value=abilities):
        yield
    precision.has_bfloat16.cache_clear()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("native", [True], indirect=True)
def test_only_convolutions_are_rounded() -> None:
    seen: list[Tensor] = []
    full, low = logits(Precision.FLOAT32, []), logits(Precision.BFLOAT16, seen)
    assert {each.dtype for each in (*seen, low)} == {torch.float32}
    assert not torch.equal(full, low)
    torch.testing.assert_close(full, low, rtol=0.1, atol=0.5)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("native", [False], indirect=True)
def test_other_processors_train_in_float32_and_say_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="mbnas"):
        full, auto = logits(Precision.FLOAT32, []), logits(Precision.AUTO, [])
        assert caplog.records == []  # nobody asked for it
        low = logits(Precision.BFLOAT16, [])
        logits(Precision.BFLOAT16, [])
    assert torch.equal(full, low)
    assert torch.equal(full, auto)
    assert [record.message for record in caplog.records] == [
        "this processor does not multiply bfloat16: training in float32"
    ]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("native", [True, False], indirect=True)
@pytest.mark.parametrize("asked", list(Precision))
@pytest.mark.parametrize("training", [Training.NATURAL, Training.FASTAT])
def test_what_is_reported_is_what_convolutions_compute_in(
    asked: Precision, training: Training
) -> None:
    recipe = Recipe(epochs=1, precision=asked, training=training)
    with precision.autocast(recipe, CPU):
        computed = F.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype
    assert f"torch.{precision.computed_in(recipe, CPU)}" == str(computed)
