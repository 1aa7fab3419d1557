from __future__ import annotations

import copy
import json
import signal
from dataclasses import replace

import pytest
import torch

from spanwright import (
    ConfigError,
    DataError,
    Example,
    Extractor,
    ModeError,
    Span,
    TrainConfig,
    TrainingError,
    modes,
    train,
)
from spanwright.checkpoint.package import draw_head
from spanwright.data.labels import LabelSampler
from spanwright.model.gliner import drawn_from
from spanwright.train_config import LoopOptions, LossOptions, OptimizerOptions, ValidationOptions
from spanwright.training import step as step_module
from spanwright.training.loop import Loop
from spanwright.training.optim import build_optimizer, rate_factor
from spanwright.training.record import read_metrics
from spanwright.training.stream import MicroBatches
from support.data import sentences, write_jsonl
from support.loop import still, training_batch
from support.tiny import tiny_extractor
from support.watch import flags, snapshot

FAST = OptimizerOptions(backbone_lr=2e-3, lr=1e-2, warmup=0.0, schedule="constant")


def config(**changes) -> TrainConfig:
    sections = {"training": LoopOptions(max_steps=4, batch_size=4), "optimizer": FAST}
    return TrainConfig(**{**sections, **changes})


def weights(extractor) -> dict[str, torch.Tensor]:
    return copy.deepcopy(extractor.model.state_dict())


def equal(one, other) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "modernbert"])
def test_eight_sentences_are_learnt_by_heart(family, tmp_path):
    extractor = tiny_extractor(family, scale=1.0)
    still(extractor.model)
    with drawn_from(0):
        draw_head(extractor.model)
    chosen = config(
        training=LoopOptions(max_steps=400, batch_size=8),
        validation=ValidationOptions(every=25, patience=4),
        optimizer=OptimizerOptions(backbone_lr=1e-3, lr=3e-3, warmup=0.05),
    )
    result = train(extractor, sentences(), sentences(), output=tmp_path / "run", config=chosen)
    assert result.report.micro.f1 == 1.0
    again = Extractor.from_pretrained(tmp_path / "run", device="cpu")
    assert [(e.text, e.label) for e in again.extract("Ada went to Rome .", ["city", "person"])] == [
        ("Ada", "person"),
        ("Rome", "city"),
    ]


def test_a_run_leaves_the_model_as_it_found_it_but_for_the_weights(tmp_path):
    extractor = tiny_extractor()
    extractor.model.train()
    modes.freeze(extractor.model, "labels")
    before, old = snapshot(extractor), weights(extractor)
    chosen = config(
        training=LoopOptions(max_steps=2, batch_size=4, freeze=("backbone.layers:1",), gradient_checkpointing=True)
    )
    train(extractor, sentences(), sentences(), output=tmp_path / "run", config=chosen)
    assert snapshot(extractor) == before
    assert not extractor.model.backbone.transformer.is_gradient_checkpointing
    new = weights(extractor)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert not any(name.startswith(("labels", "backbone.transformer.embeddings")) for name in moved)
    assert not any("encoder.layer.0" in name or ("layers.0." in name and "backbone" in name) for name in moved)
    assert any(name.startswith("spans") for name in moved)


def test_accumulated_micro_batches_equal_the_large_batch(tmp_path, monkeypatch):
    """The gradients of a step are those of one large batch; no optimizer in between to magnify rounding."""
    gradients = []

    def look(self, *_):
        gradients.append([p.grad.clone() for p in self._world._parameters if p.grad is not None])

    monkeypatch.setattr(step_module.Stepper, "_require_finite_norm", look)
    for number, options in enumerate(
        [LoopOptions(max_steps=1, batch_size=8), LoopOptions(max_steps=1, batch_size=2, accumulate=4)]
    ):
        extractor = tiny_extractor(dropout=0.0)
        still(extractor.model)
        unclipped = replace(FAST, max_grad_norm=0.0)
        chosen = config(training=options, optimizer=unclipped)
        train(extractor, sentences(), output=tmp_path / str(number), config=chosen)
    largest = max(float(gradient.abs().max()) for gradient in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * largest)


def test_evaluation_during_training_changes_no_bit(tmp_path):
    watched, alone = tiny_extractor(dropout=0.3), tiny_extractor(dropout=0.3)
    chosen = config(training=LoopOptions(max_steps=5, batch_size=4), validation=ValidationOptions(every=1))
    seen: list[dict] = []
    original = Loop._finish
    try:
        Loop._finish = lambda self, *a: seen.append(weights(self._extractor)) or original(self, *a)
        train(watched, sentences(), sentences(), output=tmp_path / "1", config=chosen)
        train(alone, sentences(), output=tmp_path / "2", config=config(training=LoopOptions(max_steps=5, batch_size=4)))
    finally:
        Loop._finish = original
    assert equal(seen[0], seen[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_best_package_is_kept_and_returned(tmp_path, monkeypatch, workers):
    scores = iter([0.2, 0.6, 0.4, 0.5, 0.1, 0.0])
    kept: list[dict] = []
    from spanwright.training import loop as loop_module

    def measured(self, extractor, *_):
        value = next(scores)
        kept.append(weights(extractor))
        counts = type("Micro", (), {"f1": value, "precision": value, "recall": value})()
        report = type("Report", (), {"micro": counts, "macro_f1": value, "headline_f1": value, "relations": None})()
        return type("Measured", (), {"report": report, "loss": 0.1})()

    monkeypatch.setattr(loop_module.Validator, "measure", measured)
    extractor = tiny_extractor()
    chosen = config(
        training=LoopOptions(max_steps=9, batch_size=4, num_workers=workers),
        validation=ValidationOptions(every=1, patience=2),
    )
    result = train(extractor, sentences(), sentences(), output=tmp_path / "run", config=chosen)
    assert result.best_step == 2
    assert result.num_steps == 4  # two evaluations without a better one
    assert equal(kept[1], extractor.model.state_dict())
    assert equal(kept[1], Extractor.from_pretrained(tmp_path / "run", device="cpu").model.state_dict())


def test_workers_change_nothing(tmp_path):
    results = []
    for workers in (0, 2):
        extractor = tiny_extractor(dropout=0.3)
        chosen = config(training=LoopOptions(max_steps=4, batch_size=3, num_workers=workers))
        train(extractor, sentences(), output=tmp_path / str(workers), config=chosen)
        results.append(weights(extractor))
    assert equal(*results)


def test_the_seed_alone_decides_what_dropout_draws(tmp_path):
    """Rows that are all the same and ask one label: nothing else is left to draw."""
    rows = [Example.from_words(["Ada", "slept"], [Span(0, 1, "person")])] * 4
    results = []
    for number, seed in enumerate([5, 5, 6]):
        extractor = tiny_extractor(dropout=0.3)
        torch.manual_seed(number)
        chosen = config(training=LoopOptions(max_steps=2, batch_size=4, seed=seed))
        train(extractor, rows, output=tmp_path / str(number), config=chosen)
        results.append(weights(extractor))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


def test_an_interrupted_run_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    chosen = config(
        training=LoopOptions(max_steps=6, batch_size=3, save_every=1, accumulate=2),
        validation=ValidationOptions(every=2),
    )
    whole = tiny_extractor(dropout=0.3, num_rnn_layers=2, rnn_dropout=0.2)
    train(whole, sentences(), sentences(), output=tmp_path / "whole", config=chosen)

    stopped = tiny_extractor(dropout=0.3, num_rnn_layers=2, rnn_dropout=0.2)
    real = step_module.Stepper.step

    def stop(self, number, read, **rest):
        if number == 4:
            raise KeyboardInterrupt
        return real(self, number, read, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(step_module.Stepper, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(stopped, sentences(), sentences(), output=tmp_path / "run", config=chosen)
    resumed = tiny_extractor(seed=7, dropout=0.3, num_rnn_layers=2, rnn_dropout=0.2)
    train(resumed, sentences(), sentences(), output=tmp_path / "run", config=chosen, resume=True)
    assert equal(whole.model.state_dict(), resumed.model.state_dict())
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / run / "metrics.jsonl") if "loss" in line]
        for run in ("whole", "run")
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ConfigError, match=r"loss.reduction \('mean' then, 'sum' now\)"):
        train(
            resumed,
            sentences(),
            sentences(),
            output=tmp_path / "run",
            config=replace(chosen, loss=LossOptions(reduction="sum")),
            resume=True,
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_value_that_is_not_finite_changes_nothing_and_names_the_rows(tmp_path, monkeypatch, value, where):
    extractor = tiny_extractor()
    old = weights(extractor)
    if where == "loss":
        real = step_module.span_loss
        monkeypatch.setattr(
            step_module,
            "span_loss",
            lambda *a: replace(real(*a), total=real(*a).total * value),
        )
    else:
        extractor.model.spans.out_project.last.bias.register_hook(lambda gradient: gradient * value)
    with pytest.raises(TrainingError, match=r"Step 1: .* must be finite, .*made:\d.*No parameter has changed"):
        train(extractor, sentences(), output=tmp_path / "run", config=config())
    assert equal(old, extractor.model.state_dict())
    assert all(p.grad is None for p in extractor.model.parameters())


def test_memory_that_runs_out_names_the_batch(tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step_module, "span_loss", exhausted)
    with pytest.raises(
        TrainingError, match=r"rows of up to \d+ subtokens .*made:\d.*Lower `training.max_batch_tokens`"
    ):
        train(tiny_extractor(), sentences(), output=tmp_path / "run", config=config())


def a_step_that_runs_out_of_memory(folder, monkeypatch, *, times):
    """Weights after a step of two micro-batches, the second of which finds no memory so many times at first."""
    real, calls = step_module.span_loss, []

    def exhausted(*arguments):
        calls.append(1)
        if 2 <= len(calls) < 2 + times:  # the first micro-batch has its gradients by then
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    extractor = tiny_extractor()
    extractor.model.replays._recordings = {"a shape": object()}
    with monkeypatch.context() as patch:
        patch.setattr(step_module, "span_loss", exhausted)
        chosen = config(training=LoopOptions(max_steps=1, batch_size=2, accumulate=2))
        train(extractor, sentences(), output=folder, config=chosen)
    return weights(extractor)


def test_recordings_are_given_up_for_memory(tmp_path, monkeypatch, caplog):
    expected = a_step_that_runs_out_of_memory(tmp_path / "enough", monkeypatch, times=0)
    assert not caplog.records
    found = a_step_that_runs_out_of_memory(tmp_path / "scarce", monkeypatch, times=1)
    assert "a step needs the memory of recordings" in caplog.text
    assert equal(found, expected)  # no gradient counts twice, and dropout is the same


def test_without_recordings_to_give_up_memory_has_run_out(tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="memory must hold a micro-batch"):
        a_step_that_runs_out_of_memory(tmp_path / "run", monkeypatch, times=3)


def test_a_module_in_another_mode_stops_the_run_before_a_step(tmp_path):
    extractor = tiny_extractor()
    old = weights(extractor)
    extractor.model.train()
    extractor.model.context.eval()
    with pytest.raises(ModeError, match="context"):
        train(extractor, sentences(), output=tmp_path / "run", config=config())
    assert equal(old, extractor.model.state_dict())


def test_half_precision_on_a_cpu(tmp_path):
    extractor = tiny_extractor()
    chosen = config(training=LoopOptions(max_steps=2, batch_size=4, precision="bf16"))
    train(extractor, sentences(), output=tmp_path / "run", config=chosen)
    assert extractor.model.dtype == torch.float32


def test_tensorboard_if_asked(tmp_path):
    chosen = config(training=LoopOptions(max_steps=2, batch_size=4, tracker="tensorboard"))
    train(tiny_extractor(), sentences(), sentences(), output=tmp_path / "run", config=chosen)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_what_a_run_leaves_behind(tmp_path):
    told: list[str] = []
    result = train(
        tiny_extractor(),
        sentences(),
        sentences(),
        output=tmp_path / "run",
        config=config(),
        tell=told.append,
        show=True,
    )
    assert (tmp_path / "run" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert all({"gradient_norm", "lr", "rows_per_second"} <= line.keys() for line in lines if "loss" in line)
    assert any("dev_loss" in line for line in lines)
    assert json.loads((tmp_path / "run" / "train-config.json").read_text())["training"]["max_steps"] == 4
    assert told == ["12 of 12 gold spans in 8 rows can be learnt."]
    assert result.coverage.num_learnt == 12


def test_every_gold_span_is_accounted_for(tmp_path):
    long = Example.from_words(["word"] * 30, [Span(0, 9, "wide"), Span(10, 12, "city"), Span(25, 26, "person")])
    extractor = tiny_extractor(max_words=12)
    result = train(extractor, [*sentences(), long], output=tmp_path / "run", config=config())
    coverage = result.coverage
    assert coverage.num_gold == 15
    assert coverage.num_learnt + sum(coverage.lost.values()) == 15
    assert coverage.lost == {"wider than the model's max_width": 1}
    assert coverage.num_rows > 9


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"config": config(validation=ValidationOptions(patience=2))}, ConfigError, "must be 0 without dev data"),
        ({"config": config(training=LoopOptions(freeze=("all",)))}, ConfigError, "leave something to train"),
        ({"config": config(training=LoopOptions(freeze=("backbon",)))}, ConfigError, "Did you mean `backbone`"),
        ({"config": config(training=LoopOptions(freeze=("backbone.layers:9",)))}, ConfigError, "1 to 2"),
        ({"train": []}, DataError, "at least one sentence"),
        ({"train": [Example.from_words(["no", "labels"])]}, DataError, "one label"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, change, error, message):
    arguments = {"train": sentences(), "config": config(), **change}
    with pytest.raises(error, match=message):
        train(tiny_extractor(), output=tmp_path / "run", **arguments)


def test_a_folder_with_other_files_is_not_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="new or empty folder"):
        train(tiny_extractor(), sentences(), output=tmp_path, config=config())
    with pytest.raises(ConfigError, match="is a file"):
        train(tiny_extractor(), sentences(), output=tmp_path / "thesis.tex", config=config())


def test_defective_files_are_refused_or_listed(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", sentences())
    with path.open("a") as file:
        file.write('{"tokenized_text": ["a", "b"], "ner": [[1, 0, "city"], [0, 0, "person"]]}\n')
    with pytest.raises(DataError, match=r"train.jsonl:9: `ner\[0\]` must end after it starts"):
        train(tiny_extractor(), path, output=tmp_path / "run", config=config())
    told: list[str] = []
    result = train(
        tiny_extractor(), path, output=tmp_path / "run", config=config(), skip_invalid=True, tell=told.append
    )
    assert result.coverage.num_learnt == 13
    assert any("train.jsonl:9" in line for line in told)


def test_groups_and_rates_of_the_optimizer():
    model = tiny_extractor().model
    optimizer = build_optimizer(model, OptimizerOptions(backbone_lr=0.0, lr=1e-3, weight_decay=0.1))
    rates = {
        name: group
        for group in optimizer.param_groups
        for parameter in group["params"]
        for name, own in model.named_parameters()
        if own is parameter
    }
    assert len(rates) == len(list(model.parameters()))
    assert rates["backbone.transformer.embeddings.word_embeddings.weight"]["lr"] == 0.0
    assert rates["spans.out_project.0.weight"]["lr"] == 1e-3
    assert rates["spans.out_project.0.weight"]["weight_decay"] == 0.1
    assert rates["spans.out_project.0.bias"]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.875, 0.125]),
        ("cosine", [0.5, 1.0, 1.0, 0.9619398, 0.0380602]),
    ],
)
def test_schedules_by_hand(schedule, factors):
    options = OptimizerOptions(schedule=schedule, warmup=0.2)
    found = [rate_factor(step, 10, options) for step in (0, 1, 2, 3, 9)]
    assert found == pytest.approx(factors)


def test_the_stream_is_a_function_of_seed_and_place():
    extractor = tiny_extractor()
    rows = sentences(20)
    options = LoopOptions(batch_size=4, seed=3)

    def batches():
        sampler = LabelSampler(["person", "city", "river", "year"], config().labels, seed=3)
        return MicroBatches(rows, extractor.encoder, sampler, options)

    one, other = batches(), batches()
    assert one.epoch_length == 5
    for k in (7, 0, 3, 12):
        assert one[k].origins == other[k].origins
        assert torch.equal(one[k].batch.input_ids, other[k].batch.input_ids)
    epoch = [origin for k in range(5) for origin in one[k].origins]
    assert sorted(epoch) == sorted(example.origin for example in rows)
    assert epoch != [origin for k in range(5, 10) for origin in one[k].origins]


def test_the_counted_cells_are_the_real_ones():
    extractor = tiny_extractor()
    batch, targets = training_batch(extractor)
    with modes.inference(extractor.model):
        assert int(extractor.model(batch).cell_mask().sum()) == targets.num_cells


def test_flags_during_a_run_are_the_plan(tmp_path, monkeypatch):
    seen = []
    real = step_module.span_loss

    def look(scores, *rest):
        seen.append(flags(extractor.model))
        return real(scores, *rest)

    monkeypatch.setattr(step_module, "span_loss", look)
    extractor = tiny_extractor()
    extractor.model.eval()
    chosen = config(
        training=LoopOptions(max_steps=2, batch_size=4, freeze=("backbone",)), validation=ValidationOptions(every=1)
    )
    train(extractor, sentences(), sentences(), output=tmp_path / "run", config=chosen)
    assert len(seen) >= 2
    for now in seen:
        assert all(training is not name.startswith("backbone") for name, training in now.items())
    assert not any(flags(extractor.model).values())


def test_a_loaders_death_is_named_also_where_it_broke_something_off():
    from spanwright.training.stream import dead_workers_named

    def break_off():
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        finally:
            raise RuntimeError("unexpected pos 7 vs 6")  # what a file says that ended early

    with (
        pytest.raises(TrainingError, match=r"must live, but one did not: DataLoader worker \(pid 7\)"),
        dead_workers_named(),
    ):
        break_off()
    with pytest.raises(RuntimeError, match="something else"), dead_workers_named():
        raise RuntimeError("something else")


def test_a_loaders_death_is_named_where_its_connection_broke_first(monkeypatch):
    """torch hears of a killed loader a moment after the main process finds its connection broken."""
    from spanwright.training import stream as stream_module

    def broken(*_, **__):
        def tell(*_):
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

        signal.signal(signal.SIGALRM, tell)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        raise ConnectionResetError(104, "Connection reset by peer")
        yield

    before = signal.getsignal(signal.SIGALRM)
    monkeypatch.setattr(stream_module, "DataLoader", broken)
    try:
        with (
            pytest.raises(TrainingError, match=r"must live, but one did not: DataLoader worker \(pid 7\)"),
            stream_module.dead_workers_named(),
        ):
            next(stream_module.stream(None, start=0, stop=1, stride=1, num_workers=0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
