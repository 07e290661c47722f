import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lmmsteer.errors import LmmsteerError
from lmmsteer.models import files
from lmmsteer.models.families import FAMILIES, TEXT_DEFAULTS
from lmmsteer.models.lmm import load
from tests.tiny import photographs
from tests.tiny_families import NAMES, save_tiny, tiny_family, tiny_family_lmm
from tests.tiny_recent import RECENT

CAT = photographs()["cat"]


@pytest.fixture
def clipcap(tmp_path):
    return shutil.copytree(tiny_family("clipcap"), tmp_path / "model")


def first_ids(name, prompt):
    return tiny_family_lmm(name).inputs([prompt], [CAT])["input_ids"][0].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_sizes_read_from_the_config_are_those_of_the_loaded_model(name):
    lmm, folder = tiny_family_lmm(name), tiny_family(name)
    assert (files.d_model(folder), files.n_layers(folder)) == (lmm.d_model, lmm.n_layers)
    assert lmm.d_model == 32
    assert lmm.n_layers == (3 if name == "mllama" else 2)
    assert len(lmm.residual_points()) == 3 * lmm.n_layers
    assert lmm.family is FAMILIES[name.removesuffix("2").removesuffix("_transformer")]


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_is_silent_frozen_and_known_by_its_digest(name, capfd):
    lmm = load(name, str(tiny_family(name)))
    assert capfd.readouterr() == ("", "")
    assert not lmm.model.training
    assert not any(p.requires_grad for p in lmm.model.parameters())
    assert lmm.digest == files.digest(tiny_family(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_digest_follows_the_weights(name, tmp_path):
    assert files.digest(save_tiny(name, tmp_path / "same")) == files.digest(tiny_family(name))
    assert files.digest(save_tiny(name, tmp_path / "other", 1)) != files.digest(tiny_family(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_dtype_is_taken_for_weights_and_pixels(name):
    lmm = load(name, str(tiny_family(name)), dtype="bfloat16")
    batch = lmm.inputs(["What?", "Is it day or night?"], [CAT, photographs()["coffee"]])
    assert {p.dtype for p in lmm.model.parameters()} == {torch.bfloat16}
    assert batch["pixel_values"].dtype == torch.bfloat16
    assert torch.isfinite(lmm.model(**batch).logits).all()


def test_what_each_family_is_shown():
    decoded = {
        name: tiny_family_lmm(name).tokenizer.decode(first_ids(name, "Is it day?"))
        for name in NAMES
    }
    assert decoded["paligemma"] == "<image>" * 16 + "<bos>Is it day?\n"
    assert decoded["mllama"] == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>Is it day?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    qwen, pad = decoded["qwen2_5_vl"], "<|image_pad|>"
    assert qwen.replace(pad, "") == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|vision_end|>Is it day?<|im_end|>\n<|im_start|>assistant\n"
    )
    user, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert decoded["gemma3"] == (
        "<bos><start_of_turn>user\n\n\n<start_of_image>"
        + "<image_soft_token>" * 4
        + "<end_of_image>\n\nIs it day?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert decoded["internvl"] == f"{user}<img>{'<IMG_CONTEXT>' * 28}</img>\nIs it day?{end}"
    assert decoded["llava_onevision"] == (
        "<|im_start|>user " + "<image>" * 44 + "\nIs it day?<|im_end|><|im_start|>assistant\n"
    )
    tile, fake = "<image>" * 4, "<fake_token_around_image>"
    row = "".join(f"{fake}<row_{{}}_col_{column}>{tile}" for column in (1, 2, 3)) + "\n"
    assert decoded["smolvlm"] == (
        f"<|im_start|>User:{row.format(1, 1, 1)}{row.format(2, 2, 2)}\n"
        f"{fake}<global-img>{tile}{fake}"
        "Is it day?<end_of_utterance>\nAssistant:"
    )
    if "qwen3_vl" in decoded:
        eyes = f"<|vision_start|>{pad * 8}<|vision_end|>"
        assert decoded["qwen3_vl"] == f"{user}{eyes}Is it day?{end}"
    assert decoded["clipcap"] == "<|endoftext|>" * 10 + "Is it day?"
    ids, dec = first_ids("blip", "Is it day?"), tiny_family_lmm("blip").model.config.text_config
    assert ids[0] == dec.bos_token_id
    assert tiny_family_lmm("blip").tokenizer.decode(ids[1:4]) == "is it day"


def test_qwen_pictures_of_different_sizes_have_different_numbers_of_tokens():
    lmm = tiny_family_lmm("qwen2_5_vl")
    found = {name: lmm.prepare(picture) for name, picture in photographs().items()}
    assert len({picture.tokens for picture in found.values()}) > 1
    for picture in found.values():
        assert picture.tokens == int(picture.features["image_grid_thw"].prod()) // 4


def test_without_a_chat_template_a_base_models_bos_stands_behind_the_picture():
    lmm = tiny_family_lmm("mllama")
    base = replace(lmm, processor=shallow(lmm.processor, chat_template=None))
    ids = base.token_ids("Is it day?", "<|image|>")
    assert base.tokenizer.decode(ids) == "<|image|><|begin_of_text|>Is it day?"


@pytest.mark.parametrize("name", RECENT)
def test_without_a_chat_template_a_familys_own_says_the_same(name):
    lmm = tiny_family_lmm(name)
    base = replace(lmm, processor=shallow(lmm.processor, chat_template=None))
    assert base.render("Is it day?") == lmm.render("Is it day?")


def shallow(processor, **changes):
    made = copy.copy(processor)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_placeholder_in_a_prompt_is_refused(name):
    lmm = tiny_family_lmm(name)
    assert lmm.refusal("What is an image?") is None
    assert bool(lmm.refusal(f"What is {lmm.image_token}?")) is (name != "blip")


def test_a_projector_is_where_the_record_says_or_refused():
    assert tiny_family_lmm("qwen2_5_vl").projector is not None
    assert tiny_family_lmm("clipcap").projector is tiny_family_lmm("clipcap").model.clip_project
    with pytest.raises(LmmsteerError, match="blip models have no projector"):
        _ = tiny_family_lmm("blip").projector


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", "LlamaConfig"),
        ("qwen2", "Qwen2Config"),
        ("mistral", "MistralConfig"),
        ("gemma", "GemmaConfig"),
        ("gemma2", "Gemma2Config"),
        ("gpt2", "GPT2Config"),
        ("blip_text_model", "BlipTextConfig"),
        ("mllama_text_model", "MllamaConfig"),
        ("qwen2_5_vl_text", "Qwen2_5_VLConfig"),
        ("paligemma", "PaliGemmaConfig"),
        ("gemma3_text", "Gemma3TextConfig"),
        ("gemma3", "Gemma3Config"),
        ("qwen2", "LlavaOnevisionConfig"),
        ("qwen2", "InternVLConfig"),
        ("llama", "SmolVLMConfig"),
        ("qwen3_vl_text", "Qwen3VLConfig"),
    ],
)
def test_sizes_that_a_config_leaves_out_are_those_of_its_class(kind, config):
    if not hasattr(transformers, config):
        pytest.skip("This transformers does not have it.")
    made = getattr(transformers, config)().get_text_config()
    assert TEXT_DEFAULTS[kind] == (made.hidden_size, made.num_hidden_layers)


def test_a_flat_config_as_qwens_published_one_tells_its_sizes(tmp_path):
    config = {"model_type": "qwen2_5_vl", "hidden_size": 2048, "num_hidden_layers": 36}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (files.d_model(tmp_path), files.n_layers(tmp_path)) == (2048, 36)


def test_a_clipcap_of_published_weights_alone_is_refused_with_what_is_missing(clipcap):
    for part in ("clip", "gpt2"):
        shutil.rmtree(clipcap / part)
    (clipcap / "config.json").unlink()
    (clipcap / "model.safetensors").rename(clipcap / "coco_weights.pt")
    with pytest.raises(LmmsteerError, match=r"without config\.json, clip/config\.json.*gpt2") as e:
        files.check(clipcap)
    assert 'CLIPModel.from_pretrained("openai/clip-vit-base-patch32")' in e.value.mend
    assert 'save_pretrained("gpt2")' in e.value.mend


@pytest.mark.parametrize("part", ["clip/preprocessor_config.json", "gpt2/tokenizer.json"])
def test_a_missing_part_of_a_clipcap_is_named(clipcap, part):
    files.check(clipcap)
    (clipcap / part).unlink()
    with pytest.raises(LmmsteerError, match=f"without {part}"):
        files.check(clipcap)


def test_two_weight_files_in_a_clipcap_folder_are_refused(clipcap):
    (clipcap / "model.safetensors").unlink()
    for name in ("coco_weights.pt", "conceptual_weights.pt"):
        (clipcap / name).write_bytes(b"")
    with pytest.raises(LmmsteerError, match=r"several \.pt files"):
        files.check(clipcap)


def test_a_clipcaps_digest_follows_its_inner_folders(clipcap):
    before = files.digest(clipcap)
    (clipcap / "gpt2" / "model.safetensors").write_bytes(b"not used")
    assert files.digest(clipcap) == before
    for part in ("clip/config.json", "gpt2/tokenizer.json", "model.safetensors", "config.json"):
        was = files.digest(clipcap)
        with (clipcap / part).open("ab") as stream:
            stream.write(b" ")
        assert files.digest(clipcap) != was


def test_a_clipcap_whose_weights_do_not_fill_it_is_refused(clipcap):
    file = clipcap / "model.safetensors"
    weights = load_file(file)
    kept = {key: w for key, w in weights.items() if key != "gpt.transformer.h.1.mlp.c_fc.weight"}
    save_file(kept, file)
    with pytest.raises(LmmsteerError, match=r"every weight .* gpt\.transformer\.h\.1\.mlp"):
        load("c", str(clipcap))
    save_file({k: w for k, w in kept.items() if "project" not in k}, file)
    with pytest.raises(LmmsteerError, match="neither the published MLP"):
        load("c", str(clipcap))
    file.write_bytes(b"<html>Quota exceeded</html>")
    with pytest.raises(LmmsteerError, match="cannot be read"):
        load("c", str(clipcap))


def test_a_chat_template_is_found_wherever_it_was_saved(tmp_path):
    folder = shutil.copytree(tiny_family("qwen2_5_vl"), tmp_path / "model")
    shown = tiny_family_lmm("qwen2_5_vl").render("Hi")
    assert load("q", str(folder)).render("Hi") == shown
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    assert load("q", str(folder)).render("Hi") == shown  # The family's own says the same.
    (folder / "chat_template.jinja").write_text(template.replace("helpful", "kind"))
    assert load("q", str(folder)).render("Hi") == shown.replace("helpful", "kind")
