"""Where gliner 0.2.29 is wrong, shown: its answer, and ours. Items are those of a list of its known defects."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from spanwright import DecodeOptions, Extractor, modes
from spanwright.encoding import Row
from spanwright.errors import CheckpointError
from support.peer import peer_batch
from support.tiny import LABELS, SENTENCES, tiny_extractor

SHORT, LONG = SENTENCES[5].split(), SENTENCES[3].split()


@pytest.mark.parametrize(
    "changes",
    [{"span_mode": "markerV1"}, {"span_mode": "markerV2"}, {"fuse_layers": True}],
    ids=["markerV1", "markerV2", "fused layers"],
)
def test_item_13_answers_depend_on_the_other_texts_of_a_batch(changes, tmp_path, load_peer):
    ours = tiny_extractor(**changes)
    ours.save(tmp_path / "model")
    peer = load_peer(tmp_path / "model")
    cells = (slice(0, len(SHORT)), 0)  # single words

    def theirs(rows):
        with torch.no_grad():
            return peer.model(**peer_batch(peer, rows, LABELS)).logits[0][cells]

    def own(rows):
        with modes.inference(ours.model):
            return ours.model(ours.encoder.encode([Row(tuple(row), LABELS) for row in rows])).logits[0][cells]

    assert (theirs([SHORT]) - theirs([SHORT, LONG])).abs().max() > 1e-3
    assert (own([SHORT]) - own([SHORT, LONG])).abs().max() < 1e-5
    assert (own([SHORT, LONG]) - theirs([SHORT])).abs().max() < 1e-5


def test_a_span_head_is_shown_spans_in_the_padding(tmp_path, load_peer):
    ours = tiny_extractor(span_mode="token_level", span_head=True, seed=3)
    ours.save(tmp_path / "model")
    peer = load_peer(tmp_path / "model")
    with torch.no_grad():
        output = peer.model(**peer_batch(peer, [SHORT, LONG], LABELS), threshold=0.3)
    beyond = output.span_idx[0][output.span_mask[0].bool()][:, 1] >= len(SHORT)
    with modes.inference(ours.model):
        rows = [Row(tuple(SHORT), LABELS), Row(tuple(LONG), LABELS)]
        scores = ours.model(ours.encoder.encode(rows), 0.3)
    assert beyond.any()
    assert not (scores.candidates.bounds[0][scores.candidates.mask[0]][:, 1] >= len(SHORT)).any()


def test_item_1_weights_that_are_absent_are_drawn_at_random(tmp_path, load_peer):
    tiny_extractor().save(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    del weights["prompt_rep_layer.0.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    one, other = (load_peer(tmp_path / "model").model.prompt_rep_layer[0].weight for _ in range(2))
    assert not torch.equal(one, other)
    with pytest.raises(CheckpointError, match=r"lacks 1 parameter: prompt_rep_layer\.0\.weight"):
        Extractor.from_pretrained(tmp_path / "model")


def test_item_2_old_checkpoints_without_an_lstm_get_a_random_one(tmp_path, load_peer):
    ours = tiny_extractor(num_rnn_layers=0)
    ours.save(tmp_path / "model")
    path = tmp_path / "model" / "gliner_config.json"
    values = json.loads(path.read_text())
    del values["num_rnn_layers"]
    path.write_text(json.dumps(values | {"has_rnn": False}))
    peer = load_peer(tmp_path / "model")
    assert hasattr(peer.model, "rnn")
    options = DecodeOptions(threshold=0.3)
    back = Extractor.from_pretrained(tmp_path / "model", device="cpu")
    assert back.extract_many(SENTENCES, LABELS, options) == ours.extract_many(SENTENCES, LABELS, options)


def test_item_29_code_in_a_checkpoint_runs(tmp_path):
    """Ours only: that gliner asks for trust_remote_code is read from its source, not run here."""
    tiny_extractor().save(tmp_path / "model")
    path = tmp_path / "model" / "gliner_config.json"
    values = json.loads(path.read_text())
    (tmp_path / "model" / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    hostile = {"AutoConfig": "hostile.Config", "AutoModel": "hostile.Model"}
    values["encoder_config"]["auto_map"] = hostile
    path.write_text(json.dumps(values | {"auto_map": hostile}))
    assert Extractor.from_pretrained(tmp_path / "model", device="cpu").extract(SENTENCES[0], LABELS) is not None
    values["encoder_config"]["model_type"] = "hostile"
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="Code in a checkpoint is never run"):
        Extractor.from_pretrained(tmp_path / "model", device="cpu")
    assert not (tmp_path / "ran").exists()
