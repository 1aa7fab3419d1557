from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from spanwright import CheckpointError, ConfigError, modes
from spanwright.encoding import Row
from spanwright.model import build, markers
from spanwright.model.backbone import transformer_config
from spanwright.model.pooling import pool_words
from spanwright.model.spans import MarkerSpans
from support.tiny import FAMILIES, LABELS, SENTENCES, tiny_config, tiny_extractor


@pytest.mark.parametrize("at_once", [False, True], ids=["one width after another", "all widths at once, as on a GPU"])
@pytest.mark.parametrize(("length", "width"), [(7, 3), (2, 5), (1, 1), (5, 5)])
def test_the_factorised_head_equals_the_formula_as_published(length, width, at_once, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(markers, "_widths_at_once", lambda starts, max_width: max_width if at_once else 1)
    head = MarkerSpans("markerV0", 8, max_width=width, dropout=0.0)
    words, labels = torch.randn(2, length, 8, requires_grad=True), torch.randn(2, 3, 8)
    found = head(words, labels, torch.ones(2, length, dtype=torch.bool))
    assert found.shape == (2, length, width, 3)
    starts, ends = head.project_start(words), head.project_end(words)
    for i in range(length):
        for k in range(width):
            if i + k >= length:
                assert (found[:, i, k] == 0).all()
                continue
            span = head.out_project(F.relu(torch.cat([starts[:, i], ends[:, i + k]], dim=-1)))
            torch.testing.assert_close(found[:, i, k], torch.einsum("bd,bcd->bc", span, labels), rtol=1e-5, atol=1e-6)
    found.sum().backward()
    assert words.grad.abs().sum() > 0


def test_pooling_by_hand():
    states = torch.tensor([[[0.0], [1.0], [5.0], [3.0], [7.0]]])
    starts, ends = torch.tensor([[1, 2, 4]]), torch.tensor([[2, 4, 5]])
    mask = torch.tensor([[True, True, False]])
    expected = {"first": [1, 5, 0], "last": [1, 3, 0], "mean": [1, 4, 0], "max": [1, 5, 0]}
    for pooling, values in expected.items():
        assert pool_words(states, starts, ends, mask, pooling).flatten().tolist() == values
    lower = pool_words(-states, starts, ends, mask, "max")
    assert lower.flatten().tolist() == [-1, -3, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_neighbours(family):
    extractor = tiny_extractor(family)
    rows = [Row(tuple(s.split()), LABELS[: 1 + i % 4]) for i, s in enumerate(SENTENCES)]
    with modes.inference(extractor.model):
        together = extractor.model(extractor.encoder.encode(rows)).logits
        for index, row in enumerate(rows):
            scores = extractor.model(extractor.encoder.encode([row]))
            alone, real = scores.logits[0], scores.cell_mask()[0]
            inside = together[index, : alone.shape[0], :, : alone.shape[2]]
            torch.testing.assert_close(inside[real], alone[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "positions"),
    [("bert", 512), ("xlm-roberta", 513), ("deberta-v2", None), ("modernbert", None), ("t5", None)],
)
def test_positions_that_an_encoder_has(family, positions):
    assert tiny_extractor(family).model.backbone.max_positions() == positions


def test_the_lower_layers_by_name():
    backbone = tiny_extractor("bert").model.backbone
    names = backbone.lower_parts(1)
    assert "backbone.transformer.embeddings" in names
    assert "backbone.transformer.encoder.layer.0" in names
    assert not any(name.endswith("layer.1") for name in names)
    with pytest.raises(ConfigError, match="1 to 2"):
        backbone.lower_parts(0)


def test_building_draws_from_a_seed_and_from_nothing_else():
    state = torch.random.get_rng_state()
    one, other, third = (build(tiny_config(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert not torch.equal(one.spans.project_start.first.weight, third.spans.project_start.first.weight)
    assert not one.training
    assert one.device.type == "cpu"


def test_an_unknown_encoder_is_refused():
    with pytest.raises(CheckpointError, match="Did you mean `bert`"):
        transformer_config({"model_type": "bertt"})
    assert transformer_config({"hidden_size": 32, "auto_map": {"AutoModel": "x.Y"}}).model_type == "deberta-v2"
