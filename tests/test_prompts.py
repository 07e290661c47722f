"""Files of prompts as people damage them: one sentence that names the line."""

from pathlib import Path

import pytest

from lmmsteer import config as configs
from lmmsteer.config import PromptsConfig
from lmmsteer.errors import LmmsteerError
from lmmsteer.prompts import filled, questions, read_prompts


def refusal(path: Path, data: str | bytes) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(LmmsteerError) as caught:
        configs.prompts(PromptsConfig("x", {}, str(path)))
    assert "\n" not in caught.value.what
    return caught.value.what.removeprefix(f"prompts.file={path}: ")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("id,text\na,What?\nb,What, then?\n", "line 3: 3 fields, and 2 columns."),
        ("id,text\na,What?\nb\n", "line 3: 1 fields, and 2 columns."),
        ('id,text\na,"two\nlines"\na,x\n', "line 4: the id a stands twice."),
        ('id,text\na,"cut o', "line 2: unexpected end of data."),
        ("id,text,text\na,x,y\n", "line 1: 'text' stands twice."),
        ("id,prompt\na,x\n", "line 1: no columns id and text, or no row below them."),
        ("id,text\n", "line 1: no columns id and text, or no row below them."),
        (b"id,text\na,caf\xe9\n", "line 2: byte 6 is 0xe9, not UTF-8."),
        (b"id,text\na,x\nb,y\0z\n", "line 3: byte 4 is null."),
        ("id,text\na\x07,x\n", "line 2: 'a\\x07' holds a control character (U+0007)."),
        ("id,text\na,\n", "The prompt a is empty."),
    ],
)
def test_a_damaged_csv_names_the_line(data: str | bytes, says: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / "p.csv", data) == says


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("a: What?\nb: Who?\na: Why?\n", "line 3: the id a stands twice."),
        ("1: What?\n'1': Who?\n", "line 2: the id 1 stands twice."),
        ("a: What?\nb: 5\n", "line 2: the prompt b is no text; put it in quotes."),
        ("a: What?\nb: yes\n", "line 2: the prompt b is no text; put it in quotes."),
        ("a: What?\nb: 2024-99-99\n", "line 2: the prompt b is no text; put it in quotes."),
        ("a: What?\nb: [x]\n", "line 2: no id with its text."),
        ("items:\n  a: What?\n  b: {}\n", "line 3: no id with its text."),
        ("a: What?\nb: 'cut o", "line 2: no valid YAML, found unexpected end of stream."),
        ("a: What?\nb: bell\x07\n", "line 2: no valid YAML, special characters are not allowed."),
        ('a: What?\nb: "\\ud800"\n', "line 2: '\\ud800' holds half of a surrogate pair (U+D800)."),
        ("- What?\n", "it is not a mapping of id to text."),
        ("", "it is not a mapping of id to text."),
        ("[" * 5_000, "no valid YAML, nested too deeply."),
        (b"a: What?\nb: \xff\n", "line 2: byte 4 is 0xff, not UTF-8."),
        (b"a: x\0\n", "line 1: byte 5 is null."),
    ],
)
def test_damaged_yaml_names_the_line(data: str | bytes, says: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / "p.yaml", data) == says


def test_byte_order_marks_unicode_separators_and_keys_that_look_like_numbers_are_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "p.csv").write_text("id,text\n1,one\u2028two\n", encoding="utf-8-sig")
    (tmp_path / "p.yaml").write_text("1: one\nyes: 'two'\n", encoding="utf-8-sig")
    assert read_prompts(tmp_path / "p.csv") == {"1": "one\u2028two"}
    assert read_prompts(tmp_path / "p.yaml") == {"1": "one", "yes": "two"}


@pytest.mark.parametrize("name", ["p.csv", "p.yaml"])
def test_a_prompt_of_a_million_letters_is_read(name: str, tmp_path: Path) -> None:
    text = "word " * 200_000
    head, quote = ("id,text\na,", '"') if name == "p.csv" else ("a: ", "'")
    (tmp_path / name).write_text(f"{head}{quote}{text}{quote}\n")
    assert read_prompts(tmp_path / name) == {"a": text}


@pytest.mark.parametrize("items", [{"a": "\ud800"}, {"a\n": "x"}, {"a": "null\0"}])
def test_a_prompt_of_a_config_that_cannot_be_stored_is_refused(items: dict[str, str]) -> None:
    with pytest.raises(LmmsteerError, match="A prompt cannot be stored"):
        configs.prompts(PromptsConfig("x", items))


def test_a_prompts_file_that_is_a_folder_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(LmmsteerError, match="cannot be read: Is a directory"):
        configs.prompts(PromptsConfig("x", {}, str(tmp_path)))


def test_a_label_stands_in_its_place_and_a_picture_without_it_is_not_asked() -> None:
    labels = {"occupation": "[RACE] \\1 nurse", "race": None, "gender": ""}
    assert (
        filled("As a [OCCUPATION]? [OCCUPATION]!", labels)
        == "As a [RACE] \\1 nurse? [RACE] \\1 nurse!"
    )
    assert filled("As a [occupation], [AGES]?", labels) == "As a [occupation], [AGES]?"
    assert filled("[RACE]", labels) is None
    assert filled("[GENDER] [OCCUPATION]", labels) is None
    asked = questions({"a": "[RACE]?", "b": "Who?"}, [3, 1], labels)
    assert asked == [("b", "Who?", 3), ("b", "Who?", 1)]
