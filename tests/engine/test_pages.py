import mmap

import pytest
import torch

from lmmsteer.engine.pages import LARGE, zeros
from tests.resident import resident, told

CPU = torch.device("cpu")


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 5), (3, 5), (2, 700, 1000)])
def test_zeros_are_zeros_to_write_on(shape, dtype, large):
    made = zeros(shape, dtype, large=large)
    assert (made.shape, made.dtype, made.device) == (torch.Size(shape), dtype, CPU)
    assert made.is_contiguous()
    assert not made.any()
    made.fill_(2)
    assert bool((made == 2).all())
    if large and made.nbytes >= LARGE:
        assert made.data_ptr() % LARGE == 0


@told
@pytest.mark.parametrize("large", [False, True])
def test_memory_is_real_where_it_is_written_alone_and_given_back(large):
    before = resident()
    made = zeros((1000, 1 << 20), torch.float32, large=large)  # 4 GB.
    made[::100, 0] = 1  # Ten pages.
    taken = resident() - before
    assert taken < 10 * LARGE + (4 << 20)
    del made
    assert resident() - before < 4 << 20


def test_without_such_memory_there_is_plain_memory(monkeypatch):
    monkeypatch.delattr(mmap, "MAP_ANONYMOUS")
    assert not zeros((3, LARGE), torch.float32, large=True).any()
    monkeypatch.undo()
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert not zeros((3, LARGE), torch.float32, large=True).any()
