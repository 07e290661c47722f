"""What an answer says of an attribute by a list of scored words, read token by token.

Whole words are found in tokens: an automaton is run over every token of the vocabulary beforehand,
from each state that a text can be in, so that a decode step only looks its result up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lmmsteer.errors import LmmsteerError

OUTSIDE, INSIDE, PENDING = range(3)
"""No word is open; one is; one is, and an apostrophe that may belong to it came last."""

BASE = 0x9E3779B97F4A7C15  # The hash of a word: of its bytes b, h = (h * BASE + b + 1) mod 2^64.
WRAP = 2**64
FIXED = 2**32  # Scores are summed as whole multiples of 2^-32, in whatever order the same.
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
LOST = "\N{REPLACEMENT CHARACTER}"
LONE = "\udc80", "\udcff"  # How Python writes bytes that are no character of their own.


@dataclass(frozen=True)
class Lexicon:
    """f_text: the mean score of the lexicon's words among the words of an answer, 0 without one.

    Words are case-folded runs of letters and digits with apostrophes inside; the open word at the
    end of the answer counts. Special tokens say nothing. Where a token holds a piece of a character
    of several bytes, the piece counts as part of a word.

    steps: [3 * vocab, 7] int64, for each state and token what `_step` says. words: [n] int64,
    hashes in ascending order; scores: [n] int64, in 2^-32. Memory of a row: the open word's hash,
    the state, the sum of the scores and the number of lexicon words before the open one.
    """

    steps: Tensor
    words: Tensor
    scores: Tensor

    @classmethod
    def of(cls, tokenizer: Any, scores: Mapping[str, float], vocab_size: int) -> Lexicon:
        """A lexicon for a model's tokenizer. vocab_size: the width of its logits.

        Raises: LmmsteerError as `checked` does.
        """
        return _made(tokenizer, tuple(sorted(checked(scores).items())), vocab_size)

    def start(self, rows: int, device: torch.device) -> Tensor:
        return torch.zeros(rows, 4, dtype=torch.long, device=device)

    def advance(self, memory: Tensor, tokens: Tensor) -> Tensor:
        word, state, total, count = memory.unbind(1)
        steps = self.steps.to(memory.device)
        found = steps[state * (len(steps) // 3) + tokens]  # [rows, 7]
        power, head, keeps, tail, after, inner_total, inner_count = found.unbind(1)
        grown = word * power + head
        closes = (state != OUTSIDE) & (keeps == 0)
        score, known = self._looked_up(grown)
        return torch.stack(
            [
                torch.where(keeps == 1, grown, tail),
                after,
                total + inner_total + score * closes,
                count + inner_count + known * closes,
            ],
            1,
        )

    def score(self, memory: Tensor, tokens: Tensor, *, dense: bool = True) -> Tensor:
        word, state, total, count = self.advance(memory, tokens).unbind(1)
        score, known = self._looked_up(word)
        is_open = state != OUTSIDE
        total, count = total + score * is_open, count + known * is_open
        return (total.double() / (count.clamp(min=1) * FIXED)).float()

    def _looked_up(self, word: Tensor) -> tuple[Tensor, Tensor]:
        """Score and presence of words by their hashes. [rows] -> [rows], [rows] bool."""
        words, scores = self.words.to(word.device), self.scores.to(word.device)
        at = torch.searchsorted(words, word.contiguous()).clamp(max=len(words) - 1)
        known = words[at] == word
        return scores[at] * known, known


def lexicon_beta(tokenizer: Any, scores: Mapping[str, float], vocab_size: int) -> Tensor:
    """The score of the word that a token spells whole, case and one leading space apart; else 0.

    [vocab_size] float32; 0 behind the tokenizer's last id.
    Raises: LmmsteerError as `checked` does, and where no token spells any of the words.
    """
    known = checked(scores)
    found = [known.get(text, 0.0) for text in _spelled(tokenizer)[:vocab_size]]
    beta = torch.tensor([*found, *[0.0] * (vocab_size - len(found))])
    if not beta.any() and any(known.values()):
        raise LmmsteerError(
            f"No single token of the model spells any of the lexicon's words: {', '.join(known)}.",
            "Give words that are one token (method.lexicon), or use method.classifier=fitted",
        )
    return beta


def checked(scores: Mapping[str, float]) -> dict[str, float]:
    """The lexicon, case-folded.

    Raises: LmmsteerError for no words, one that is none, a score that is not in [-1, 1], a word
    with two scores.
    """
    mend = "Give single words with scores from -1 to 1: 'method.lexicon={he: 1.0, she: -1.0}'"
    known: dict[str, float] = {}
    for word, score in scores.items():
        folded = str(word).casefold()
        _, _, inside, tail, _ = _read(folded, OUTSIDE)
        if inside or tail != folded or not tail:
            raise LmmsteerError(f"method.lexicon holds {word!r}, which is not a single word.", mend)
        if not isinstance(score, (int, float)) or not math.isfinite(score) or abs(score) > 1:
            raise LmmsteerError(f"method.lexicon gives {word!r} the score {score}.", mend)
        if known.setdefault(folded, float(score)) != score:
            raise LmmsteerError(f"method.lexicon gives {word!r} two scores.", mend)
    if not known:
        raise LmmsteerError("method.lexicon holds no words.", mend)
    return known


@lru_cache(maxsize=2)
def _spelled(tokenizer: Any) -> Sequence[str]:
    """What every token says alone, case and one leading space apart."""
    texts = tokenizer.batch_decode(
        [[token] for token in range(len(tokenizer))],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [text.removeprefix(" ").casefold() for text in texts]


@lru_cache(maxsize=8)
def _made(tokenizer: Any, scores: tuple[tuple[str, float], ...], vocab_size: int) -> Lexicon:
    known = {_hash(word): round(score * FIXED) for word, score in scores}
    texts = [text.casefold() for text in token_texts(tokenizer, max(vocab_size, len(tokenizer)))]
    steps = [_step(text, state, known) for state in (OUTSIDE, INSIDE, PENDING) for text in texts]
    words = sorted(known)
    return Lexicon(
        torch.tensor(steps, dtype=torch.long),
        torch.tensor(words, dtype=torch.long),
        torch.tensor([known[word] for word in words], dtype=torch.long),
    )


def _step(text: str, state: int, known: Mapping[int, int]) -> tuple[int, ...]:
    """What a token does to a text in a state.

    BASE^n for the n bytes by which the open word goes on, their hash, whether it is open still; the
    hash of a new open word, the state; sum and number of lexicon words that stand inside the token.
    """
    head, keeps, inside, tail, after = _read(text, state)
    found = [known[word] for word in map(_hash, inside) if word in known]
    power = _signed(pow(BASE, len(_bytes(head)), WRAP))
    return power, _hash(head), int(keeps), _hash(tail), after, sum(found), len(found)


def _read(text: str, state: int) -> tuple[str, bool, list[str], str, int]:
    """Words of a case-folded text, behind one that ends in a state.

    By what the open word goes on, whether it is open at the end, the words that are whole, the word
    that is open at the end (empty where it is the first one), and the state there.
    """
    head, keeps, inside, word = "", state != OUTSIDE, [], ""
    for char in text:
        if char.isalnum() or LONE[0] <= char <= LONE[1]:
            word += "'" + char if state == PENDING else char
            state = INSIDE
        elif char == "'" and state == INSIDE:
            state = PENDING
        elif state != OUTSIDE:
            if keeps:
                head, keeps = word, False
            else:
                inside.append(word)
            word, state = "", OUTSIDE
    return (word, True, [], "", state) if keeps else (head, False, inside, word, state)


def _hash(word: str) -> int:
    found = 0
    for byte in _bytes(word):
        found = (found * BASE + byte + 1) % WRAP
    return _signed(found)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _signed(word: int) -> int:
    return word - WRAP if word >= WRAP // 2 else word


@lru_cache(maxsize=2)
def token_texts(tokenizer: Any, size: int) -> Sequence[str]:
    """What every token adds to a text that goes before it; special ones nothing.

    Decoded behind a letter, since some tokenizers drop a leading space. Bytes that are no character
    of their own are lone surrogates (Python's surrogateescape).
    """
    before = tokenizer.encode("a", add_special_tokens=False)
    anchor, *texts = tokenizer.batch_decode(
        [before, *([*before, token] for token in range(len(tokenizer)))],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    texts = [text.removeprefix(anchor) for text in texts]
    for token, text in enumerate(texts):
        if LOST in text:
            texts[token] = _pieces(tokenizer.convert_ids_to_tokens(token)) or text
    return [*texts, *[""] * (size - len(texts))]


def _pieces(token: str) -> str | None:
    """The text of a token that holds parts of characters; None for one that is written out."""
    if named := BYTE_TOKEN.fullmatch(token):
        data = bytes([int(named[1], 16)])
    elif all(char in BYTES for char in token):
        data = bytes(BYTES[char] for char in token)
    else:
        return None
    return data.decode("utf-8", "surrogateescape")


def _byte_alphabet() -> dict[str, int]:
    """The bytes by the characters that a byte-level BPE vocabulary writes them with (GPT-2's).

    Printable ones are themselves, the others follow from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + at): byte for at, byte in enumerate(others)},
    }


BYTES = _byte_alphabet()
