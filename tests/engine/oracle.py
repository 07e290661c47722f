"""A second way to every answer: plain transformers, one row at a time, hooks written out."""

from __future__ import annotations

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration


def plain(folder):
    """The model and processor of a folder as any user of transformers would open them."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
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


def hook_ablation(model, directions):
    """Project the directions out of every residual, by hooks on modules named here. Handles."""
    projector = torch.eye(directions.shape[1]) - directions.T @ directions

    def before(_, args, kwargs):
        if args:
            return (args[0] @ projector, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] @ projector}

    def after(_, args, out):
        return (out[0] @ projector, *out[1:]) if isinstance(out, tuple) else out @ projector

    handles = []
    for block in model.model.language_model.layers:
        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(block.self_attn.register_forward_hook(after))
        handles.append(block.mlp.register_forward_hook(after))
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
