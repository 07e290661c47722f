import json
import shutil

import pytest
import torch
from transformers import AutoProcessor

from lmmsteer.device import Device
from lmmsteer.errors import LmmsteerError
from lmmsteer.models import files
from lmmsteer.models.lmm import load
from tests.tiny import photographs, save_tiny_llava, tiny_llava, tiny_lmm

PROMPTS = ["What?", "Describe the image in as much detail as possible.", "Is it day or night?"]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tiny_llava(), tmp_path / "model")


def edit_json(file, **changes):
    found = json.loads(file.read_text())
    found.update(changes)
    file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def test_a_loaded_model_is_frozen_silent_and_known_by_its_digest(capfd):
    lmm = load("tiny", str(tiny_llava()))
    assert capfd.readouterr() == ("", "")
    assert not lmm.model.training
    assert not any(p.requires_grad for p in lmm.model.parameters())
    assert (lmm.name, lmm.family.name, lmm.revision) == ("tiny", "llava", None)
    assert (lmm.d_model, lmm.n_layers, lmm.eos_ids) == (32, 2, (2,))
    assert lmm.digest == files.digest(tiny_llava())
    assert lmm.dtype == torch.float32


def test_residual_points_are_input_attention_and_mlp_of_every_block():
    points = tiny_lmm().residual_points()
    blocks = tiny_lmm().model.model.language_model.layers
    assert [(p.layer, p.place) for p in points] == [
        (layer, place) for layer in (0, 1) for place in ("block_input", "attention", "mlp")
    ]
    assert [p.module for p in points[3:]] == [blocks[1], blocks[1].self_attn, blocks[1].mlp]


def test_a_batch_is_what_the_processor_makes_of_it_left_padded():
    lmm, pictures = tiny_lmm(), [photographs()[name] for name in ("cat", "coffee", "cat")]
    processor = AutoProcessor.from_pretrained(tiny_llava())
    processor.tokenizer.padding_side = "left"
    texts = [f"USER: <image>\n{prompt} ASSISTANT:" for prompt in PROMPTS]
    expected = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
    found = lmm.inputs(PROMPTS, pictures)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_picture_in_several_rows_is_prepared_once(monkeypatch):
    lmm, calls, prepare = tiny_lmm(), [], type(tiny_lmm()).prepare
    monkeypatch.setattr(type(lmm), "prepare", lambda s, p: calls.append(p) or prepare(s, p))
    lmm.inputs(PROMPTS, [photographs()["cat"]] * 3)
    assert len(calls) == 1


def test_without_a_chat_template_the_familys_own_is_shown(tmp_path):
    lmm = load("tiny", str(save_tiny_llava(tmp_path, chat_template=None)))
    assert lmm.render("Is {it} day?") == "USER: <image>\nIs {it} day? ASSISTANT:"


def test_a_chat_template_that_leaves_the_picture_out_is_refused(tmp_path):
    lmm = load("tiny", str(save_tiny_llava(tmp_path, chat_template="USER: Hi")))
    with pytest.raises(LmmsteerError, match="no place for the picture"):
        lmm.inputs(["Hi"], [photographs()["cat"]])


@pytest.mark.parametrize("template", ["{{ bos_token }}USER: <image>\nHi", "USER: <image>\nHi"])
def test_a_row_begins_with_exactly_one_bos_token(tmp_path, template):
    lmm = load("tiny", str(save_tiny_llava(tmp_path, chat_template=template)))
    ids = lmm.inputs(["Hi"], [photographs()["cat"]])["input_ids"][0].tolist()
    assert ids[0] == 1
    assert ids.count(1) == 1


def test_the_pictures_placeholder_in_a_prompt_is_refused():
    assert "placeholder <image>" in str(tiny_lmm().refusal("What is <image>?"))
    assert tiny_lmm().refusal("What is an image?") is None


def test_an_older_processor_takes_its_patch_size_from_the_model(folder):
    edit_json(
        folder / "processor_config.json",
        patch_size=None,
        vision_feature_select_strategy=None,
        num_additional_image_tokens=None,
    )
    found = load("tiny", str(folder)).inputs(["Hi"], [photographs()["cat"]])
    assert torch.equal(
        found["input_ids"], tiny_lmm().inputs(["Hi"], [photographs()["cat"]])["input_ids"]
    )


def test_a_tokenizer_without_a_padding_token_still_makes_batches(folder):
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    found = load("tiny", str(folder)).inputs(PROMPTS[:2], [photographs()["cat"]] * 2)
    whole = tiny_lmm().inputs(PROMPTS[:2], [photographs()["cat"]] * 2)
    assert torch.equal(found["attention_mask"], whole["attention_mask"])


def test_an_unknown_model_type_names_the_known_families(folder):
    edit_json(folder / "config.json", model_type="bert")
    with pytest.raises(LmmsteerError, match="'bert' are not supported; families known: llava"):
        load("tiny", str(folder))
    with pytest.raises(LmmsteerError, match=r"model\.family=lava"):
        load("tiny", str(folder), family="lava")


def test_weights_that_do_not_fill_the_model_or_are_cut_short_are_refused(folder):
    config = files.config(folder)
    config["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LmmsteerError, match="does not hold every weight"):
        load("tiny", str(folder))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(LmmsteerError, match="cannot be read"):
        load("tiny", str(folder))


def test_a_dtype_is_taken_for_weights_and_pixels():
    lmm = load("tiny", str(tiny_llava()), dtype="bfloat16")
    batch = lmm.inputs(["Hi"], [photographs()["cat"]])
    assert lmm.model.lm_head.weight.dtype == batch["pixel_values"].dtype == torch.bfloat16
    assert torch.isfinite(lmm.model(**batch).logits).all()


def test_a_dtype_or_a_device_that_is_not_there_is_refused():
    with pytest.raises(LmmsteerError, match=r"model\.dtype=int8"):
        load("tiny", str(tiny_llava()), dtype="int8", device=Device("cpu"))
