"""gliner's training arguments, its data, and folders that are trained into again."""

from __future__ import annotations

import json

import pytest

from spanwright.compat.gliner import GLiNER
from spanwright.compat.training import evaluates, training_config
from spanwright.errors import ConfigError, DataError
from support.tiny import LABELS, SENTENCES, tiny_extractor

DATA = [{"tokenized_text": SENTENCES[1].split(), "ner": [[0, 1, "person"], [5, 5, "country"]]}] * 4


def test_the_training_page_of_gliner(tmp_path):
    """Every argument that it shows, with the values that it shows."""
    model = GLiNER(tiny_extractor())
    trainer = model.train_model(
        train_dataset=DATA,
        eval_dataset=DATA,
        training_args=None,
        output_dir=tmp_path / "out",
        max_steps=2,
        lr_scheduler_type="cosine",
        warmup_ratio=0.1,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        learning_rate=1e-5,
        others_lr=5e-5,
        weight_decay=0.01,
        others_weight_decay=0.01,
        max_grad_norm=1.0,
        focal_loss_alpha=-1.0,
        focal_loss_gamma=0.0,
        focal_loss_prob_margin=0.0,
        loss_reduction="sum",
        negatives=1.0,
        masking="none",
        save_steps=1000,
        logging_steps=1000,
        save_total_limit=3,
        freeze_components=None,
        compile_model=False,
        use_cpu=True,
        report_to="none",
        bf16=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        eval_strategy="steps",
        eval_steps=1,
        loss_type="focal",
    )
    trainer.save_model()
    written = json.loads((tmp_path / "out" / "train-config.json").read_text())
    assert written["training"]["keep_states"] == 3
    assert written["validation"]["every"] == 1
    assert written["optimizer"]["schedule"] == "cosine"


def test_arguments_made_beforehand(tmp_path):
    model = GLiNER(tiny_extractor())
    arguments = model.create_training_args(output_dir=tmp_path / "out", max_steps=1, bf16=False, learning_rate=3e-5)
    model.train_model(DATA, None, arguments)
    written = json.loads((tmp_path / "out" / "train-config.json").read_text())
    assert (written["training"]["max_steps"], written["optimizer"]["lr"]) == (1, 3e-5)
    with pytest.raises(ConfigError, match="`training_args` must be what `create_training_args`"):
        model.train_model(DATA, training_args=object())
    with pytest.raises(ConfigError, match="`output_dir` must name a folder"):
        model.train_model(DATA)


@pytest.mark.parametrize(
    ("arguments", "section", "key", "value"),
    [
        ({"save_total_limit": 7}, "training", "keep_states", 7),
        ({"save_total_limit": None}, "training", "keep_states", 2),
        ({"report_to": "tensorboard"}, "training", "tracker", "tensorboard"),
        ({"report_to": ["tensorboard"]}, "training", "tracker", "tensorboard"),
        ({"report_to": []}, "training", "tracker", "none"),
        ({"warmup_steps": 30, "max_steps": 120}, "optimizer", "warmup", 0.25),
        ({"warmup_steps": 900, "max_steps": 120}, "optimizer", "warmup", 1.0),
        ({"warmup_steps": 0, "max_steps": 120}, "optimizer", "warmup", 0.1),
        ({"lr_scheduler_type": "constant"}, "optimizer", "warmup", 0.0),
        ({"lr_scheduler_type": "constant_with_warmup"}, "optimizer", "warmup", 0.1),
        ({"lr_scheduler_type": "constant_with_warmup"}, "optimizer", "schedule", "constant"),
        ({"others_lr": None, "learning_rate": 3e-5}, "optimizer", "lr", 3e-5),
        ({"others_weight_decay": None, "weight_decay": 0.2}, "optimizer", "weight_decay", 0.2),
        ({"eval_strategy": "steps", "logging_steps": 25}, "validation", "every", 25),
        ({"evaluation_strategy": "steps", "eval_steps": 50, "logging_steps": 25}, "validation", "every", 50),
        ({"eval_strategy": "epoch", "eval_steps": 50}, "validation", "every", 0),
        ({"save_strategy": "epoch", "save_steps": 50}, "training", "save_every", 0),
        ({"save_strategy": "steps", "save_steps": 50}, "training", "save_every", 50),
        ({"rel_focal_loss_gamma": 2.0, "focal_loss_gamma": 2.0}, "loss", "focal_gamma", 2.0),
    ],
)
def test_what_arguments_become(arguments, section, key, value):
    assert getattr(getattr(training_config(arguments), section), key) == value


def test_a_run_that_is_told_not_to_evaluate():
    assert not evaluates({"eval_strategy": "no"})
    assert evaluates({})
    assert evaluates({"evaluation_strategy": "steps"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"negatives": 0.5}, "`negatives` must be 1.0, but is 0.5"),
        ({"masking": "global"}, "`masking` must be 'none', but is 'global'"),
        ({"loss_type": "dice"}, "`loss_type` must be 'focal', but is 'dice'"),
        ({"use_span_width_weight": True}, "`use_span_width_weight` must be False"),
        ({"report_to": "wandb"}, "`report_to` must be"),
        ({"rel_focal_loss_alpha": 0.75}, "`rel_focal_loss_alpha` must be that of entities"),
        ({"warmup_steps": 10, "num_train_epochs": 2}, "`warmup_steps` must stand beside `max_steps`"),
        ({"eval_strategy": "sometimes"}, "`eval_strategy` must be"),
        ({"save_total_limit": 0}, "`keep_states` must be at least 1"),
        ({"dataloader_pin_memry": True}, "Did you mean `dataloader_pin_memory`"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        training_config(arguments)
    assert "\n" not in str(caught.value)


def test_a_second_run_replaces_the_first(tmp_path):
    model = GLiNER(tiny_extractor())
    out = tmp_path / "out"
    for steps in (3, 1):
        model.train_model(DATA, DATA, output_dir=out, max_steps=steps, save_steps=1)
    assert json.loads((out / "train-config.json").read_text())["training"]["max_steps"] == 1
    assert [path.name for path in sorted(out.glob("state-*"))] == ["state-000001"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_that_does_not_begin_leaves_the_former(tmp_path):
    model = GLiNER(tiny_extractor())
    out = tmp_path / "out"
    model.train_model(DATA, DATA, output_dir=out, max_steps=1)
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(DataError):
        model.train_model([], DATA, output_dir=out, max_steps=1)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("trained", [True, False])
def test_other_files_are_not_overwritten(tmp_path, trained):
    model = GLiNER(tiny_extractor())
    out = tmp_path / "out"
    out.mkdir()
    if trained:
        model.train_model(DATA, output_dir=out, max_steps=1)
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"`output_dir` must be .* holds thesis.txt. Name another") as caught:
        model.train_model(DATA, output_dir=out, max_steps=1)
    assert "resume" not in str(caught.value)
    assert (out / "thesis.txt").read_text() == "years of work"
    assert (out / "model.safetensors").is_file() == trained


def test_several_processes_do_not_replace_a_run(tmp_path, monkeypatch):
    model = GLiNER(tiny_extractor())
    model.train_model(DATA, output_dir=tmp_path / "out", max_steps=1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="must be new or empty where several processes train"):
        model.train_model(DATA, output_dir=tmp_path / "out", max_steps=1)
    assert (tmp_path / "out" / "model.safetensors").is_file()


WORDS = ["Ada", "went"]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"tokenized_text": "Ada went", "ner": []}, "`tokenized_text` must be a list of strings, but is 'Ada went'"),
        ({"tokenized_text": ["Ada", 3], "ner": []}, "`tokenized_text` must be a list of strings"),
        ({"tokenized_text": WORDS, "ner": "person"}, "`ner` must be a list"),
        ({"tokenized_text": WORDS}, "`ner` must be a list .* but is absent"),
        ({"tokenized_text": WORDS, "ner": [[0, 0]]}, r"`ner\[0\]` must be \[first, last, label\]"),
        ({"tokenized_text": WORDS, "ner": [[0.0, 0, "a"]]}, r"`ner\[0\]` must have whole numbers"),
        ({"tokenized_text": WORDS, "ner": [[False, True, "a"]]}, r"`ner\[0\]` must have whole numbers"),
        ({"tokenized_text": WORDS, "ner": [[0, 0, None]]}, r"`ner\[0\]` must have a label"),
        ({"tokenized_text": WORDS, "ner": [[1, 0, "a"]]}, r"`ner\[0\]` must end after it starts"),
        ({"tokenized_text": WORDS, "ner": [], "ner_labels": "person"}, "`ner_labels` must be a list of labels"),
        ({"tokenized_text": WORDS, "ner": [], "ner_negatives": [1]}, "`ner_negatives` must be a list of labels"),
        ({"tokenized_text": WORDS, "ner": [[0, 0, "a"]], "relations": [[0, 5, "b"]]}, r"`relations\[0\]` must relate"),
        (None, "the record must be a JSON object, but is None"),
    ],
)
def test_examples_are_checked_as_files_are(tmp_path, example, message):
    model = GLiNER(tiny_extractor())
    for call in (
        lambda: model.train_model([DATA[0], example], output_dir=tmp_path / "out", max_steps=1),
        lambda: model.evaluate([DATA[0], example], entity_types=list(LABELS)),
    ):
        with pytest.raises(DataError, match=rf"(train_dataset|test_data):1: {message}"):
            call()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [None, "train.json", 5])
def test_data_that_are_no_list(data):
    with pytest.raises(DataError, match="`test_data` must be a list of dictionaries"):
        GLiNER(tiny_extractor()).evaluate(data)
