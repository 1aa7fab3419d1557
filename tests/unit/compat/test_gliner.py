"""A gliner script with another import line: its calls, its dictionaries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spanwright import Entity
from spanwright.compat.gliner import GLiNER
from spanwright.compat.training import training_config
from spanwright.errors import ConfigError, DataError
from support.peer import assert_same_entities, hangs_on_a_tie
from support.tiny import LABELS, SENTENCES, bi_encoder, tiny_extractor

DATA = [{"tokenized_text": SENTENCES[1].split(), "ner": [[0, 1, "person"], [5, 5, "country"]]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compat") / "model"
    tiny_extractor(seed=1).save(folder)
    return folder


@pytest.fixture
def model(folder):
    return GLiNER.from_pretrained(folder, map_location="cpu", local_files_only=True).eval()


def test_the_readme_of_gliner(model, folder):
    entities = model.predict_entities(SENTENCES[1], list(LABELS), threshold=0.3)
    assert entities
    for entity in entities:
        assert set(entity) == {"start", "end", "text", "label", "score"}
        assert SENTENCES[1][entity["start"] : entity["end"]] == entity["text"]
    gliner = pytest.importorskip("gliner")
    peer = gliner.GLiNER.from_pretrained(str(folder), local_files_only=True)
    expected = peer.predict_entities(SENTENCES[1], list(LABELS), threshold=0.3)
    found = [Entity(**entity) for entity in entities]
    assert_same_entities(found, expected, lambda: hangs_on_a_tie(model.extractor, SENTENCES[1], LABELS, 0.3))


def test_many_texts_and_what_is_no_text(model):
    one, nothing, none = model.inference([SENTENCES[1], "", None], list(LABELS), threshold=0.3, batch_size=2)
    assert one == model.predict_entities(SENTENCES[1], LABELS, threshold=0.3)
    assert nothing == none == []
    with pytest.warns(FutureWarning, match="use `inference`"):
        assert model.batch_predict_entities([SENTENCES[1]], LABELS, threshold=0.3) == [one]


def test_labels_with_descriptions(model):
    named = model.predict_entities(SENTENCES[1], {"PER": "person", "LOC": "country"}, threshold=0.3)
    plain = model.predict_entities(SENTENCES[1], ["person", "country"], threshold=0.3)
    assert [e["label"] for e in named] == [{"person": "PER", "country": "LOC"}[e["label"]] for e in plain]
    with pytest.raises(DataError, match="describe each name differently"):
        model.predict_entities("x", {"a": "same", "b": "same"})


def test_what_is_trained_is_what_is_saved(model, tmp_path):
    model.train_model(
        DATA * 4, DATA, output_dir=tmp_path / "out", learning_rate=1e-3, max_steps=3, freeze_components=["text_encoder"]
    )
    model.save_pretrained(tmp_path / "saved")
    back = GLiNER.from_pretrained(tmp_path / "saved")
    assert back.predict_entities(SENTENCES[1], LABELS) == model.predict_entities(SENTENCES[1], LABELS)


def test_vectors_of_labels():
    model = GLiNER(tiny_extractor(**bi_encoder()))
    vectors = model.encode_labels(LABELS)
    assert vectors.shape == (4, 24)
    found = model.predict_with_embeds(SENTENCES[1], vectors, LABELS, threshold=0.4)
    assert found == model.predict_entities(SENTENCES[1], LABELS, threshold=0.4)
    with pytest.raises(DataError, match="must be 4 as the vectors are"):
        model.predict_with_embeds(SENTENCES[1], vectors, LABELS[:2])


@pytest.mark.parametrize("changes", [{"adjacency": "none"}, {"adjacency": "mlp", "span_mode": "token_level"}])
def test_relations(changes, tmp_path):
    tiny_extractor(seed=1, **changes).save(tmp_path / "model")
    model = GLiNER.from_pretrained(tmp_path / "model", map_location="cpu")
    texts, asked = list(SENTENCES[:3]), {"relations": ["met in", "member of"], "threshold": 0.45}
    entities, relations = model.inference(texts, list(LABELS), **asked)
    alone, related = model.predict_relations(texts[1], list(LABELS), **asked)
    assert alone == [{**e, "score": pytest.approx(e["score"], abs=1e-5)} for e in entities[1]]
    assert related == [{**r, "score": pytest.approx(r["score"], abs=1e-5)} for r in relations[1]]
    plain = model.inference(texts, list(LABELS), **asked, return_relations=False)
    assert all(set(e) == {"start", "end", "text", "label", "score"} for row in plain for e in row)
    assert model.predict_entities(texts[1], list(LABELS), threshold=0.45) != []
    for relation in relations[1]:
        head = entities[1][relation["head"]["entity_idx"]]
        assert (head["start"], head["end"], head["label"]) == tuple(
            relation["head"][k] for k in ("start", "end", "type")
        )
    if "span_mode" in changes:  # gliner relates entities there with themselves: tests/parity/test_relations.py
        return
    gliner = pytest.importorskip("gliner")
    peer = gliner.GLiNER.from_pretrained(str(tmp_path / "model"), local_files_only=True)
    _, expected = peer.inference(texts, list(LABELS), **asked)
    assert relations == [[{**r, "score": pytest.approx(r["score"], abs=1e-5)} for r in row] for row in expected]


def test_a_relation_model_trains_and_is_evaluated(tmp_path):
    model = GLiNER(tiny_extractor(adjacency="mlp"))
    data = [{**DATA[0], "relations": [[0, 1, "member of"]]}] * 4
    trainer = model.train_model(data, data, output_dir=tmp_path / "out", learning_rate=1e-3, max_steps=2)
    trainer.save_model()
    trainer.save_model(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "gliner_config.json").is_file()
    told = model.evaluate(data)  # numbers: tests/parity/test_compat.py
    assert [line.split(":")[0] for line, _ in told] == ["P", "P"]
    assert all(line.endswith(f"F1: {f1:.2%}\n") for line, f1 in told)


def test_the_terms_of_a_loss_weigh_as_the_model_says():
    config = tiny_extractor(adjacency="mlp").model.config
    written = {"span_loss_coef": 2.0, "adjacency_loss_coef": "0.5", "relation_loss_coef": 3, "token_loss_coef": 9.0}
    loss = training_config({}, model=replace(config, published=written)).loss
    assert (loss.entity_weight, loss.adjacency_weight, loss.relation_weight) == (2.0, 0.5, 3.0)
    head = replace(tiny_extractor(span_mode="token_level", span_head=True).model.config, published=written)
    loss = training_config({}, model=head).loss
    assert (loss.entity_weight, loss.head_weight) == (9.0, 2.0)
    plain = replace(tiny_extractor().model.config, published=written)
    assert training_config({}, model=plain).loss.entity_weight == 1.0  # gliner applies none there


def test_half_precision_goes_by_the_name_of_quantisation(folder):
    assert GLiNER.from_pretrained(folder, quantize="bf16", compile_torch_model=True).model.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="`quantize` must be"):
        GLiNER.from_pretrained(folder, quantize="int8")


def test_training_arguments_mean_what_they_mean_there():
    config = training_config(
        {"learning_rate": 1e-5, "others_lr": 0.0, "max_steps": -1, "num_train_epochs": 3}, bf16=True
    )
    assert (config.optimizer.backbone_lr, config.optimizer.lr) == (1e-5, 0.0)  # gliner replaces this 0.0
    assert (config.training.max_steps, config.training.epochs, config.training.precision) == (0, 3.0, "bf16")
    assert config.loss.reduction == "sum"


def test_what_cannot_be_honoured_is_refused(model, folder):
    with pytest.raises(ConfigError, match="`load_onnx_model` must be None or False"):
        GLiNER.from_pretrained(folder, load_onnx_model=True)
    with pytest.raises(ConfigError, match="Did you mean `learning_rate`"):
        training_config({"learning_rat": 1})
    with pytest.raises(TypeError):
        model.inference(["x"], ["y"], flat_nre=False)  # gliner takes it and does nothing
    with pytest.raises(ConfigError, match="must be asked of a relation model"):
        model.predict_relations("x", ["y"], ["z"])
    with pytest.raises(ConfigError, match="`relations` must be left out"):
        model.inference(["x"], ["y"], relations=["z"])
    with pytest.raises(DataError, match=r"test_data:0: `relations\[0\]` must relate two"):
        model.evaluate([{"tokenized_text": ["x"], "ner": [[0, 0, "y"]], "relations": [[0, -1, "z"]]}])
    with pytest.raises(DataError, match="test_data:0: the record must have `tokenized_text`"):
        model.evaluate([{"words": ["x"]}])
    with pytest.raises(DataError, match=r"within its 1 words, but is \[0, 5\]"):
        model.evaluate([{"tokenized_text": ["x"], "ner": [[0, 5, "y"]]}])


def test_what_is_asked_is_checked(model):
    for labels, message in [
        (None, "`labels` must be strings, but is None"),
        ([None], "`labels` must be strings"),
        ([""], "A label must be a string with something in it"),
        ([["person"], None], "`labels` must be strings"),
        ({"PER": ""}, r"`labels\['PER'\]` must be a string with something in it"),
        ({"PER": None}, r"`labels\['PER'\]` must be a string with something in it"),
        ([{"PER": ["person"]}, {"PER": "person"}], r"`labels\['PER'\]` must be a string with something in it"),
        ([{"PER": "person"}], "one list per text, but are 1 lists for 2 texts"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            model.inference(["x", "y"], labels)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="`texts` must be strings, but is None"):
        model.inference(None, ["person"])
    assert model.inference([], ["person"]) == []


def test_what_is_not_offered_is_refused(model):
    for name in ("packing_config", "input_spans", "return_class_probs", "return_vectors", "return_label_vectors"):
        for call in (model.inference, model.predict_entities):
            with pytest.raises(ConfigError, match=f"`{name}` must be (None|False), but is given"):
                call("x", ["y"], **{name: [{"start": 0, "end": 1}]})
            call("x", ["y"], **{name: None})


def test_thresholds_of_numpy(model):
    expected = model.predict_entities(SENTENCES[1], LABELS, threshold=0.25)
    assert expected
    for threshold in (np.float32(0.25), np.float64(0.25), np.array(0.25), torch.tensor(0.25)):
        assert model.predict_entities(SENTENCES[1], LABELS, threshold=threshold) == expected
    with pytest.raises(ConfigError, match="`threshold` must be a number"):
        model.predict_entities(SENTENCES[1], LABELS, threshold="high")


def test_vectors_that_do_not_fit():
    model = GLiNER(tiny_extractor(**bi_encoder()))
    vectors = model.encode_labels(LABELS)
    for given, message in [
        (vectors[:, :7], r"of shape \(labels, 24\), but is of \(4, 7\)"),
        (vectors[0], r"of shape \(labels, 24\), but is of \(24,\)"),
        (None, "`labels_embeddings` must be numbers"),
    ]:
        with pytest.raises(DataError, match=message):
            model.predict_with_embeds("x", given, LABELS)
    with pytest.raises(ConfigError, match="`input_spans` must be None"):
        model.predict_with_embeds("x", vectors, LABELS, input_spans=[[]])


def test_relations_of_a_relation_model_are_told_or_not():
    model = GLiNER(tiny_extractor(seed=1, adjacency="none"))
    asked = (SENTENCES[1], list(LABELS), ["met in"])
    entities, relations = model.predict_relations(*asked, threshold=0.45, return_relations=True)
    assert relations
    assert model.predict_relations(*asked, threshold=0.45, return_relations=False) == (entities, relations)
    assert model.predict_entities(*asked, threshold=0.45, return_relations=True) == entities
