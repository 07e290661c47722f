"""A second way to every answer: plain transformers, one row at a time, hooks written out.

`family_oracle(name, folder)` opens a tiny model of any family as its users would by hand.
"""

from __future__ import annotations

import inspect
import json
import warnings

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from lmmsteer.models.mllama import keep_intermediate_states
from tests.engine.oracle_recent import RECENT_ORACLES
from tests.tiny import image_processor_class


def plain(folder):
    """The model and processor of a folder as any user of transformers would open them."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    return model, AutoProcessor.from_pretrained(folder)


def inputs(processor, prompt, picture):
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    return processor(text=text, images=picture, return_tensors="pt")


def greedy(model, processor, prompt, picture, max_new_tokens, eos_ids=()):
    """The new tokens of one row, the final end-of-sequence id left out."""
    batch = inputs(processor, prompt, picture)
    out = model.generate(
        **batch,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(eos_ids) or None,
        pad_token_id=0,
    )
    tokens = out[0, batch["input_ids"].shape[1] :].tolist()
    return tokens[:-1] if tokens[-1] in eos_ids else tokens


def hook_ablation(model, directions, blocks=None):
    """Project the directions out of every residual, by hooks on modules named here. Handles.

    blocks: each with the modules that write to the residual stream; without, LLaVA's.
    """
    if blocks is None:
        layers = model.model.language_model.layers
        blocks = [(block, block.self_attn, block.mlp) for block in layers]
    projector = torch.eye(directions.shape[1]) - directions.T @ directions

    def before(_, args, kwargs):
        if args:
            return (args[0] @ projector, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] @ projector}

    def after(_, args, out):
        return (out[0] @ projector, *out[1:]) if isinstance(out, tuple) else out @ projector

    handles = []
    for block, *writers in blocks:
        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        handles += [module.register_forward_hook(after) for module in writers]
    return handles


@torch.no_grad()
def orthogonalise(model, directions):
    """Project the directions out of every weight that writes to the residual stream."""
    projector = torch.eye(directions.shape[1]) - directions.T @ directions
    text = model.model.language_model
    text.embed_tokens.weight.copy_(text.embed_tokens.weight @ projector)
    last = model.model.multi_modal_projector.linear_2
    last.weight.copy_(projector @ last.weight)
    last.bias.copy_(projector @ last.bias)
    for block in text.layers:
        for linear in (block.self_attn.o_proj, block.mlp.down_proj):
            linear.weight.copy_(projector @ linear.weight)
    return model


class Oracle:
    """A model opened by hand. blocks: each with what it writes to the residual stream."""

    def __init__(self, folder):
        self.model = self.opened.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def greedy(self, prompt, picture, new):
        """The new tokens of one row, the final end-of-sequence id left out."""
        batch = self.inputs(prompt, picture)
        out = self.model.generate(**batch, do_sample=False, max_new_tokens=new)
        return self.cut(out[0, batch["input_ids"].shape[1] :].tolist())

    def cut(self, tokens):
        found = self.model.generation_config.eos_token_id
        return tokens[:-1] if tokens[-1] == found else tokens


class Llava(Oracle):
    opened = transformers.LlavaForConditionalGeneration

    def inputs(self, prompt, picture):
        return inputs(self.processor, prompt, picture)

    def blocks(self):
        layers = self.model.model.language_model.layers
        return [(block, block.self_attn, block.mlp) for block in layers]


class Mllama(Oracle):
    opened = transformers.MllamaForConditionalGeneration

    def __init__(self, folder):
        super().__init__(folder)
        keep_intermediate_states(self.model)  # Held against a walk by hand in tests/models.

    def inputs(self, prompt, picture):
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        text = self.processor.apply_chat_template([turn], add_generation_prompt=True)
        # The template has the BOS token; transformers' own example leaves the second out like so.
        return self.processor(picture, text, add_special_tokens=False, return_tensors="pt")

    def blocks(self):
        cross = self.model.config.text_config.cross_attention_layers
        layers = enumerate(self.model.model.language_model.layers)
        return [(b, b.cross_attn if at in cross else b.self_attn, b.mlp) for at, b in layers]


class Qwen2_5_VL(Oracle):  # noqa: N801
    opened = transformers.Qwen2_5_VLForConditionalGeneration

    def __init__(self, folder):
        self.model = self.opened.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        pictures = image_processor_class("qwen2_vl", "Qwen2VLImageProcessor")
        self.pictures = pictures.from_pretrained(folder)
        self.template = json.loads((folder / "chat_template.json").read_text())["chat_template"]

    def inputs(self, prompt, picture):
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        text = self.tokenizer.apply_chat_template(
            [turn], chat_template=self.template, tokenize=False, add_generation_prompt=True
        )
        made = self.pictures(picture, return_tensors="pt")
        _, rows, columns = made["image_grid_thw"][0].tolist()
        text = text.replace("<|image_pad|>", "<|image_pad|>" * (rows // 2 * columns // 2))
        made.update(self.tokenizer(text, return_tensors="pt"))
        made.pop("token_type_ids", None)
        if "mm_token_type_ids" in inspect.signature(self.model.forward).parameters:
            pad = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
            made["mm_token_type_ids"] = (made["input_ids"] == pad).int()
        return made

    def blocks(self):
        return [(b, b.self_attn, b.mlp) for b in self.model.model.language_model.layers]


class PaliGemma(Oracle):
    opened = transformers.PaliGemmaForConditionalGeneration

    def inputs(self, prompt, picture):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # transformers' own, of numpy 2.
            made = self.processor(text=f"<image>{prompt}", images=picture, return_tensors="pt")
        made.pop("labels", None)
        return made

    def blocks(self):
        layers = self.model.model.language_model.layers
        if self.model.config.text_config.model_type == "gemma":
            return [(b, b.self_attn, b.mlp) for b in layers]
        # Gemma 2 adds the normalised outputs.
        return [(b, b.post_attention_layernorm, b.post_feedforward_layernorm) for b in layers]


class Blip(Oracle):
    opened = transformers.BlipForConditionalGeneration

    def inputs(self, prompt, picture):
        return self.processor(images=picture, text=prompt, return_tensors="pt")

    def greedy(self, prompt, picture, new):
        batch = self.inputs(prompt, picture)
        length = batch["input_ids"].shape[1] - 1  # Its generate drops the [SEP].
        out = self.model.generate(**batch, do_sample=False, max_new_tokens=new)
        tokens = out[0, length:].tolist()
        return tokens[:-1] if tokens[-1] == self.model.config.text_config.sep_token_id else tokens


class ClipCap(Oracle):
    """The published inference in a few lines: no cache, no padding, one row."""

    def __init__(self, folder):
        self.weights = load_file(folder / "model.safetensors")
        self.clip = transformers.CLIPModel.from_pretrained(folder / "clip").eval()
        pictures = image_processor_class("clip", "CLIPImageProcessor")
        self.pictures = pictures.from_pretrained(folder / "clip")
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "gpt2")
        config = transformers.GPT2Config.from_pretrained(folder / "gpt2")
        self.model = transformers.GPT2LMHeadModel(config).eval()
        own = {k[4:]: w for k, w in self.weights.items() if k.startswith("gpt.")}
        self.model.load_state_dict(own, strict=False)

    def prefix(self, picture):
        pixels = self.pictures(picture, return_tensors="pt")["pixel_values"]
        seen = self.clip.visual_projection(self.clip.vision_model(pixels).pooler_output)
        w = {k.removeprefix("clip_project."): v for k, v in self.weights.items()}
        if "model.0.weight" in w:
            inner = torch.tanh(seen @ w["model.0.weight"].T + w["model.0.bias"])
            return (inner @ w["model.2.weight"].T + w["model.2.bias"]).view(10, -1)
        d_model, heads = w["prefix_const"].shape[1], 8
        x = (w["linear.weight"] @ seen[0] + w["linear.bias"]).view(-1, d_model)
        clip_length, x = len(x), torch.cat([x, w["prefix_const"]])
        for n in range(2):
            own = {k[21:]: v for k, v in w.items() if k.startswith(f"transformer.layers.{n}.")}
            y = torch.layer_norm(x, [d_model], own["norm1.weight"], own["norm1.bias"])
            q = (y @ own["attn.to_queries.weight"].T).view(-1, heads, d_model // heads)
            kv = (y @ own["attn.to_keys_values.weight"].T).view(-1, 2, heads, d_model // heads)
            scores = torch.einsum("nhd,mhd->nmh", q, kv[:, 0]) * (d_model // heads) ** -0.5
            mixed = torch.einsum("nmh,mhd->nhd", scores.softmax(1), kv[:, 1]).flatten(1)
            x = x + mixed @ own["attn.project.weight"].T + own["attn.project.bias"]
            y = torch.layer_norm(x, [d_model], own["norm2.weight"], own["norm2.bias"])
            y = torch.relu(y @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"])
            x = x + y @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
        return x[clip_length:]

    @torch.no_grad()
    def greedy(self, prompt, picture, new):
        words = self.model.transformer.wte
        ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"][0]
        x = torch.cat([self.prefix(picture), words(ids)])[None]
        ends, tokens = (self.tokenizer.encode(".")[0], 0), []
        while len(tokens) < new:
            token = int(self.model(inputs_embeds=x).logits[0, -1].argmax())
            if token in ends:
                break
            tokens.append(token)
            x = torch.cat([x, words(torch.tensor([[token]]))], dim=1)
        return tokens

    def blocks(self):
        return [(b, b.attn, b.mlp) for b in self.model.transformer.h]


ORACLES = {
    "llava": Llava,
    "mllama": Mllama,
    "qwen2_5_vl": Qwen2_5_VL,
    "paligemma": PaliGemma,
    "paligemma2": PaliGemma,
    "blip": Blip,
    "clipcap": ClipCap,
    "clipcap_transformer": ClipCap,
    **RECENT_ORACLES,
}


def family_oracle(name, folder):
    """A tiny model of a family as its users would open it by hand."""
    return ORACLES[name](folder)
