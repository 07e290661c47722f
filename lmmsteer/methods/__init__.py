"""Methods by the name that `method=` takes. A new one is a file here and a line below."""

from lmmsteer.methods.ablation import Ablation
from lmmsteer.methods.ala import Ala
from lmmsteer.methods.ala_cross import AlaCross
from lmmsteer.methods.base import Method
from lmmsteer.methods.blocklist import Blocklist
from lmmsteer.methods.clip_clip import ClipClip
from lmmsteer.methods.compose import Compose
from lmmsteer.methods.dear import Dear
from lmmsteer.methods.ggss import Ggss
from lmmsteer.methods.prompt import Prompt
from lmmsteer.methods.prompt_predicted import PromptPredicted
from lmmsteer.methods.random_direction import RandomDirection
from lmmsteer.methods.sfid import Sfid
from lmmsteer.methods.steered_dataset import SteeredDataset
from lmmsteer.methods.steered_gradient import SteeredGradient
from lmmsteer.methods.unsteered import Unsteered
from lmmsteer.methods.vdd import Vdd

__all__ = ["METHODS", "Method"]

METHODS: dict[str, type[Method]] = {
    "unsteered": Unsteered,
    "prompt": Prompt,
    "blocklist": Blocklist,
    "ablation": Ablation,
    "steered_dataset": SteeredDataset,
    "random_direction": RandomDirection,
    "steered_gradient": SteeredGradient,
    "ala": Ala,
    "ala_cross": AlaCross,
    "prompt_predicted": PromptPredicted,
    "vdd": Vdd,
    "sfid": Sfid,
    "clip_clip": ClipClip,
    "dear": Dear,
    "ggss": Ggss,
    "compose": Compose,
}
