"""Every logit that answers were drawn from, byte by byte."""

import torch

from lmmsteer.engine import sampling
from lmmsteer.engine.sampling import row_keys


def bits_of(monkeypatch, engine, requests, pictures, lmm, edit, how):
    """By row id: the answer's tokens, and the bytes of the logits behind each of them."""
    seen = {}

    def listening(choose):
        def heard(logits, keys, step, sampling):
            steps = torch.as_tensor(step).expand(len(keys)).tolist()
            for row, key, at in zip(logits, keys.tolist(), steps, strict=True):
                seen[(*key, at)] = row.numpy().tobytes()
            return choose(logits, keys, step, sampling)

        return heard

    with monkeypatch.context() as during:
        during.setattr(sampling, "choose", listening(sampling.choose))
        found = list(engine.generate(lmm, requests, pictures, edit, how))
    heard = {}
    for response in found:
        key = row_keys([response.row_id])[0].tolist()
        said = response.new_tokens + (response.finish_reason == "eos")
        heard[response.row_id] = (response.token_ids, [seen[(*key, at)] for at in range(said)])
    return heard
