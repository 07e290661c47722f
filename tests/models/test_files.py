import json
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
from huggingface_hub import errors

from lmmsteer.errors import LmmsteerError
from lmmsteer.models import files
from tests.tiny import save_tiny_llava, tiny_llava


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tiny_llava(), tmp_path / "model")


def test_files_is_imported_without_torch_or_transformers():
    code = "import sys, lmmsteer.models.files; print({'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_whole_folder_is_accepted_and_its_sizes_are_read_from_the_config(folder):
    files.check(folder)
    assert (files.d_model(folder), files.n_layers(folder)) == (32, 2)


@pytest.mark.parametrize(
    ("names", "consequence"),
    [
        (["config.json"], "has no config.json"),
        (["model.safetensors"], "there are no weights"),
        (["processor_config.json", "preprocessor_config.json"], "pictures cannot be prepared"),
        (["tokenizer.json"], "prompts cannot be tokenized"),
    ],
)
def test_a_missing_file_is_named_with_what_mends_it(folder, names, consequence):
    for name in names:
        (folder / name).unlink(missing_ok=True)  # transformers 4 and 5 name one of them each.
    with pytest.raises(LmmsteerError, match=consequence) as error:
        files.check(folder)
    assert "save_pretrained" in error.value.mend


def test_a_shard_that_the_weight_index_names_must_be_there(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {key: f"model-0000{key}-of-00002.safetensors" for key in (1, 2)}
    index = {"weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LmmsteerError, match=r"lacks model-00002-of-00002\.safetensors"):
        files.check(folder)


def test_the_digest_follows_what_defines_answers_and_nothing_else(folder, tmp_path):
    before = files.digest(folder)
    (folder / "README.md").write_text("hello")
    (folder / "optimizer.pt").write_bytes(b"0")
    assert files.digest(folder) == before == files.digest(tiny_llava())
    assert files.digest(save_tiny_llava(tmp_path / "same")) == before
    assert files.digest(save_tiny_llava(tmp_path / "other", seed=1)) != before
    for name in ("chat_template.jinja", "processor_config.json", "generation_config.json"):
        was, text = files.digest(folder), (folder / name).read_text()
        (folder / name).write_text(text + " ")
        assert files.digest(folder) != was


def test_a_config_without_the_decoders_sizes_means_the_published_ones(folder):
    config = files.config(folder)
    config["text_config"] = {"vocab_size": 32064}
    (folder / "config.json").write_text(json.dumps(config))
    assert (files.d_model(folder), files.n_layers(folder)) == (4096, 32)


def test_a_config_that_is_no_json_is_named(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(LmmsteerError, match=r"config\.json cannot be read"):
        files.d_model(folder)


def test_a_folder_is_found_and_a_path_that_is_none_is_named(folder):
    assert files.locate(str(folder)) == folder
    for path in ("/no/such/folder", "./nothing", "a/b/c", "nothing"):
        with pytest.raises(LmmsteerError, match=f"model.path={path} is not a folder"):
            files.locate(path)


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (errors.LocalEntryNotFoundError("x"), "hub cannot be reached"),
        (errors.OfflineModeIsEnabled("x"), "hub cannot be reached"),
        (errors.HFValidationError("x"), "neither a folder nor a model on the hub"),
        (OSError("no route to host"), "hub cannot be reached"),
    ],
)
def test_a_hub_id_that_cannot_be_had_says_why(monkeypatch, failure, why):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(LmmsteerError, match=f"model.path=some/model .*{why}"):
        files.locate("some/model")
