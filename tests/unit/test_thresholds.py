"""Thresholds and a calibration that a package brings along."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from spanwright import CheckpointError, ConfigError, DecodeOptions, Extractor, train
from spanwright.config import ModelConfig, OwnThresholds
from spanwright.train_config import LoopOptions, TrainConfig
from support.data import sentences
from support.tiny import LABELS, SENTENCES, tiny_extractor

TEXT = SENTENCES[0]


def with_own(thresholds, calibration=None) -> Extractor:
    extractor = tiny_extractor(seed=1)
    extractor.model.config = replace(extractor.model.config, thresholds=thresholds, calibration=calibration)
    return extractor


def found(extractor, *options):
    return [(e.start, e.end, e.label) for e in extractor.extract(TEXT, LABELS, *options)]


def test_a_label_is_known_by_its_name_or_by_its_last_word():
    own = OwnThresholds({"club": 0.4, "night club": 0.7})
    assert [own.get(label, 0.5) for label in ("club", "Football Club", "night club", "clubs", "")] == [
        0.4,
        0.4,
        0.7,
        0.5,
        0.5,
    ]
    assert list(own) == ["club", "night club"]
    assert len(own) == 2


def test_a_stated_label_may_be_written_in_any_way():
    own = OwnThresholds({" DNA": 0.3, "Club": 0.4})
    assert own.get("dna", 0.5) == 0.3
    assert dict(own) == {"dna": 0.3, "club": 0.4}
    strict = {label.upper(): 1.0 for label in LABELS}
    assert not found(with_own(strict))


def test_the_models_own_count_where_a_call_names_none():
    strict = dict.fromkeys(LABELS, 1.0)
    assert not found(with_own(strict))
    plain = found(with_own({}))
    assert plain == found(with_own(strict), DecodeOptions(threshold=0.5))
    assert plain
    uneven = {plain[0][2]: 1.0, LABELS[0]: 0.2}
    assert found(with_own(uneven)) == found(with_own({}), DecodeOptions(threshold=uneven)) != plain


def test_they_are_saved_and_read(tmp_path):
    with_own({LABELS[0]: 0.25}, (2.0, -0.5)).save(tmp_path / "model")
    again = Extractor.from_pretrained(tmp_path / "model")
    assert again.model.config.thresholds == {LABELS[0]: 0.25}
    # 2 * logit(0.5) - 0.5, and the same from the other side
    assert again.probability(0.5) == pytest.approx(1 / (1 + math.exp(0.5)))
    assert again.probability(1 / (1 + math.exp(-0.25))) == pytest.approx(0.5)
    assert 0 <= again.probability(0.0) < again.probability(1.0) <= 1


def test_they_are_told_of(tmp_path, capsys):
    from spanwright.checkpoint import inspect_package
    from spanwright.cli.show import print_inspection

    extractor = with_own({LABELS[0]: 0.25}, (2.0, -0.5))
    extractor.save(tmp_path / "model")
    seen = inspect_package(extractor.package, tmp_path / "model")
    assert (seen.thresholds, seen.calibration) == ({LABELS[0]: 0.25}, (2.0, -0.5))
    print_inspection(seen)
    assert "its own for 1 kinds" in capsys.readouterr().out


def test_a_refused_run_leaves_them(tmp_path):
    extractor = with_own({LABELS[0]: 0.25}, (60.0, 0.0))
    config = TrainConfig(training=LoopOptions(max_steps=1, batch_size=2))
    train(tiny_extractor(seed=1), sentences(), output=tmp_path / "run", config=config)
    other = TrainConfig(training=LoopOptions(max_steps=2, batch_size=2, seed=7))
    with pytest.raises(ConfigError):
        train(extractor, sentences(), output=tmp_path / "run", config=other, resume=True)
    assert extractor.model.config.thresholds == {LABELS[0]: 0.25}
    assert extractor.probability(0.0) == pytest.approx(0.0)  # a slope that an exponential could not bear


def test_a_plain_model_writes_neither(tmp_path):
    extractor = tiny_extractor()
    extractor.save(tmp_path / "model")
    assert "spanwright" not in (tmp_path / "model" / "gliner_config.json").read_text()
    with pytest.raises(ConfigError, match="this one has none"):
        extractor.probability(0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"spanwright_thresholds": {"person": 2}}, r"`thresholds\['person'\]` must lie in \[0, 1\], but is 2"),
        ({"spanwright_thresholds": {"person": "high"}}, "must be a number"),
        ({"spanwright_thresholds": 0.5}, "`spanwright_thresholds` must be an object"),
        ({"spanwright_calibration": [1.0]}, "`spanwright_calibration` must be a slope and a shift"),
    ],
)
def test_what_cannot_be_meant_is_refused(values, message, tmp_path):
    tiny_extractor().save(tmp_path / "model")
    path = tmp_path / "model" / "gliner_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(CheckpointError, match=message):
        Extractor.from_pretrained(tmp_path / "model")


def test_training_forgets_them(tmp_path):
    """They were fitted to weights that are no more."""
    extractor = with_own({LABELS[0]: 0.25}, (1.0, 0.0))
    config = TrainConfig(training=LoopOptions(max_steps=1, batch_size=2))
    train(extractor, sentences(), output=tmp_path / "run", config=config)
    for each in (extractor, Extractor.from_pretrained(tmp_path / "run")):
        assert (each.model.config.thresholds, each.model.config.calibration) == ({}, None)


def test_they_are_values_of_a_configuration():
    assert ModelConfig(backbone="any").thresholds == {}
    with pytest.raises(ConfigError, match="thresholds"):
        ModelConfig(backbone="any", thresholds={"person": -0.1})
