"""The loader's arguments: what is honoured, what asks for nothing, what is refused."""

from __future__ import annotations

import shutil

import pytest
import torch

from spanwright.compat.gliner import GLiNER, RelationGLiNER
from spanwright.errors import ConfigError
from support.tiny import LABELS, SENTENCES, tiny_extractor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loading") / "model"
    tiny_extractor(seed=1).save(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [
        ({}, torch.float32),
        ({"dtype": "half"}, torch.float16),
        ({"dtype": "float"}, torch.float32),
        ({"dtype": "bf16"}, torch.bfloat16),
        ({"dtype": torch.bfloat16}, torch.bfloat16),
        ({"quantize": "half"}, torch.float16),
        ({"quantize": True}, torch.float16),
        ({"quantize": False, "map_location": torch.device("cpu")}, torch.float32),
        ({"quantize": None, "map_location": None, "dtype": None, "variant": None}, torch.float32),
    ],
)
def test_kinds_of_weights(folder, arguments, dtype):
    model = GLiNER.from_pretrained(folder, **arguments)
    assert model.model.dtype == dtype
    assert model.device == torch.device("cpu")


def test_a_variant_that_is_there_is_read(folder, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(folder, both)
    tiny_extractor(seed=2).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", both / "model.bf16.safetensors")
    whole, other = (GLiNER.from_pretrained(each, dtype="bf16") for each in (folder, tmp_path / "other"))
    found = GLiNER.from_pretrained(both, variant="bfloat16")
    assert found.model.dtype == torch.bfloat16
    states = [model.model.state_dict() for model in (found, other, whole)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_variant_that_is_not_there_is_cast(folder):
    with pytest.warns(UserWarning, match="names weights that .* does not have"):
        found = GLiNER.from_pretrained(folder, variant="fp16")
    assert found.model.dtype == torch.float16
    with pytest.raises(ConfigError, match="`dtype` must agree with `variant`"):
        GLiNER.from_pretrained(folder, variant="fp16", dtype="bf16")


def test_what_asks_for_nothing(folder):
    model = GLiNER.from_pretrained(
        str(folder),
        None,
        model_dir=None,
        cache_dir=None,
        force_download=False,
        local_files_only=True,
        load_tokenizer=True,
        compile_torch_model=True,
        low_cpu_mem_usage=True,
        load_onnx_model=False,
        onnx_model_file="model.onnx",
        session_options=None,
        runtime=None,
        runtime_model_file=None,
        runtime_options=None,
        post_fusion_schema=None,
        max_length=384,
        max_width=4,
        _attn_implementation="eager",
    )
    assert model.predict_entities(SENTENCES[1], LABELS, threshold=0.3)


def test_limits_are_honoured(folder):
    model = GLiNER.from_pretrained(folder, max_length=16, max_width=2)
    assert (model.config.max_words, model.config.max_width) == (16, 2)
    whole = GLiNER.from_pretrained(folder)
    narrow, wide = (each.predict_entities(SENTENCES[1], LABELS, False, 0.3, True) for each in (model, whole))
    width = [len(e["text"].split()) for e in narrow]
    assert max(width) <= 2 < max(len(e["text"].split()) for e in wide)
    long = " ".join(SENTENCES[:4])  # is read in windows that have fewer words
    assert model.predict_entities(long, LABELS, threshold=0.3)[-1]["start"] > len(long) // 2


def test_limits_that_weights_are_made_for(tmp_path):
    tiny_extractor(span_mode="query").save(tmp_path / "model")
    assert GLiNER.from_pretrained(tmp_path / "model", max_width=4).config.max_width == 4
    with pytest.raises(ConfigError, match="`max_width` must be 4, for which the weights are made, but is 6"):
        GLiNER.from_pretrained(tmp_path / "model", max_width=6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"load_onnx_model": True}, "`load_onnx_model` must be None or False, but is True"),
        ({"runtime": "openvino"}, "`runtime` must be None or 'torch', but is 'openvino'. Leave it out"),
        ({"model_dir": "x"}, "Pass the folder as `model_id`"),
        ({"_attn_implementation": "flash_attention_2"}, "`_attn_implementation` must be"),
        ({"quantize": "int8"}, '`quantize` must be "fp16" or "bf16"'),
        ({"variant": "fp32"}, '`variant` must be "fp16" or "bf16"'),
        ({"dtype": "int8"}, "`dtype` must be one of"),
        ({"max_lenght": 5}, "Did you mean `max_length`"),
        ({"max_length": 0}, "`max_length` must be a whole number, at least 1"),
        ({"post_fusion_schema": "l2l"}, "`post_fusion_schema` must be '' as in the model"),
    ],
)
def test_what_is_refused(folder, arguments, message):
    with pytest.raises(ConfigError, match=message):
        GLiNER.from_pretrained(folder, **arguments)


def test_calls_of_a_module(folder, tmp_path):
    model = GLiNER.from_pretrained(folder)
    before = model.predict_entities(SENTENCES[1], LABELS, threshold=0.3)
    assert model.train() is model
    model.compile()
    assert model.train(False).eval().to("cpu") is model
    assert model.predict_entities(SENTENCES[1], LABELS, threshold=0.3) == before
    assert model.to(dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert model.half().model.dtype == torch.float16
    with pytest.raises(ConfigError, match="`from_config` is not offered"):
        GLiNER.from_config({"model_name": "x"})


def test_saving(folder, tmp_path):
    model = GLiNER.from_pretrained(folder)
    saved = tmp_path / "saved"
    model.save_pretrained(saved, config=None, repo_id=None, push_to_hub=False, safe_serialization=False)
    model.save_pretrained(saved, config=model.config)
    assert (saved / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="`push_to_hub` must be False"):
        model.save_pretrained(saved, push_to_hub=True, repo_id="a/b")
    with pytest.raises(ConfigError, match="`config` must be the model's own"):
        model.save_pretrained(saved, config={"max_width": 3})


def test_a_relation_model_comes_as_one(folder, tmp_path):
    tiny_extractor(adjacency="none").save(tmp_path / "model")
    assert isinstance(GLiNER.from_pretrained(tmp_path / "model"), RelationGLiNER)
    assert not isinstance(GLiNER.from_pretrained(folder), RelationGLiNER)
