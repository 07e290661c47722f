"""Methods by the name that `method=` takes. A new one is a file here and a line below."""

from lmmsteer.methods.ablation import Ablation
from lmmsteer.methods.base import Method
from lmmsteer.methods.prompt import Prompt
from lmmsteer.methods.random_direction import RandomDirection
from lmmsteer.methods.steered_dataset import SteeredDataset
from lmmsteer.methods.unsteered import Unsteered

METHODS: dict[str, type[Method]] = {
    "unsteered": Unsteered,
    "prompt": Prompt,
    "ablation": Ablation,
    "steered_dataset": SteeredDataset,
    "random_direction": RandomDirection,
}
