import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from lmmsteer.models.text_classifier import (
    LENGTH,
    TextClassifier,
    logits,
    logits_of_embedded,
    shapes,
)

CPU = torch.device("cpu")
VOCAB = 50


def random_weights(classes=2, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes(VOCAB, classes).items():
        scale = shape[-1] ** -0.5 if len(shape) > 1 and "position" not in name else 0.3
        scale = 1.0 if name == "token.weight" else scale
        made[name] = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        if "norm" in name and name.endswith("weight"):
            made[name] += 1
    return {name: weight.to(dtype) for name, weight in made.items()}


def torchs_own(weights, ids):
    """The same network from torch's modules, one text without padding. ids: [tokens]."""
    dtype = weights["head.weight"].dtype
    layer = nn.TransformerEncoderLayer(128, 4, 2048, 0.1, batch_first=True, dtype=dtype)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    prefix = "encoder."
    state = {k.removeprefix(prefix): x for k, x in weights.items() if k.startswith(prefix)}
    encoder.load_state_dict(state)
    embedded = weights["token.weight"][ids] + weights["position.weight"][: len(ids)]
    with torch.no_grad():
        mean = encoder(embedded[None])[0].mean(0)
    return weights["head.weight"] @ mean + weights["head.bias"]


@pytest.mark.parametrize("classes", [2, 5])
def test_it_is_the_network_that_torch_builds_of_the_same_weights(classes):
    weights = random_weights(classes, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for length in (1, 2, 17, LENGTH):
        ids = torch.randint(VOCAB, (length,), generator=generator)
        found = logits(weights, ids[None])[0]
        assert found.shape == (classes,)
        assert torch.allclose(found, torchs_own(weights, ids), atol=1e-10)


def test_padding_on_either_side_changes_nothing():
    weights = random_weights(dtype=torch.float64)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    pad = torch.full((1, 6), -1)
    alone = logits(weights, ids)
    assert torch.allclose(logits(weights, torch.cat([pad, ids], 1)), alone, atol=1e-12)
    assert torch.allclose(logits(weights, torch.cat([ids, pad], 1)), alone, atol=1e-12)
    rubbish = torch.randn(1, 11, 128, dtype=torch.float64)
    rubbish[:, 6:] = weights["token.weight"][ids]
    shown = logits_of_embedded(weights, rubbish, torch.cat([pad, ids], 1) >= 0)
    assert torch.allclose(shown, alone, atol=1e-12)


def test_a_row_reads_what_it_has_said_and_the_candidate():
    weights = random_weights(3)
    said = torch.tensor([[7, 8, 9], [9, 8, 7]])
    candidates = torch.tensor([11, 12])
    for reader in (TextClassifier(weights, 1), TextClassifier(weights, 2, margin=True)):
        memory = reader.start(2, CPU)
        for tokens in said.T:
            memory = reader.advance(memory, tokens)
        found = reader.score(memory, candidates)
        for row in range(2):
            own = torchs_own(weights, torch.cat([said[row], candidates[row : row + 1]]))
            share = own.softmax(-1)[2] if reader.margin else own[1].sigmoid()
            assert abs(found[row] - (2 * share - 1)) < 1e-5
        assert (found.abs() <= 1).all()


def test_the_margin_of_two_classes_is_the_difference_of_their_logits():
    weights = random_weights()
    ids = torch.tensor([5, 6])
    reader = TextClassifier(weights, margin=True)
    memory = reader.advance(reader.start(1, CPU), ids[:1])
    first, second = torchs_own(weights, ids)
    wanted = 2 * (second - first).sigmoid() - 1
    assert abs(reader.score(memory, ids[1:]) - wanted) < 1e-5


def test_of_a_long_answer_the_last_128_tokens_are_read():
    weights = random_weights()
    reader = TextClassifier(weights)
    ids = torch.randint(VOCAB, (200,), generator=torch.Generator().manual_seed(2))
    memory = reader.start(1, CPU)
    for token in ids[:-1]:
        memory = reader.advance(memory, token[None])
    assert memory.shape == (1, 127)
    wanted = 2 * torchs_own(weights, ids[-128:])[1].sigmoid() - 1
    assert abs(reader.score(memory, ids[-1:]) - wanted) < 1e-5


def test_no_value_is_read_on_the_host():
    reader = TextClassifier(random_weights())
    start = reader.start(2, CPU)
    traced = make_fx(lambda *given: reader.score(*given))(start, torch.tensor([1, 2]))
    other = torch.tensor([8, 9])
    assert torch.equal(traced(start, other), reader.score(start, other))
