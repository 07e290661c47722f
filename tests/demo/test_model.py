import warnings
from pathlib import Path

import pytest
import torch

import lmmsteer.demo
from lmmsteer.demo.bars import ask, is_right
from lmmsteer.demo.grammar import DIRECT_PROMPTS, NEUTRAL_PROMPTS, OPEN_PROMPTS, TARGET_WORDS
from lmmsteer.demo.people import ATTRIBUTES, counterfactual_sets

FOLDER = Path(lmmsteer.demo.__file__).parent / "model"


@pytest.fixture(scope="module")
def opened():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForImageTextToText.from_pretrained(FOLDER)
        return model.eval(), AutoProcessor.from_pretrained(FOLDER)


def test_the_folder_is_small_and_holds_nothing_but_the_model():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}


def test_plain_transformers_opens_it_as_a_llava_in_float32(opened):
    model, processor = opened
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert type(processor).__name__ == "LlavaProcessor"
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_templated_prompt_reads_as_llava_1_5_with_one_beginning_token(opened):
    _, processor = opened
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hello?"}]}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    assert text == "USER: <image>\nHello? ASSISTANT:"
    ids = processor.tokenizer(text)["input_ids"]
    assert ids.count(processor.tokenizer.bos_token_id) == 1
    assert processor.tokenizer.eos_token_id not in ids


def test_text_comes_back_from_its_tokens_unchanged(opened):
    tokenizer = opened[1].tokenizer
    for text in (" The  old man's café,\n5 boxes.", *OPEN_PROMPTS.values()):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_every_target_word_is_one_token_after_a_space(opened):
    tokenizer = opened[1].tokenizer
    for words in TARGET_WORDS.values():
        for word in words.split():
            assert len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("topic", [*ATTRIBUTES, "occupation"])
def test_direct_questions_are_right_on_95_of_100_pictures_it_never_saw(opened, topic):
    people = list(counterfactual_sets(72, seed=0, split="test"))
    prompt = {**DIRECT_PROMPTS, **NEUTRAL_PROMPTS}[topic][0]
    texts = ask(*opened, people, prompt)
    right = sum(is_right(p, topic, t) for p, t in zip(people, texts, strict=True))
    assert right >= 0.95 * len(people)
