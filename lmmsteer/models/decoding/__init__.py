"""How rows become the decoder's input, by family: a new one is a class here, or LLaVA's own."""

from lmmsteer.models.decoding.base import Decoding
from lmmsteer.models.decoding.blip import Blip
from lmmsteer.models.decoding.families import ClipCap, Mllama, PaliGemma, Qwen
from lmmsteer.models.decoding.recent import Gemma3, OneVision, Qwen3, Tiled

DECODING: dict[str, Decoding] = {
    "llava": Decoding(),
    "qwen2_5_vl": Qwen(),
    "paligemma": PaliGemma(),
    "mllama": Mllama(),
    "clipcap": ClipCap(),
    "blip": Blip(),
    "qwen3_vl": Qwen3(),
    "gemma3": Gemma3(),
    "llava_onevision": OneVision(),
    "internvl": Tiled(),
    "smolvlm": Tiled(),
}
