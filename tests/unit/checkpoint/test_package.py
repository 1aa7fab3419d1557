from __future__ import annotations

import json
import os
import pickle
import random
import socket
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spanwright import CheckpointError, DecodeOptions, Extractor
from spanwright.checkpoint import load_package, local_folder, new_package
from spanwright.train_config import NewModelOptions
from support.tiny import FAMILIES, LABELS, RELATIONS, SENTENCES, bi_encoder, plain_tokenizer, tiny_extractor

CONFIG = "gliner_config.json"


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_extractor("bert").save(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config.update(changes)
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def encoder(folder: Path, **changes) -> None:
    values = json.loads((folder / CONFIG).read_text())["encoder_config"]
    rewrite(folder, encoder_config={**values, **changes})


def refused(folder: Path, message: str) -> str:
    with pytest.raises(CheckpointError, match=message) as caught:
        Extractor.from_pretrained(folder, device="cpu")
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(family, tmp_path):
    extractor = tiny_extractor(family, rnn_dropout=0.1, word_splitter="script")
    extractor.save(tmp_path / "model")
    state = torch.random.get_rng_state(), random.getstate()
    loaded = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert state[1] == random.getstate()
    for name, value in extractor.model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name])
    assert loaded.model.config.word_splitter == "script"
    assert loaded.model.config.rnn_dropout == 0.1
    assert not loaded.model.training
    assert loaded.extract(SENTENCES[0], LABELS) == extractor.extract(SENTENCES[0], LABELS)


def test_nothing_is_asked_of_a_network(folder, monkeypatch):
    def no_network(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    Extractor.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / CONFIG).unlink(), "has no gliner_config.json"),
        (lambda f: (f / CONFIG).write_text("{"), "must be a JSON file"),
        (lambda f: (f / CONFIG).write_text("[]"), "must hold a JSON object"),
        (lambda f: (f / "model.safetensors").unlink(), "holds neither"),
        (lambda f: (f / "model.safetensors").write_text("<html>Not found</html>"), "is a web page"),
        (
            lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
            "git lfs pull",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(99)), "of another kind"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "but is empty"),
        (lambda f: (f / CONFIG).write_text("<!DOCTYPE html><title>404</title>"), "is a web page"),
        (lambda f: os.truncate(f / "model.safetensors", 1000), "must be a safetensors file"),
        (lambda f: (f / "tokenizer.json").unlink(), "must hold (its|a) tokenizer"),
        (lambda f: rewrite(f, span_mode="markerV9"), "Did you mean `markerV"),
        (lambda f: rewrite(f, span_mode="token_level"), "has an unknown place for"),
        (lambda f: rewrite(f, labels_encoder="nobody/nothing"), "must hold its tokenizer"),
        (lambda f: rewrite(f, labels_decoder="gpt2"), "a generative label decoder"),
        (lambda f: rewrite(f, span_encoder_config={"model_type": "rnn"}), "a context encoder"),
        (lambda f: rewrite(f, model_type="gliner_streaming_span"), "a streaming model"),
        (lambda f: rewrite(f, fuse_layers=True), "lacks 8 parameters"),
        (lambda f: rewrite(f, post_fusion_schema="l2l-x2x"), "must join l2l"),
        (lambda f: rewrite(f, num_rnn_layers=2), "must hold 2 LSTM layer"),
        (lambda f: rewrite(f, hidden_size=26), "has the wrong shape for"),
        (lambda f: rewrite(f, hidden_size=7), "must be even"),
        (lambda f: rewrite(f, max_width="wide"), "`max_width` must be a whole number, but is 'wide'"),
        (lambda f: rewrite(f, max_len=12.5), "`max_len` must be a whole number"),
        (lambda f: rewrite(f, encoder_config="bert"), "must be an object"),
        (lambda f: rewrite(f, encoder_config={"model_type": 5}), "must be one that transformers knows"),
        (lambda f: encoder(f, num_attention_heads="4"), "that transformers can build"),
        (lambda f: encoder(f, num_attention_heads=5), "that transformers can build"),
        (lambda f: encoder(f, hidden_size=-1), "that transformers can build"),
        (lambda f: encoder(f, hidden_act="nonsense"), "that transformers can build"),
        (lambda f: encoder(f, model_type="llama"), "must read in both directions"),
        (lambda f: (f / "tokenizer_config.json").write_text("[]"), "must hold its tokenizer"),
        (lambda f: rewrite(f, class_token_index=10**6), "must lie within the vocabulary"),
        (lambda f: rewrite(f, words_splitter_type="moses"), "must be one of 'whitespace'"),
        (lambda f: rewrite(f, encoder_config={"model_type": "berd"}), "Did you mean `bert`"),
        (lambda f: rewrite(f, encoder_config=None, model_name="nobody/nothing"), "must say what its encoder is"),
    ],
)
def test_damage_is_one_sentence(folder, damage, message):
    damage(folder)
    assert "\n" not in refused(folder, message)


def test_missing_and_unexpected_weights_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    weights["prompt_rep_layer.9.weight"] = weights.pop("prompt_rep_layer.0.weight")
    weights["token_rep_layer.bert_layer.model.embeddings.position_ids"] = torch.zeros(1, 512)  # harmless
    save_file(weights, folder / "model.safetensors")
    told = refused(folder, "lacks 1 parameter: prompt_rep_layer.0.weight")
    assert "unknown place for 1 parameter: prompt_rep_layer.9.weight" in told


def test_relation_models_of_the_oldest_kind(tmp_path):
    """Markers that the reader shall add himself, gliner's other name of attention, and a head that it never runs."""
    extractor = tiny_extractor(adjacency="attention", seed=1)
    extractor.save(tmp_path / "model")
    changes = {"class_token_index": -1, "rel_token_index": -1, "relations_layer": "attn", "represent_spans": True}
    rewrite(tmp_path / "model", **changes)
    back = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    asked = (SENTENCES[1], LABELS, RELATIONS, DecodeOptions(adjacency_threshold=0.01, relation_threshold=0.1))
    assert back.extract_relations(*asked) == extractor.extract_relations(*asked)
    assert back.extract_relations(*asked).relations
    for key, message in [
        ({"triples_layer": "ConvE"}, "`triples_layer` must be one of"),
        ({"triples_layer": "DistMult"}, "has an unknown place for 4 parameters: pair_rep_layer"),
        ({"triples_layer": None, "relations_layer": "mlp"}, "lacks 4 parameters: relations_rep_layer"),
        ({"relations_layer": "mpl"}, "Did you mean `mlp`"),
        ({"relations_layer": None}, "has an unknown place for"),
        (
            {"relations_layer": "attention", "rel_token_index": 10**6, "class_token_index": 5},
            "`rel_token_index` must lie within",
        ),
    ]:
        rewrite(tmp_path / "model", **key)
        refused(tmp_path / "model", message)


def test_older_layouts(folder):
    extractor = Extractor.from_pretrained(folder, device="cpu")
    expected = extractor.extract(SENTENCES[0], LABELS)
    rewrite(folder, num_rnn_layers="absent", has_rnn=True, max_len="384", lr_encoder="1e-5", train_data="x.json")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    old = Extractor.from_pretrained(folder, device="cpu")
    assert old.extract(SENTENCES[0], LABELS) == expected
    old.save(folder.parent / "again")
    written = json.loads((folder.parent / "again" / CONFIG).read_text())
    assert written["num_rnn_layers"] == 1
    assert written["train_data"] == "x.json"
    assert "has_rnn" not in written


def test_a_model_without_lstm_by_the_older_key(tmp_path):
    tiny_extractor("bert", num_rnn_layers=0).save(tmp_path / "model")
    rewrite(tmp_path / "model", num_rnn_layers="absent", has_rnn=False)
    assert Extractor.from_pretrained(tmp_path / "model", device="cpu").model.config.num_rnn_layers == 0


def test_markers_left_to_the_reader(tmp_path):
    extractor = tiny_extractor("bert")
    extractor.save(tmp_path / "model")
    rewrite(tmp_path / "model", class_token_index=-1, vocab_size=-1)
    again = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    assert again.model.config.entity_token_id == extractor.model.config.entity_token_id


def test_code_in_a_checkpoint_is_never_run(folder):
    config = json.loads((folder / CONFIG).read_text())
    marker = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    config["encoder_config"]["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    (folder / CONFIG).write_text(json.dumps(config))
    Extractor.from_pretrained(folder, device="cpu")
    rewrite(folder, encoder_config={**config["encoder_config"], "model_type": "evil"})
    refused(folder, "Code in a checkpoint is never run")
    assert not marker.exists()


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


def test_a_pickle_with_code_is_refused(folder, capsys):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Bomb()}, protocol=2))
    refused(folder, "must hold weights and nothing else")
    torch.save([1, 2], folder / "pytorch_model.bin")
    refused(folder, "must hold a state dict")
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("no/such/folder/at/all", "does not exist"), ("nobody/nothing", "a model on the hub that can be")],
)
def test_a_model_that_is_nowhere(name, message):
    with pytest.raises(CheckpointError, match=message):
        local_folder(name)


def test_a_file_in_place_of_a_folder(folder):
    with pytest.raises(CheckpointError, match="Name the folder that holds it"):
        local_folder(folder / CONFIG)


@pytest.mark.parametrize("point", ["write_weights", "settle", "os.replace"])
def test_a_fault_while_saving_leaves_the_old_package(folder, monkeypatch, point):
    old = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    target = {
        "write_weights": "spanwright.checkpoint.package.write_weights",
        "settle": "spanwright.checkpoint.files.settle",
        "os.replace": "spanwright.checkpoint.files.os.replace",
    }[point]
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        with pytest.raises(CheckpointError, match="No space left on device"):
            tiny_extractor("bert", seed=5).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == old
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_saving_over_a_package_and_permissions(folder):
    mask = os.umask(0o027)
    try:
        tiny_extractor("bert", seed=5).save(folder)
        tiny_extractor("bert", seed=5).save(folder.parent / "new")
    finally:
        os.umask(mask)
    for place in (folder / "model.safetensors", folder.parent / "new" / CONFIG):
        assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert Extractor.from_pretrained(folder, device="cpu").model.config.hidden_size == 24


def test_a_new_model_around_an_encoder(tmp_path):
    package = tiny_extractor("bert").package
    package.model.backbone.transformer.save_pretrained(tmp_path / "encoder")
    package.tokenizer.save_pretrained(tmp_path / "encoder")
    options = NewModelOptions(hidden_size=16, max_width=3)
    one, other = (new_package(tmp_path / "encoder", options, seed=seed) for seed in (1, 1))
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])
    assert one.model.config.max_width == 3
    Extractor(one).save(tmp_path / "model")
    Extractor.from_pretrained(tmp_path / "model", device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="a GLiNER or a pretrained encoder"):
        new_package(tmp_path / "empty", options, seed=0)


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits")
def test_a_full_disk_keeps_the_old_package(folder):
    import resource
    import signal

    old = (folder / "model.safetensors").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    extractor = tiny_extractor("bert", seed=5)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(CheckpointError, match="must be writable"):
            extractor.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (folder / "model.safetensors").read_bytes() == old


def shard(folder: Path, suffix: str) -> None:
    """The folder's weights in two files and an index, as transformers writes them."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = sorted(weights)
    places = {name: f"{stem}-{1 + (i % 2):05}-of-00002{suffix}" for i, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: weights[name] for name in names if places[name] == file}
        if suffix == ".safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_shards(folder, suffix):
    before = Extractor.from_pretrained(folder, device="cpu").model.state_dict()
    shard(folder, suffix)
    after = Extractor.from_pretrained(folder, device="cpu").model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    next(folder.glob("*-00002-of-*")).unlink()
    refused(folder, "must be beside it, but is not")
    next(folder.glob("*.index.json")).write_text("{}")
    refused(folder, "must map weights to files")


def test_half_precision_variants(folder):
    weights = load_file(folder / "model.safetensors")
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(half, folder / "model.fp16.safetensors", metadata={"format": "pt"})
    whole = Extractor.from_pretrained(folder, device="cpu")
    lighter = Extractor.from_pretrained(folder, device="cpu", variant="fp16")
    assert lighter.model.dtype == torch.float32
    one, other = whole.model.spans.out_project.first.weight, lighter.model.spans.out_project.first.weight
    assert torch.equal(one.half().float(), other)
    with pytest.raises(CheckpointError, match=r"must hold model\.bf16\.safetensors"):
        Extractor.from_pretrained(folder, device="cpu", variant="bf16")
    (folder / "model.safetensors").unlink()
    assert Extractor.from_pretrained(folder, device="cpu").model.dtype == torch.float32


def test_a_configuration_that_is_a_training_yaml(folder):
    before = Extractor.from_pretrained(folder, device="cpu").extract(SENTENCES[0], LABELS)
    rewrite(
        folder,
        num_rnn_layers="absent",
        fine_tune=True,
        lr_encoder="1e-5",
        train_data="data.json",
        hidden_size="24",
        max_width="4",
        dropout="0.4",
        num_steps=30000,
        name="correct",
        has_rnn=True,
        model_type="gliner",
        labels_encoder=None,
        post_fusion_schema=None,
        shuffle_types=True,
    )
    assert Extractor.from_pretrained(folder, device="cpu").extract(SENTENCES[0], LABELS) == before
    rewrite(folder, has_rnn="absent")
    assert Extractor.from_pretrained(folder, device="cpu").extract(SENTENCES[0], LABELS) == before


def test_tensors_that_are_never_run_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    weights["cross_fuser.layers.0.0.pre_norm.weight"] = torch.ones(24)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite(folder, post_fusion_schema="l2l-t2t")
    assert tuple(load_package(folder).unused) == ("cross_fuser.layers.0.0.pre_norm.weight",)


def test_a_second_model_in_the_same_folder_replaces_the_first(tmp_path):
    for seed in range(2):
        extractor = tiny_extractor(seed=seed, **bi_encoder())
        extractor.save(tmp_path / "model")
    back = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    assert back.extract(SENTENCES[0], LABELS) == extractor.extract(SENTENCES[0], LABELS)


def test_a_checkpoint_does_not_choose_an_attention(folder):
    """transformers would fetch its kernel from a hub."""
    expected = Extractor.from_pretrained(folder, device="cpu").extract(SENTENCES[0], LABELS)
    for key in ("attn_implementation", "_attn_implementation"):
        encoder(folder, **{key: "somebody/kernel"})
        back = Extractor.from_pretrained(folder, device="cpu")
        assert back.model.backbone.transformer.config._attn_implementation in ("eager", "sdpa")
        assert [e.label for e in back.extract(SENTENCES[0], LABELS)] == [e.label for e in expected]


def test_a_tokenizer_without_the_markers_is_given_them_or_refused(tmp_path):
    extractor = tiny_extractor()
    extractor.save(tmp_path / "model")
    plain_tokenizer().save_pretrained(tmp_path / "plain")
    for path in (tmp_path / "model").glob("*token*"):
        path.unlink()
    rewrite(tmp_path / "model", model_name=str(tmp_path / "plain"))
    back = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    assert back.extract_many(SENTENCES, LABELS) == extractor.extract_many(SENTENCES, LABELS)
    other = plain_tokenizer()
    other.add_tokens(["something", "else"])
    other.save_pretrained(tmp_path / "plain")
    refused(tmp_path / "model", "must come with the tokenizer that it was trained with")


def test_tensors_that_are_never_run_are_written_back(folder):
    weights = load_file(folder / "model.safetensors")
    weights["cross_fuser.layers.0.0.pre_norm.weight"] = torch.ones(24)
    save_file(weights, folder / "model.safetensors")
    back = Extractor.from_pretrained(folder, device="cpu")
    assert list(back.package.unused) == ["cross_fuser.layers.0.0.pre_norm.weight"]
    back.save(folder.parent / "again")
    written = load_file(folder.parent / "again" / "model.safetensors")
    assert torch.equal(written["cross_fuser.layers.0.0.pre_norm.weight"], torch.ones(24))


def test_adapters_and_other_types_are_called_what_they_are(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {**weights, "token_rep_layer.bert_layer.model.base_model.model.x.lora_A.weight": torch.ones(1)},
        folder / "model.safetensors",
    )
    refused(folder, "holds adapters")
    save_file({**weights, "prompt_rep_layer.0.bias": torch.ones(96, dtype=torch.int8)}, folder / "model.safetensors")
    refused(folder, "has the wrong type for 1 parameter: prompt_rep_layer.0.bias")


# -- a byte for each weight


def test_whole_numbers_are_a_quarter_of_the_size_and_near(tmp_path):
    extractor = tiny_extractor("bert")
    extractor.save(tmp_path / "wide")
    extractor.save(tmp_path / "narrow", as_int8=True)
    wide, narrow = (load_package(tmp_path / name).model.state_dict() for name in ("wide", "narrow"))
    for name, weight in wide.items():
        if weight.is_floating_point() and weight.dim() > 1:
            half_a_step = weight.flatten(1).abs().amax(dim=1) / 127 / 2
            assert ((weight - narrow[name]).flatten(1).abs().amax(dim=1) <= half_a_step * 1.001).all()
        else:
            assert torch.equal(weight, narrow[name])
    stored = load_file(tmp_path / "narrow" / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.dim() > 1 and value.is_floating_point()} == set()
    assert extractor.model.backbone.transformer.embeddings.word_embeddings.weight.dtype == torch.float32
    again = Extractor.from_pretrained(tmp_path / "narrow", device="cpu")
    again.save(tmp_path / "again", as_int8=True)
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == stored.keys()


@pytest.mark.parametrize("damage", ["no matrix", "short scale"])
def test_whole_numbers_without_their_scales_are_refused(tmp_path, damage):
    tiny_extractor("bert").save(tmp_path / "m", as_int8=True)
    path = tmp_path / "m" / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith(".int8_scale"))
    if damage == "no matrix":
        del state[name.removesuffix(".int8_scale")]
    else:
        state[name] = state[name][:-1].clone()
    save_file(state, path)
    with pytest.raises(CheckpointError, match="must hold one scale for each row"):
        load_package(tmp_path / "m")


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("half", [False, True])
def test_an_encoders_type_is_told_as_gliner_can_run_it(half, key, tmp_path):
    """tests/parity runs such packages."""
    extractor = tiny_extractor()
    config = extractor.model.config
    extractor.model.config = replace(config, backbone_config={**config.backbone_config, key: "float16"})
    if half:
        extractor.model.half()
    extractor.save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "gliner_config.json").read_text())["encoder_config"][key] == "float32"
