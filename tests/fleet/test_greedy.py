"""The main job against an independent source: transformers' own generate, one row at a time."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.fleet.runs import line, photos, run
from tests.tiny import tiny_llava

PICTURE_TOKENS = 16  # (32 / 8)^2, as tiny_llava is built


def test_greedy_answers_are_transformers_own_row_by_row_for_mixed_prompts(tmp_path: Path) -> None:
    data, out = photos(tmp_path / "photos"), tmp_path / "out"
    run(line("generate", data, out, "sampling.temperature=0", "seeds=[0]", "shard_images=4"))
    rows = pq.read_table(out / "manifest/dataset=folder/rows").to_pylist()
    found = pq.ParquetDataset(sorted((out / "responses").rglob("part-*.parquet"))).read()
    answers = {row["row_id"]: row for row in found.to_pylist()}
    assert len(rows) == len(answers) == 30
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llava())
    prepare = CLIPImageProcessorPil.from_pretrained(tiny_llava())
    lengths = set()
    for row in rows:
        placeholders = "<image>" * PICTURE_TOKENS
        text = f"USER: {placeholders}\n{row['prompt']} ASSISTANT:"
        inputs = tokenizer(text, return_tensors="pt")
        pixels = prepare(Image.open(data / row["image_id"]), return_tensors="pt")["pixel_values"]
        tokens = model.generate(**inputs, pixel_values=pixels, do_sample=False, max_new_tokens=24)
        expected = tokens[0, inputs["input_ids"].shape[1] :].tolist()
        ended = bool(expected) and expected[-1] == tokenizer.eos_token_id
        expected = expected[:-1] if ended else expected
        answer = answers[row["row_id"]]
        assert answer["token_ids"] == expected
        assert answer["new_tokens"] == len(expected)
        assert answer["finish_reason"] == ("eos" if ended else "length")
        assert answer["text"] == tokenizer.decode(expected, skip_special_tokens=True).strip()
        lengths.add(len(expected))
    assert len({tuple(a["token_ids"]) for a in answers.values()}) > 5
