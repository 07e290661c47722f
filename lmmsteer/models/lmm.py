"""An LMM as transformers loads it, and how a row becomes its input.

Knows where the residual stream is written, not what is done to it there.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BatchFeature, GenerationConfig

from lmmsteer import device as devices
from lmmsteer.device import DTYPES, Device
from lmmsteer.errors import LmmsteerError
from lmmsteer.models import files, gaudi
from lmmsteer.models.extras import EXTRAS
from lmmsteer.models.families import Family, family_of, feature_levels
from lmmsteer.models.loading import ending_ids, read_processor, read_weights
from lmmsteer.models.parts import Parts

Place = Literal["block_input", "attention", "mlp"]


@dataclass(frozen=True)
class ResidualPoint:
    """A place where the residual stream is read or written, and the module whose edge it is."""

    layer: int
    place: Place
    module: nn.Module


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture as the vision tower takes it.

    tokens: its placeholders in the prompt; shown: what stands there, they and what is around them.
    """

    features: dict[str, Tensor]
    tokens: int
    shown: str

    def noise(self, name: str) -> PreparedPicture:
        """The same with standard normal noise for pixels, the same for the same name everywhere."""
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
        pixels = self.features["pixel_values"]
        drawn = torch.randn(pixels.shape, generator=torch.Generator("cpu").manual_seed(seed))
        return replace(self, features={**self.features, "pixel_values": drawn.to(pixels.dtype)})


@dataclass(frozen=True, eq=False)
class Lmm:
    """A loaded model with its processor and family. Frozen in every sense: eval, no gradients.

    revision: the hub commit, where there is one; digest: files.digest of its folder.
    eos_ids: tokens that end an answer, the checkpoint's own. tokenizer_digest:
    files.tokenizer_digest of its folder.
    """

    model: Any
    processor: Any
    family: Family
    name: str
    revision: str | None
    digest: str
    device: Device
    dtype: torch.dtype
    eos_ids: tuple[int, ...]
    tokenizer_digest: str = ""

    @property
    def adapted(self) -> bool:
        """Whether this is optimum-habana's model, whose generate is another."""
        return type(self.model).__module__.startswith(devices.ADAPTED)

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def image_token(self) -> str:
        return str(getattr(self.processor, "image_token", None) or self.family.image_token)

    @property
    def place(self) -> str:
        """What a template writes where the picture goes."""
        return self.family.place or self.image_token

    @cached_property
    def image_token_id(self) -> int:
        """The placeholder's token id; -1 where no place in the prompt is the picture's.

        Raises: LmmsteerError where the tokenizer does not know the placeholder.
        """
        token, tokenizer = self.image_token, self.tokenizer
        if not token:
            return -1
        found = tokenizer.convert_tokens_to_ids(token)
        if found is None or (found == tokenizer.unk_token_id and token != tokenizer.unk_token):
            raise LmmsteerError(
                f"The tokenizer of {self.name} does not know the picture's placeholder {token}.",
                "Save the model's own tokenizer beside it (processor.save_pretrained(folder))",
            )
        return int(found)

    @cached_property
    def decoder(self) -> Any:
        """The module whose blocks `layers` are."""
        paths = [path.rpartition(".")[0] for path in self.family.layers]
        return _first_path(self.model, paths, self.family)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def feature_levels(self) -> int:
        """How many features of a picture's token stand side by side, each d_model wide."""
        return feature_levels(self.model.config.to_dict())

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder's blocks, first to last."""
        return _first_path(self.model, self.family.layers, self.family)

    @cached_property
    def projector(self) -> nn.Module:
        """The module whose output the decoder reads: where the picture is, or by cross-attention.

        Raises: LmmsteerError for a family whose vision tower is read without one.
        """
        if not self.family.projector:
            raise LmmsteerError(
                f"{self.family.name} models have no projector: the decoder reads the vision tower.",
                "Use a method that needs no picture features",
            )
        return _first_path(self.model, self.family.projector, self.family)

    def residual_points(self) -> list[ResidualPoint]:
        """Every place where the residual stream is read or written: three for each block.

        Source: Arditi et al. 2024 (arXiv 2406.11717): block inputs, attention and MLP outputs.
        """
        return [
            point for layer, block in enumerate(self.layers) for point in self._at(layer, block)
        ]

    def _at(self, layer: int, block: nn.Module) -> list[ResidualPoint]:
        attention, mlp = self._writers(block)
        return [
            ResidualPoint(layer, "block_input", block),
            ResidualPoint(layer, "attention", attention),
            ResidualPoint(layer, "mlp", mlp),
        ]

    def _writers(self, block: nn.Module) -> tuple[nn.Module, nn.Module]:
        if self.adapted and self.family.name in gaudi.WRITES:
            attention, mlp = gaudi.WRITES[self.family.name]
            return block.get_submodule(attention), block.get_submodule(mlp)
        for names in self.family.writes:
            attention, mlp = (getattr(block, name, None) for name in names)
            if attention is not None and mlp is not None:
                return attention, mlp
        raise LmmsteerError(
            f"A {type(block).__name__} has none of {self.family.writes}, where the family "
            f"{self.family.name} writes to the residual stream.",
            "This version of transformers may have moved it; add names in models/families.py",
        )

    def render(self, prompt: str) -> str:
        """What the model is shown: one user turn, the picture first, then the prompt.

        Through the processor's chat template; without one, the family's own.
        Raises: LmmsteerError for a chat template that leaves the picture out.
        """
        if not getattr(self.processor, "chat_template", None):
            bos = self.tokenizer.bos_token or ""
            return self.family.template.replace("{bos}", bos).replace("{prompt}", prompt)
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        turns = [{"role": "user", "content": content}]
        text = str(self.processor.apply_chat_template(turns, add_generation_prompt=True))
        if self.place not in text:
            raise LmmsteerError(
                f"The chat template of {self.name} has no place for the picture ({self.place}).",
                "Mend chat_template.jinja in the model's folder, or remove it to use the family's",
            )
        return text

    def refusal(self, prompt: str) -> str | None:
        """Why a prompt cannot be shown, or None: the picture's placeholder may not stand in it."""
        for token in (self.image_token, self.place):
            if token and token in prompt:
                return f"the prompt contains the picture's placeholder {token}"
        return None

    def prepare(self, picture: Image.Image) -> PreparedPicture:
        """Resize and normalise one picture; the processor also says how many tokens it takes."""
        made = self.processor(text=self.place, images=picture, return_tensors="pt")
        tokens = int((made["input_ids"] == self.image_token_id).sum()) if self.image_token else 0
        features = {name: made[name] for name in self.family.features}
        shown = self.image_token * tokens
        if isinstance(self.processor, Parts):
            shown = self.processor.shown(made)
        return PreparedPicture(features, tokens, shown)

    def token_ids(self, prompt: str, shown: str) -> list[int]:
        """The input ids of one row. shown: what stands in the picture's place.

        Where the text begins with the BOS token, before or behind the picture, there is no second.
        """
        text, place = self.render(prompt), self.place
        if self.family.first_id:
            first = getattr(self.model.config.get_text_config(), self.family.first_id)
            return [int(first), *self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        bos = self.tokenizer.bos_token
        has_bos = bool(bos) and text.removeprefix(place).startswith(bos)
        text = text.replace(place, shown, 1)
        return self.tokenizer(text, add_special_tokens=not has_bos)["input_ids"]

    def without_picture(self, ids: Sequence[int], stream: str) -> list[int]:
        """Token ids as a contrast stream is shown them: see `Contrast` of engine/edit/logits.py."""
        if stream == "removed":
            return [token for token in ids if token != self.image_token_id]
        if stream == "unknown":
            unknown = self.tokenizer.unk_token_id or 0
            return [unknown if token == self.image_token_id else token for token in ids]
        return list(ids)

    def stream_inputs(
        self, prompt: str, picture: PreparedPicture, stream: str, said: Sequence[int] = ()
    ) -> BatchFeature:
        """Inputs of one row as a contrast stream is shown it, and what was said behind it."""
        ids = self.without_picture(self.token_ids(prompt, picture.shown), stream)
        return self.row_inputs(ids, picture.features if stream == "noise" else {}, said)

    def row_inputs(
        self, ids: Sequence[int], features: dict[str, Tensor], said: Sequence[int] = ()
    ) -> BatchFeature:
        """Inputs of one row from its prompt's token ids, and what was said behind it."""
        text = torch.tensor([[*ids, *said]])
        mask = torch.ones_like(text)
        return self._batch({"input_ids": text, "attention_mask": mask}, features, len(said))

    def inputs(
        self,
        prompts: Sequence[str],
        pictures: Sequence[Image.Image | PreparedPicture],
        *,
        blind: bool = False,
    ) -> BatchFeature:
        """A batch for generate or forward, left padded, on the device, floats in the model's dtype.

        input_ids, attention_mask: [rows, tokens]; pixel_values and whatever else the family's
        model takes. A picture object that stands in several rows is prepared once. blind: the
        prompts alone, without the pictures' places.
        """
        distinct = {id(picture): picture for picture in pictures}.values()
        known = {id(p): p if isinstance(p, PreparedPicture) else self.prepare(p) for p in distinct}
        prepared = [known[id(picture)] for picture in pictures]
        wanted = {(p, q.shown) for p, q in zip(prompts, prepared, strict=True)}
        ids = {key: self.token_ids(*key) for key in wanted}
        if blind:
            ids = {key: self.without_picture(found, "removed") for key, found in ids.items()}
        rows = [ids[p, q.shown] for p, q in zip(prompts, prepared, strict=True)]
        text = _left_padded(rows, self.tokenizer.pad_token_id)
        return self._batch(text, {} if blind else joined(prepared))

    def _batch(
        self, text: dict[str, Tensor], features: dict[str, Tensor], said: int = 0
    ) -> BatchFeature:
        more = {
            name: EXTRAS[function](text["input_ids"], self.image_token_id, features, said)
            for name, function in self._extras
            if features or name != "cross_attention_mask"
        }
        batch = BatchFeature({**text, **features, **more})
        return batch.to(self.device.torch_device(), self.dtype)

    @cached_property
    def _extras(self) -> list[tuple[str, str]]:
        taken = inspect.signature(self.model.forward).parameters
        return [extra for extra in self.family.extras if extra[0] in taken]


def joined(pictures: Sequence[PreparedPicture]) -> dict[str, Tensor]:
    """Pictures' features as a model takes them; those of fewer tiles are filled up with zeros."""
    names = pictures[0].features
    return {name: _joined([picture.features[name] for picture in pictures]) for name in names}


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    most = max(tensor.shape[1] for tensor in tensors)
    filled = [
        torch.cat([x, x.new_zeros(len(x), most - x.shape[1], *x.shape[2:])], 1) for x in tensors
    ]
    return torch.cat(filled)


def _left_padded(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def _first_path(root: Any, paths: Sequence[str], family: Family) -> Any:
    for path in paths:
        found = root
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise LmmsteerError(
        f"A {type(root).__name__} has none of {', '.join(paths)}, where the family "
        f"{family.name} keeps them.",
        "This version of transformers may have moved it; add the path in models/families.py",
    )


def load(
    name: str,
    path: str,
    revision: str | None = None,
    dtype: str = "auto",
    family: str = "auto",
    device: Device | None = None,
    digest: str | None = None,
    adapted: bool = False,
) -> Lmm:
    """Load a model with its processor onto a device, ready to answer.

    path: `demo`, a folder saved by save_pretrained, or a hub id; digest: where it is known already.
    adapted: as optimum-habana's model, in a process that has only such.
    Raises: LmmsteerError for a folder that is incomplete, a family that is unknown, weights that
    do not fill the model, or a model of the other kind in this process.
    """
    folder = files.locate(path, revision)
    files.check(folder)
    config = files.config(folder)
    record = family_of(str(config.get("model_type")), family)
    device = device or Device("cpu")
    if adapted:
        gaudi.check(record, device.mode)
        devices.adapt()
    elif devices.adapted():
        raise LmmsteerError(
            "This process runs optimum-habana's models, since a cell before had engine=reference.",
            "Run cells with engine=reference and cells with engine=shared in commands of their own",
        )
    chosen = device.dtype(dtype, DTYPES.get(str(config.get("dtype", config.get("torch_dtype")))))
    model = (
        read_weights(folder, chosen, record).to(device.torch_device()).eval().requires_grad_(False)
    )
    if adapted:
        gaudi.mend(model, record)
    processor = read_processor(folder, model, record)
    eos_ids = ending_ids(model, processor.tokenizer, record)
    # A checkpoint may bring penalties and a temperature of its own; only sampling.* counts here.
    model.generation_config = GenerationConfig(do_sample=False)
    return Lmm(
        model=model,
        processor=processor,
        family=record,
        name=name,
        revision=folder.name if folder.parent.name == "snapshots" else revision,
        digest=digest or files.digest(folder),
        device=device,
        dtype=chosen,
        eos_ids=eos_ids,
        tokenizer_digest=files.tokenizer_digest(folder),
    )
