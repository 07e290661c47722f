import pytest
import torch
from torch import nn

from lmmsteer.engine.blocked import BLOCK, ROWS, blocked, linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [64, BLOCK, 3 * BLOCK, 5 * BLOCK + 17])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (3, 5), (ROWS + 1, 1)])
def test_a_product_in_blocks_is_the_product(shape, outputs, bias):
    generator = torch.Generator().manual_seed(outputs)
    x = torch.randn(*shape, 48, generator=generator)
    weight = torch.randn(outputs, 48, generator=generator)
    b = torch.randn(outputs, generator=generator) if bias else None
    found = linear(x, weight, b)
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


def test_a_rows_result_does_not_hang_on_how_it_is_cut():
    x, weight = torch.randn(32, 64), torch.randn(2 * BLOCK + 3, 64)
    assert torch.equal(linear(x, weight), linear(x.view(4, 8, 64), weight).view(32, -1))
