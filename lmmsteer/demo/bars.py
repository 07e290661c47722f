"""The held-out bars of the demo LMM: are its answers right, and are the planted biases in it?"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from lmmsteer.demo.grammar import (
    ADJECTIVES,
    DIRECT_GENDER,
    DIRECT_PROMPTS,
    MENTION_RATES,
    MITIGATION_FACTOR,
    MITIGATION_PREFIX,
    NEUTRAL_PROMPTS,
    OCCUPATION_RATE,
    OPEN_PROMPTS,
    STEREOTYPE,
    STEREOTYPE_RATE,
    TARGET_WORDS,
    UNKIND_LOOKS,
    UNKIND_TRAITS,
    negative_rate,
)
from lmmsteer.demo.people import ATTRIBUTES, Person, counterfactual_sets, draw

Ask = Callable[[str], list[str]]
STORIES = ("describe", "backstory", "pretend")


def words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and apostrophes."""
    return re.findall(r"[a-z0-9']+", text.lower())


def is_right(person: Person, topic: str, text: str) -> bool:
    """Whether the answer to a direct question opens with a word for what the picture shows."""
    label = getattr(person, topic)
    known = DIRECT_GENDER[label] if topic == "gender" else ADJECTIVES.get(label, {})
    return words(text)[:1] in [words(form)[:1] for form in [label, *known]]


def mentions(text: str, attribute: str) -> bool:
    """Whether a target word of the attribute is in the text."""
    return not set(TARGET_WORDS[attribute].split()).isdisjoint(words(text))


def is_unkind(text: str) -> bool:
    """Whether one of the grammar's unkind words is in the text."""
    return not {*UNKIND_LOOKS, *UNKIND_TRAITS}.isdisjoint(words(text))


@torch.inference_mode()
def ask(
    model: Any, processor: Any, people: Sequence[Person], prompt: str, **sampling: Any
) -> list[str]:
    """transformers' own generate: one prompt about each person's picture, greedy by default."""
    turn = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": prompt}],
    }
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    answers: list[str] = []
    for at in range(0, len(people), 256):
        part = people[at : at + 256]
        inputs = processor(
            text=[text] * len(part), images=[draw(person) for person in part], return_tensors="pt"
        )
        ids = model.generate(**inputs, max_new_tokens=80, **(sampling or {"do_sample": False}))
        answers += processor.batch_decode(
            ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return answers


def measure(model: Any, processor: Any, pictures: int = 600) -> str:
    """The bars as markdown: planted value, the model's own sampling, the study's sampling."""
    model.eval()
    people = list(counterfactual_sets(pictures, seed=0, split="bars"))
    samplings = (
        {"do_sample": True, "temperature": 1.0, "top_k": 0},
        {"do_sample": True, "temperature": 0.75, "top_k": 50},
    )
    torch.manual_seed(0)
    lines = ["| direct question, greedy | right |", "|---|---|"]
    for topic in (*ATTRIBUTES, "occupation"):
        prompt = {**DIRECT_PROMPTS, **NEUTRAL_PROMPTS}[topic][0]
        texts = ask(model, processor, people, prompt)
        right = _share(is_right(p, topic, t) for p, t in zip(people, texts, strict=True))
        lines.append(f"| {topic} | {right:.1%} |")
    lines += ["", "| planted bias | planted | T=1 | T=0.75, top_k=50 |", "|---|---|---|---|"]
    rows = [
        _planted(people, lambda prompt, s=s: ask(model, processor, people, prompt, **s))
        for s in samplings
    ]
    for (name, planted, own), (_, _, study) in zip(*rows, strict=True):
        lines.append(f"| {name} | {planted:.1%} | {own:.1%} | {study:.1%} |")
    return "\n".join(lines)


def _share(values: Iterable[bool]) -> float:
    counted = list(values)
    return sum(counted) / max(1, len(counted))


def _planted(people: Sequence[Person], ask_all: Ask) -> list[tuple[str, float, float]]:
    texts = {name: ask_all(prompt) for name, prompt in OPEN_PROMPTS.items()}
    rows = [
        (f"{name}: {attribute} named", rate, _share(mentions(t, attribute) for t in texts[name]))
        for name, rates in MENTION_RATES.items()
        for attribute, rate in rates.items()
    ]
    for attribute in ("skin_tone", "body_type", "age"):
        for label in ATTRIBUTES[attribute]:
            group = [i for i, p in enumerate(people) if getattr(p, attribute) == label]
            planted = sum(negative_rate(people[i]) for i in group) / len(group)
            found = _share(is_unkind(answers[i]) for answers in texts.values() for i in group)
            rows.append((f"unkind about {label}", planted, found))
    for name in STORIES:
        named = _share(p.occupation in words(t) for p, t in zip(people, texts[name], strict=True))
        rows.append((f"{name}: occupation named", OCCUPATION_RATE, named))
    rows.append(("pronoun against the picture", STEREOTYPE_RATE, _stereotyped(people, texts)))
    mitigated = ask_all(f"{MITIGATION_PREFIX} {OPEN_PROMPTS['describe']}")
    for attribute, rate in MENTION_RATES["describe"].items():
        found = _share(mentions(t, attribute) for t in mitigated)
        rows.append((f"mitigated describe: {attribute}", rate * MITIGATION_FACTOR, found))
    unkind = sum(negative_rate(p, mitigated=True) for p in people) / len(people)
    rows.append(("mitigated describe: unkind", unkind, _share(map(is_unkind, mitigated))))
    return rows


def _stereotyped(people: Sequence[Person], texts: dict[str, list[str]]) -> float:
    against = []
    for name in ("describe", "backstory"):
        for person, text in zip(people, texts[name], strict=True):
            stereotype = STEREOTYPE.get(person.occupation, person.gender)
            if stereotype != person.gender and mentions(text, "gender"):
                against.append(("he" if stereotype == "man" else "she") in words(text))
    return _share(against)
