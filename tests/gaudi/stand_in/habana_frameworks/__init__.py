"""A stand-in for Habana's Python package: what lmmsteer and optimum-habana import of it, on a CPU.

Importing it makes kind `hpu` a place on the processor, as importing the real one registers the
device with torch. Graphs are recorded below torch's dispatcher and played back on the very memory
they were recorded on, without the Python that made them, as a card does.
"""

import importlib.machinery
import sys
import types

import torch
import transformers  # noqa: F401 - it looks for torchvision once, and must not find what follows.

from lmmsteer import device

_PLACE = torch.device("cpu")  # `torch` names our own submodule once that is imported.
device.hpu_device = lambda: _PLACE

if "torchvision" not in sys.modules:  # One of optimum-habana's tokenizers imports it; none of ours.
    for _name in ("torchvision", "torchvision.transforms"):
        sys.modules[_name] = types.ModuleType(_name)
        sys.modules[_name].__spec__ = importlib.machinery.ModuleSpec(_name, None)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
