"""Pictures made by a tiny random diffusion model of the real classes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lmmsteer import datasets, manifest
from lmmsteer.datasets.base import Sample
from lmmsteer.errors import LmmsteerError
from lmmsteer.fleet.sizes import extent_of
from lmmsteer.store import LocalStore


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's classes with random weights, some kilobytes."""
    import diffusers  # It takes seconds.
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("diffusion")
    letters = [chr(n) for n in range(97, 123)]
    vocab = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=64)
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=len(vocab) - 1,
            bos_token_id=len(vocab) - 2,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "checkpoint")
    return folder / "checkpoint"


def source(checkpoint: Path, **keys: Any) -> Any:
    given = {"occupations": ["nurse"], "size": 16, "steps": 2, "sets": 2, **keys}
    given.setdefault("attributes", {"gender": ["man", "woman"]})
    config = {"loader": "synthetic", "name": "s", "checkpoint": str(checkpoint), **given}
    return datasets.open_dataset(config)


def test_a_set_is_every_combination_from_the_same_noise_and_made_again_the_same(
    checkpoint: Path,
) -> None:
    keys = {
        "attributes": {"gender": ["man", "woman"], "age": ["old", "young"]},
        "template": "A photo of a {age} {gender} who works as a {occupation}",
    }
    found: list[Sample] = list(source(checkpoint, **keys).samples())
    assert [s.image_id for s in found[:4]] == [
        "nurse-0000-man-old",
        "nurse-0000-man-young",
        "nurse-0000-woman-old",
        "nurse-0000-woman-young",
    ]
    assert [s.group_id for s in found] == ["nurse-0000"] * 4 + ["nurse-0001"] * 4
    assert found[1].labels == {"gender": "man", "age": "young", "occupation": "nurse"}
    assert found[1].extra == {"prompt": "A photo of a young man who works as a nurse"}
    pictures = [s.read() for s in found]
    assert len({p.sha256 for p in pictures}) == 8
    again = list(source(checkpoint, **keys).samples())
    assert again[5].read().bytes == pictures[5].bytes  # No neighbour was made before it.
    shown = Image.open(io.BytesIO(pictures[0].bytes or b""))
    assert shown.size == (16, 16)
    other = list(source(checkpoint, **keys, seed=1).samples())
    assert other[0].read().sha256 != pictures[0].sha256


def test_a_manifest_is_made_of_them_and_a_plan_makes_none(checkpoint: Path, tmp_path: Path) -> None:
    made = source(checkpoint)
    asked = manifest.identity(
        datasets.describe(made, "synthetic"), {"a": "A [OCCUPATION]?"}, [0], None, 2
    )
    extent = extent_of(None, source("nowhere"), asked)  # type: ignore[arg-type]
    assert (extent.pictures, extent.rows) == (4, 4)
    assert extent.bytes > 4 * 3 * 16 * 16 // 2
    built = manifest.build(LocalStore(tmp_path), "s", made, asked)
    assert (built.images, built.rows) == (4, 4)
    assert asked["dataset"]["checkpoint"] == str(checkpoint)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"template": "A {gender}"}, "do not name the same labels: occupation"),
        ({"attributes": {"age": ["old"]}}, "do not name the same labels: age, gender"),
        ({"sets": 0}, "dataset.sets=0 is not a positive number"),
        ({"size": 20}, "dataset.size=20 is no multiple of 8"),
    ],
)
def test_what_makes_no_picture_is_refused_before_anything_is_loaded(
    keys: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LmmsteerError, match=reason):
        next(source(Path("nowhere"), **keys).samples())


def test_a_checkpoint_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    sample = next(source(tmp_path).samples())
    with pytest.raises(LmmsteerError, match=f"dataset.checkpoint={tmp_path} cannot be opened"):
        sample.read()
