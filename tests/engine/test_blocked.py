import pytest
import torch
from torch import nn

from lmmsteer.engine.blocked import BLOCK, FEW, ROWS, Copies, blocked, copied_bytes, linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [64, BLOCK, 3 * BLOCK, 5 * BLOCK + 17])
@pytest.mark.parametrize("shape", [(1, 1), (FEW + 1, 1), (7, 1), (3, 5), (ROWS + 1, 1)])
@pytest.mark.parametrize("copied", [False, True])
def test_a_product_in_blocks_is_the_product(copied, shape, outputs, bias):
    generator = torch.Generator().manual_seed(outputs)
    x = torch.randn(*shape, 40, generator=generator)
    layer = nn.Linear(40, outputs, bias)
    weight, b = layer.weight.detach(), layer.bias.detach() if bias else None
    found = linear(x, weight, b, Copies(layer).of(layer) if copied else None)
    wanted = x.double() @ weight.double().T + (0 if b is None else b.double())
    assert found.shape == wanted.shape
    assert torch.allclose(found.double(), wanted, atol=1e-4)


def test_layers_are_what_they_were_afterwards_and_hooks_still_see_them():
    class Other(nn.Linear):
        """A layer of somebody else's, whose product is its own affair."""

        def forward(self, x):
            return super().forward(x) * 2

    module = nn.ModuleDict(
        {"large": nn.Linear(8, 2 * BLOCK), "small": nn.Linear(8, 4), "other": Other(8, 2 * BLOCK)}
    )
    half = nn.Linear(8, 2 * BLOCK).to(torch.bfloat16)
    module["bfloat"] = half
    x, seen = torch.randn(3, 8), []
    plain = module["large"](x)
    module["large"].register_forward_hook(lambda *_: seen.append(1))
    with blocked(module):
        assert "forward" in vars(module["large"])
        assert not any("forward" in vars(module[name]) for name in ("small", "other", "bfloat"))
        assert torch.allclose(module["large"](x), plain, atol=1e-6)
        with blocked(module):  # Once is enough.
            pass
        assert "forward" in vars(module["large"])
    assert "forward" not in vars(module["large"])
    assert seen == [1]


def test_copies_are_of_the_weights_as_they_are_now():
    layer, x = nn.Linear(8, 2 * BLOCK + 3, False), torch.randn(5, 8)
    assert copied_bytes(layer, nn.ModuleList([layer])) == layer.weight.nbytes
    copies = Copies(layer, nn.Linear(8, 2 * BLOCK))

    def is_the_product():
        with blocked(layer, copies):
            return torch.allclose(layer(x), x @ layer.weight.T, atol=1e-6)

    assert is_the_product()
    with torch.no_grad():
        layer.weight.mul_(3)
    assert is_the_product()
    layer.weight = nn.Parameter(torch.randn(2 * BLOCK + 3, 8))
    assert is_the_product()
    for _ in range(20):  # Memory of weights that are gone may become the next ones'.
        layer.weight = nn.Parameter(torch.empty(1, 8))
        layer.weight = nn.Parameter(torch.randn(2 * BLOCK + 3, 8))
        assert is_the_product()
    assert copies.of(nn.Linear(8, 2 * BLOCK)) is None


def test_a_rows_result_does_not_hang_on_how_it_is_cut():
    x, weight = torch.randn(32, 64), torch.randn(2 * BLOCK + 3, 64)
    assert torch.equal(linear(x, weight), linear(x.view(4, 8, 64), weight).view(32, -1))
