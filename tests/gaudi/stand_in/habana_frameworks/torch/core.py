"""Marks where lazy mode would send what it has gathered to the card; compile mode's compiler."""

from collections.abc import Callable
from typing import Any

from functorch.compile import make_boxed_func
from torch._dynamo import register_backend
from torch._functorch.aot_autograd import aot_module_simplified
from torch.fx import GraphModule

from habana_frameworks.torch import hpu as hpu
from habana_frameworks.torch.hpu import metrics

steps = 0


def mark_step(*_: object, **__: object) -> None:
    global steps
    steps += 1


@register_backend
def hpu_backend(graph: GraphModule, inputs: Any, **_: Any) -> Callable[..., Any]:
    """torch.compile's: without in-place writes to its inputs' copies, as Habana's has it."""

    def made(lowered: GraphModule, _: Any) -> Callable[..., Any]:
        metrics.compiled += 1
        return make_boxed_func(lowered.forward)

    return aot_module_simplified(graph, inputs, fw_compiler=made)
