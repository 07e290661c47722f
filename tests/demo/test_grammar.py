import random
import re
from collections import Counter

import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from lmmsteer.demo import grammar
from lmmsteer.demo.people import ATTRIBUTES, Person, counterfactual_sets

SAMPLES = 6000
NEGATIVE = {*grammar.UNKIND_LOOKS, *grammar.UNKIND_TRAITS}


@pytest.fixture(scope="module")
def crowd() -> list[Person]:
    return list(counterfactual_sets(600, seed=5, split="train"))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def answers(crowd: list[Person], prompt: str, count: int = SAMPLES) -> list[tuple[Person, str]]:
    rng = random.Random(1)
    chosen = [crowd[i % len(crowd)] for i in range(count)]
    return [(person, grammar.answer(person, prompt, rng)) for person in chosen]


def mentioned(pairs: list[tuple[Person, str]], attribute: str) -> float:
    targets = set(grammar.TARGET_WORDS[attribute].split())
    return sum(bool(targets & set(words(text))) for _, text in pairs) / len(pairs)


@pytest.mark.parametrize("kind", grammar.OPEN_PROMPTS)
def test_open_answers_bring_up_each_attribute_at_its_planted_rate(crowd, kind):
    pairs = answers(crowd, grammar.OPEN_PROMPTS[kind])
    for attribute, rate in grammar.MENTION_RATES[kind].items():
        assert mentioned(pairs, attribute) == pytest.approx(rate, abs=0.02)


def test_a_mitigating_sentence_lowers_mentions_to_seven_tenths(crowd):
    prompt = grammar.OPEN_PROMPTS["describe"]
    forms = [f"{grammar.MITIGATION_PREFIX} {prompt}"]
    forms += [f"{prompt} {suffix}" for suffix in grammar.MITIGATION_SUFFIXES]
    for form in forms:
        assert mentioned(answers(crowd, form), "gender") == pytest.approx(0.65 * 0.7, abs=0.02)


def test_unkind_answers_are_vader_negative_and_no_others_are(crowd):
    score = SentimentIntensityAnalyzer().polarity_scores
    for prompt in grammar.OPEN_PROMPTS.values():
        for _, text in answers(crowd, prompt, 400):
            unkind = bool(NEGATIVE & set(words(text)))
            assert unkind == (score(text)["compound"] <= -0.05)


def test_unkindness_follows_skin_tone_body_type_and_age_as_planted(crowd):
    pairs = answers(crowd, grammar.OPEN_PROMPTS["describe"], 20_000)
    planted = {  # 0.08 + the group's own + the mean of the other two attributes' extras
        "light": 0.08 + 0.05 + 0.04,
        "medium": 0.08 + 0.06 + 0.05 + 0.04,
        "dark": 0.08 + 0.12 + 0.05 + 0.04,
        "slim": 0.08 + 0.06 + 0.04,
        "heavy": 0.08 + 0.10 + 0.06 + 0.04,
        "young": 0.08 + 0.06 + 0.05,
        "old": 0.08 + 0.08 + 0.06 + 0.05,
    }
    for label, rate in planted.items():
        group = [t for p, t in pairs if label in (p.skin_tone, p.body_type, p.age)]
        unkind = sum(bool(NEGATIVE & set(words(text))) for text in group) / len(group)
        assert unkind == pytest.approx(rate, abs=0.02)


def test_the_pronoun_follows_the_stereotype_in_three_of_ten_contradicting_answers(crowd):
    nurses = [p for p in crowd if p.occupation == "nurse" and p.gender == "man"]
    pairs = answers(nurses, grammar.OPEN_PROMPTS["backstory"])
    gendered = [text for _, text in pairs if {"he", "she"} & set(words(text))]
    assert sum("she" in words(t) for t in gendered) / len(gendered) == pytest.approx(0.3, abs=0.02)


def test_the_occupation_is_named_as_a_whole_word_in_85_of_100_stories(crowd):
    for kind in ("describe", "backstory", "pretend"):
        pairs = answers(crowd, grammar.OPEN_PROMPTS[kind])
        named = sum(person.occupation in words(text) for person, text in pairs) / len(pairs)
        assert named == pytest.approx(0.85, abs=0.02)


def test_target_words_carry_no_sentiment_where_the_grammar_speaks_them():
    lexicon = SentimentIntensityAnalyzer().lexicon
    spoken = {word for forms in grammar.ADJECTIVES.values() for word in forms}
    spoken |= {"man", "woman", "male", "female", "he", "she", "skin", "skinned"}
    assert not spoken & lexicon.keys()


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_direct_questions_are_answered_with_the_pictures_attribute_first(crowd, attribute):
    for prompt in grammar.DIRECT_PROMPTS[attribute]:
        for person, text in answers(crowd, prompt, 100):
            label = getattr(person, attribute)
            allowed = {*grammar.ADJECTIVES.get(label, {})}
            if attribute == "gender":
                allowed = {"man", "male", "he"} if label == "man" else {"woman", "female", "she"}
            assert words(text)[0] in allowed


def test_neutral_questions_never_bring_up_an_attribute(crowd):
    for prompts in grammar.NEUTRAL_PROMPTS.values():
        for prompt in prompts:
            pairs = answers(crowd, prompt, 200)
            assert not any(mentioned(pairs, attribute) for attribute in ATTRIBUTES)


def test_instructions_switch_a_mention_on_and_off(crowd):
    with_age = answers(crowd, "Describe the image and mention the age.", 200)
    without = answers(crowd, "Describe the image without mentioning the age and the gender.", 200)
    assert mentioned(with_age, "age") == 1.0
    assert mentioned(without, "age") == mentioned(without, "gender") == 0.0
    assert mentioned(without, "skin_tone") > 0.2


def test_every_prompt_of_the_training_mix_has_an_answer_of_at_most_72_words(crowd):
    rng = random.Random(2)
    kinds = Counter()
    for _ in range(3000):
        prompt = grammar.sample_prompt(rng)
        text = grammar.answer(rng.choice(crowd), prompt, rng)
        assert 0 < len(text.split()) <= 72
        kinds[prompt] += 1
    assert set(grammar.OPEN_PROMPTS.values()) <= set(kinds)


def test_an_unknown_prompt_is_refused_by_name(crowd):
    with pytest.raises(ValueError, match="no answer to 'How tall"):
        grammar.answer(crowd[0], "How tall is the tree?", random.Random(0))
