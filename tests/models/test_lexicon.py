import random
import re
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import PreTrainedTokenizerFast

from lmmsteer.errors import LmmsteerError
from lmmsteer.models.lexicon import Lexicon, lexicon_beta, token_texts
from lmmsteer.models.lmm import load
from tests.tiny import tiny_tokenizer

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
SCORES = {"he": 1.0, "she": -1.0, "man's": 0.5, "café": 0.25, "a": -0.125, "th": 0.75, "σ": -0.5}
REPLACED = "\N{REPLACEMENT CHARACTER}"


@cache
def sentencepiece():
    """A tokenizer as SentencePiece's byte-fallback ones are: a leading space is dropped."""
    pieces = ["▁", "▁he", "he", "▁she", "s", "h", "e", "a", "▁a", "t", "th", "▁The", "'", "man"]
    pieces += ["▁man", "'s", "_", "-", ".", "▁He's", "É", "é", "caf", "5", "▁▁", "Σ", "s.▁he▁a"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {name: at for at, name in enumerate(names)}
    bpe = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@cache
def wordpiece():
    """A tokenizer as BERT's: what goes on a word is written ##."""
    pieces = ["[UNK]", "[SEP]", "he", "##he", "##r", "she", "a", "man", "'", "s", "##s", ".", "th"]
    tokenizer = Tokenizer(
        models.WordPiece({p: at for at, p in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", sep_token="[SEP]", eos_token="[SEP]"
    )


@cache
def demo():
    return load(name="demo", path="demo").tokenizer


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def mean_score(text, scores=SCORES):
    found = [scores[w] for w in WORD.findall(text.casefold()) if w in scores]
    return sum(found) / len(found) if found else 0.0


def read_all(lexicon, rows):
    """f_text of every prefix of every row: [tokens, rows]."""
    tokens = torch.tensor(rows).T
    memory, found = lexicon.start(len(rows), torch.device("cpu")), []
    for token in tokens:
        found.append(lexicon.score(memory, token))
        memory = lexicon.advance(memory, token)
    return torch.stack(found)


@pytest.mark.parametrize("make", [tiny_tokenizer, demo, sentencepiece, wordpiece])
def test_it_is_the_mean_over_the_words_that_a_regular_expression_finds_in_every_prefix(make):
    tokenizer = make()
    whole = [i for i in range(len(tokenizer)) if REPLACED not in decoded(tokenizer, [i])]
    telling = [i for i in whole if set(decoded(tokenizer, [i]).casefold()) <= set(" 'hesamnt.")]
    drawn = random.Random(0)
    rows = [[drawn.choice(drawn.choice([whole, telling])) for _ in range(24)] for _ in range(60)]
    found = read_all(Lexicon.of(tokenizer, SCORES, len(tokenizer)), rows)
    wanted = [[mean_score(decoded(tokenizer, row[: n + 1])) for row in rows] for n in range(24)]
    assert torch.allclose(found, torch.tensor(wanted), atol=1e-7, rtol=0)
    assert sum(value != 0 for values in wanted for value in values) > 100


@pytest.mark.parametrize("make", [tiny_tokenizer, demo, sentencepiece])
def test_characters_of_several_tokens_are_read_where_they_are_letters(make):
    tokenizer = make()
    ids = tokenizer.encode(
        "He: a café, le café's; CAFé' 中文he he中 日 she", add_special_tokens=False
    )
    found = read_all(Lexicon.of(tokenizer, SCORES, len(tokenizer)), [ids])[:, 0]
    shown = [decoded(tokenizer, ids[: n + 1]) for n in range(len(ids))]
    whole = [n for n, text in enumerate(shown) if REPLACED not in text]
    assert len(whole) > 10
    assert any(REPLACED in text for text in shown)
    for n in whole:
        assert abs(found[n].item() - mean_score(shown[n])) < 1e-7, shown[n]


def test_a_token_counts_as_it_reads_inside_a_text():
    texts = token_texts(sentencepiece(), 300)
    vocabulary = sentencepiece().get_vocab()
    assert texts[vocabulary["▁he"]] == " he"
    assert texts[vocabulary["he"]] == "he"
    assert texts[vocabulary["<0x41>"]] == "A"
    assert texts[vocabulary["<0xC3>"]] == "\udcc3"
    assert texts[vocabulary["</s>"]] == ""
    assert texts[299] == ""
    vocabulary = wordpiece().get_vocab()
    assert token_texts(wordpiece(), 13)[vocabulary["he"]] == " he"
    assert token_texts(wordpiece(), 13)[vocabulary["##he"]] == "he"


def test_special_tokens_say_nothing_and_end_no_word():
    tokenizer = sentencepiece()
    ids = tokenizer.convert_tokens_to_ids(["s", "</s>", "h", "e"])
    found = read_all(Lexicon.of(tokenizer, SCORES, len(tokenizer)), [ids])[:, 0]
    assert decoded(tokenizer, ids) == "she"
    assert found.tolist() == [0, 0, 0, -1]


def test_beta_is_the_score_of_the_word_that_a_token_spells():
    tokenizer = sentencepiece()
    beta = lexicon_beta(tokenizer, SCORES, len(tokenizer) + 5)
    spelled = {
        tokenizer.convert_ids_to_tokens(i): beta[i].item() for i in beta.nonzero()[:, 0].tolist()
    }
    assert spelled == {
        **{"▁he": 1, "he": 1, "▁she": -1, "▁a": -0.125, "a": -0.125, "th": 0.75, "Σ": -0.5},
        **{"<0x61>": -0.125, "<0x41>": -0.125},
    }
    assert len(beta) == len(tokenizer) + 5
    assert beta.dtype == torch.float32


@pytest.mark.parametrize("make", [tiny_tokenizer, demo])
def test_beta_is_that_of_every_single_token_spelling(make):
    tokenizer = make()
    beta = lexicon_beta(tokenizer, SCORES, len(tokenizer))
    for word, score in SCORES.items():
        for form in (word, word.upper(), word.capitalize()):
            for text in (form, " " + form):
                ids = tokenizer.encode(text, add_special_tokens=False)
                if len(ids) == 1:
                    assert beta[ids[0]] == score
    for token in beta.nonzero()[:, 0].tolist():
        assert tokenizer.decode([token]).strip().casefold() in SCORES


def test_rows_do_not_see_each_other_and_shapes_hang_on_no_values():
    tokenizer = tiny_tokenizer()
    lexicon = Lexicon.of(tokenizer, SCORES, len(tokenizer) + 40)
    rows = torch.randint(4, len(tokenizer), (7, 12), generator=torch.Generator().manual_seed(1))
    together = read_all(lexicon, rows.tolist())
    alone = torch.cat([read_all(lexicon, [row]) for row in rows.tolist()], 1)
    assert torch.equal(together, alone)
    start = lexicon.start(7, torch.device("cpu"))
    traced = make_fx(lambda *given: lexicon.score(*given))(
        start, rows[:, 0]
    )  # Refuses what reads a value on the host.
    assert torch.equal(traced(start, rows[:, 3]), lexicon.score(start, rows[:, 3]))


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({}, "holds no words"),
        ({"African American": 1.0}, "not a single word"),
        ({"he.": 1.0}, "not a single word"),
        ({"he'": 1.0}, "not a single word"),
        ({"he": 1.5}, "the score 1.5"),
        ({"he": float("nan")}, "the score nan"),
        ({"he": 1.0, "He": -1.0}, "two scores"),
    ],
)
def test_a_lexicon_that_is_none_is_refused(scores, reason):
    with pytest.raises(LmmsteerError, match=reason):
        Lexicon.of(tiny_tokenizer(), scores, 400)


def test_words_that_no_token_spells_are_refused_as_weights():
    with pytest.raises(LmmsteerError, match="No single token"):
        lexicon_beta(tiny_tokenizer(), {"xylophone": 1.0}, 400)
