"""What decides whether a recording is made and replayed, with recordings that a processor can make.

That a GPU's recordings give the same numbers is shown by tests/gpu/replays_on_gpu.py.
"""

from __future__ import annotations

import copy
import pickle
import threading
from contextlib import nullcontext

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spanwright import modes
from spanwright.encoding import Row
from spanwright.losses import span_loss
from spanwright.model import recording as recordings
from spanwright.model import replays
from spanwright.model.replays import Replays, rounded
from spanwright.modes.plan import modules_of
from support.loop import training_batch
from support.tiny import FAMILIES, LABELS, SENTENCES, tiny_extractor


def batch_of(extractor, sentences=SENTENCES):
    return extractor.encoder.encode([Row(tuple(sentence.split()), tuple(LABELS)) for sentence in sentences])


def recording_of(model):
    return model.replays._recording(model, modules_of(model), (torch.zeros(1),))


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Recordings are made of a CPU's tensors: each counts its replays, and computes as ever."""
    made = []

    class Recording:
        def __init__(self, shared, network, tensors):
            self.shared, self.network, self.count, self.inside = shared, network, 0, None
            self.shapes = [tuple(tensor.shape) for tensor in tensors]
            self.pool = shared.pool(backward=torch.is_grad_enabled())
            made.append(self)

        def replay(self, tensors):
            self.count += 1
            if self.inside is not None:
                self.inside()
            if torch.is_grad_enabled():
                turn = recordings.Turn([])
                self.shared.turn = recordings.weakref.ref(turn)
                logits = self.network.logits_of(*tensors)
                logits.register_hook(lambda _: setattr(turn, "is_over", True))
                return logits
            return self.network.logits_of(*tensors)

    monkeypatch.setattr(replays, "record", Recording)
    monkeypatch.setattr(replays, "unremembered", nullcontext)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: 0)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(Replays, "_is_small", lambda self, *_: self.enabled)
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes", [{}, {"span_mode": "token_level"}, {"span_mode": "conv_mean"}, {"span_mode": "markerV1"}]
)
def test_padded_shapes_give_the_scores_of_the_batch(family, changes, on_a_gpu):
    extractor = tiny_extractor(family, **changes)
    batch = batch_of(extractor)
    with modes.inference(extractor.model):
        found = extractor.model(batch)
        extractor.model.replays.enabled = False
        expected = extractor.model(batch)
    assert len(on_a_gpu) == 1
    assert found.logits.shape == expected.logits.shape
    real = expected.cell_mask().expand_as(expected.logits)
    torch.testing.assert_close(found.logits[real], expected.logits[real], rtol=1e-4, atol=1e-5)


def test_spans_beyond_the_longest_row_are_0_as_ever(on_a_gpu):
    extractor = tiny_extractor()
    with modes.inference(extractor.model):
        logits = extractor.model(batch_of(extractor)).logits
    length, width = logits.shape[1:3]
    for k in range(1, width):
        assert (logits[:, length - k :, k] == 0).all()


def test_a_shape_is_recorded_once_and_others_apart(on_a_gpu):
    extractor = tiny_extractor()
    model = extractor.model
    with modes.inference(model):
        for _ in range(3):
            model(batch_of(extractor))
        model(batch_of(extractor, SENTENCES[:2]))
    assert [each.count for each in on_a_gpu] == [3, 1]
    assert len(model.replays) == 2


def test_all_sentences_of_similar_length_share_a_recording(on_a_gpu):
    extractor = tiny_extractor()
    for count in (17, 19, 20, 23, 24):
        extractor.extract(" ".join(["Ada"] * count), LABELS)
    assert len(on_a_gpu) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.half(),
        lambda model: setattr(
            model.spans.out_project.last,
            "weight",
            torch.nn.Parameter(model.spans.out_project.last.weight.detach().clone()),
        ),
        lambda model: model.backbone.requires_grad_(False),
    ],
    ids=["another precision", "a weight in another place", "frozen"],
)
def test_recordings_are_of_the_weights_as_they_were(change, on_a_gpu):
    extractor = tiny_extractor()
    model = extractor.model
    first = recording_of(model)
    assert recording_of(model) is first
    change(model)
    second = recording_of(model)
    assert second is not first
    assert len(model.replays) == 1  # the old ones are forgotten
    assert second.pool is not first.pool  # and their memory, which torch would not record into again


def test_an_update_in_place_needs_no_new_recording(on_a_gpu):
    model = tiny_extractor().model
    first = recording_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.load_state_dict(tiny_extractor().model.state_dict())
    assert recording_of(model) is first


@pytest.mark.parametrize(
    "change",
    [
        lambda patch, model: patch.setattr(torch, "is_grad_enabled", lambda: False),
        lambda patch, model: patch.setattr(torch, "is_autocast_enabled", lambda device: True),
        lambda patch, model: patch.setattr(replays.kernels, "enabled", False),
        lambda patch, model: patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True),
        lambda patch, model: patch.setattr(replays, "_precision_of_products", lambda: "tf32"),
        lambda patch, model: patch.setattr(model.spans, "training", True),
        lambda patch, model: patch.setattr(model.spans.out_project.dropout, "p", 0.9),
        lambda patch, model: patch.setattr(model.spans, "max_width", 2),
        lambda patch, model: patch.setattr(model.backbone.transformer.config, "_attn_implementation", "eager"),
        lambda patch, model: patch.setitem(model.spans.out_project._modules, "1", torch.nn.GELU().eval()),
    ],
    ids=[
        "gradients",
        "precision",
        "kernels",
        "determinism",
        "TF32",
        "mode",
        "probability",
        "width",
        "attention",
        "function",
    ],
)
def test_what_a_recording_has_fixed_tells_it_apart(change, on_a_gpu, monkeypatch):
    model = tiny_extractor().model
    first = recording_of(model)
    with monkeypatch.context() as patch:
        change(patch, model)
        assert recording_of(model) is not first
    assert recording_of(model) is first
    assert len(model.replays) == 2


@pytest.mark.parametrize("part", ["context", "context.layers.0", "backbone.transformer", "spans"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_is_called(part, kind, on_a_gpu):
    extractor = tiny_extractor()
    seen = []
    hook = getattr(extractor.model.get_submodule(part), kind)(lambda *_: seen.append(1))
    extractor.extract(SENTENCES[0], LABELS)
    assert (len(seen), on_a_gpu) == (1, [])
    hook.remove()
    extractor.extract(SENTENCES[0], LABELS)
    assert (len(seen), len(on_a_gpu)) == (1, 1)


def test_the_precision_of_products_is_told_however_it_was_set():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        told = set()
        for precision in ("ieee", "tf32"):
            matmul.fp32_precision = precision
            told.add(replays._precision_of_products())
        assert len(told) == 2
    finally:
        matmul.fp32_precision = before


def test_a_hook_of_the_whole_model_is_called_around_a_replay(on_a_gpu):
    extractor = tiny_extractor()
    seen = []
    extractor.model.register_forward_hook(lambda *_: seen.append(1))
    extractor.extract(SENTENCES[0], LABELS)
    assert (len(seen), len(on_a_gpu)) == (1, 1)


@pytest.mark.parametrize(
    "scope",
    [
        lambda: torch.autograd.set_detect_anomaly(True),
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
        lambda: FlopCounterMode(display=False),
        torch.inference_mode,
    ],
    ids=["anomaly", "saved tensors", "counting", "inference mode"],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_what_looks_into_torch_has_the_network_run(scope, on_a_gpu):
    extractor = tiny_extractor()
    with scope():
        extractor.extract(SENTENCES[0], LABELS)
    assert not on_a_gpu


def test_saliency_is_shared_and_so_not_recorded(on_a_gpu):
    extractor = tiny_extractor()
    with modes.saliency(extractor.model):
        extractor.model(batch_of(extractor)).logits.sum().backward()
    assert not on_a_gpu


def test_another_stream_runs(on_a_gpu, monkeypatch):
    extractor = tiny_extractor()
    for stream in (0, 1, 0):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda stream=stream: stream)
        extractor.extract(SENTENCES[0], LABELS)
    assert [each.count for each in on_a_gpu] == [2]


def test_gradient_checkpointing_runs_as_ever(on_a_gpu):
    extractor = tiny_extractor()
    extractor.model.backbone.transformer.gradient_checkpointing_enable()
    extractor.extract(SENTENCES[0], LABELS)
    assert not on_a_gpu


def test_a_second_forward_before_the_backward_runs_as_ever(on_a_gpu):
    extractor = tiny_extractor()
    batch, targets = training_batch(extractor)
    with modes.training_step(extractor.model):
        first = span_loss(extractor.model(batch), targets).total
        second = span_loss(extractor.model(batch), targets).total
        assert [each.count for each in on_a_gpu] == [1]
        (first + second).backward()
        span_loss(extractor.model(batch), targets).total.backward()
    assert [each.count for each in on_a_gpu] == [2]


def test_a_forward_whose_backward_never_comes_is_not_waited_for(on_a_gpu):
    extractor = tiny_extractor()
    batch, _ = training_batch(extractor)
    with modes.training_step(extractor.model):
        for _ in range(3):
            extractor.model(batch)
    assert [each.count for each in on_a_gpu] == [3]


def test_inference_may_come_between_a_forward_and_its_backward(on_a_gpu):
    extractor = tiny_extractor()
    batch, targets = training_batch(extractor)
    extractor.model.train()
    loss = span_loss(extractor.model(batch), targets).total
    extractor.extract(SENTENCES[0], LABELS)
    assert [each.count for each in on_a_gpu] == [1, 1]
    loss.backward()


def test_another_thread_runs_as_ever_while_one_replays(on_a_gpu):
    extractor = tiny_extractor()
    expected = extractor.extract(SENTENCES[0], LABELS)
    answers = []

    def other():
        answers.append(extractor.extract(SENTENCES[0], LABELS))

    def inside():
        on_a_gpu[0].inside = None
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    on_a_gpu[0].inside = inside
    assert extractor.extract(SENTENCES[0], LABELS) == expected == answers[0]
    assert [each.count for each in on_a_gpu] == [2]


def test_what_cannot_be_recorded_is_not_tried_again(on_a_gpu, monkeypatch, caplog):
    tries = []

    def fail(*_):
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(replays, "record", fail)
    extractor = tiny_extractor()
    expected = extractor.extract(SENTENCES[0], LABELS)
    assert extractor.extract(SENTENCES[0], LABELS) == expected
    assert len(tries) == 1
    assert "not permitted" in extractor.model.replays.refused
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "run, not replayed" in caplog.text


class Graph:
    """A CUDA graph that only counts."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def recording(monkeypatch):
    """A real recording of three weights, of which the second has no part in the logits; its graphs do nothing."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    weights = [torch.nn.Parameter(torch.full((2,), float(n))) for n in range(3)]
    made = recordings.Recording(recordings.Shared(), weights, [torch.zeros(1, 2)])
    made._logits, made._gradient = torch.full((1, 2), 7.0), torch.zeros(1, 2)
    made._kept, made._used = [torch.full((2,), 10.0), torch.full((2,), 30.0)], [True, False, True]
    return made


def test_what_a_replay_gives_is_nobody_elses(recording):
    given = torch.tensor([[4.0, 5.0]])
    logits = recording.replay([given])
    assert torch.equal(recording._tensors[0], given)
    assert logits.requires_grad
    recording._logits.fill_(-1.0)
    assert (logits == 7.0).all()
    logits.backward(torch.full((1, 2), 3.0))
    assert (recording._gradient == 3.0).all()
    gradients = [weight.grad for weight in recording._parameters]
    assert gradients[1] is None
    for kept in recording._kept:
        kept.fill_(-1.0)
    assert (gradients[0] == 10.0).all()
    assert (gradients[2] == 30.0).all()


def test_gradients_that_are_asked_for_are_copies_too(recording):
    found = torch.autograd.grad(recording.replay([torch.zeros(1, 2)]).sum(), recording._parameters[:1])
    recording._kept[0].fill_(-1.0)
    assert (found[0] == 10.0).all()


def test_gradients_of_several_steps_add_up(recording):
    for _ in range(3):
        recording.replay([torch.zeros(1, 2)]).sum().backward()
    assert (recording._parameters[0].grad == 30.0).all()


def test_a_turn_ends_with_its_backward_or_its_graph(recording):
    shared = recording._shared
    logits = recording.replay([torch.zeros(1, 2)])
    assert shared.is_waiting
    logits.sum().backward()
    assert not shared.is_waiting
    logits = recording.replay([torch.zeros(1, 2)])
    assert shared.is_waiting
    del logits
    assert not shared.is_waiting


def test_a_backward_comes_once(recording):
    loss = recording.replay([torch.zeros(1, 2)]).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="must come once"):
        loss.backward()
    assert recording._backward.replays == 1


def test_a_backward_after_the_next_forward_is_refused(recording):
    first = recording.replay([torch.zeros(1, 2)]).sum()
    recording.replay([torch.ones(1, 2)])
    with pytest.raises(RuntimeError, match="before the next forward"):
        first.backward()


def test_weights_that_changed_before_the_backward_are_seen(recording):
    loss = recording.replay([torch.zeros(1, 2)]).sum()
    with torch.no_grad():
        recording._parameters[0].add_(1.0)
    with pytest.raises(RuntimeError, match="same at a forward and its backward"):
        loss.backward()


def test_second_gradients_are_refused(recording):
    loss = recording.replay([torch.zeros(1, 2)]).sum()
    with pytest.raises(RuntimeError, match="Second gradients"):
        torch.autograd.grad(loss, recording._parameters[:1], create_graph=True)


def test_recordings_are_bounded(on_a_gpu, monkeypatch):
    monkeypatch.setattr(replays, "_MOST_RECORDINGS", 2)
    extractor = tiny_extractor()
    for count in (3, 17, 33, 17):
        extractor.extract(" ".join(["Ada"] * count), LABELS)
    assert [each.count for each in on_a_gpu] == [1, 2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_changes_nothing_that_recordings_are_told_apart_by(family):
    extractor = tiny_extractor(family)
    modules = modules_of(extractor.model)
    before = replays._circumstances(modules), replays._weights(modules)
    for sentence in (SENTENCES[0], " ".join(["Ada"] * 60)):
        extractor.extract(sentence, LABELS)
    assert (replays._circumstances(modules), replays._weights(modules)) == before


def test_a_copy_has_recordings_of_its_own(on_a_gpu):
    extractor = tiny_extractor()
    extractor.extract(SENTENCES[0], LABELS)
    for twin in (copy.deepcopy(extractor.model), pickle.loads(pickle.dumps(extractor.model))):
        assert len(twin.replays) == 0
        assert twin.replays.enabled
        assert twin.replays.num_weights == extractor.model.replays.num_weights


def test_a_processor_records_nothing():
    extractor = tiny_extractor()
    extractor.extract(SENTENCES[0], LABELS)
    assert len(extractor.model.replays) == 0


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 16), (16, 16), (17, 24), (33, 48), (65, 96), (97, 128), (129, 192)]
)
def test_few_lengths(length, expected):
    assert rounded(length) == expected


def test_a_length_is_never_rounded_down_and_by_half_at_most():
    for length in range(16, 2000):
        assert length <= rounded(length) <= 1.5 * length
        assert rounded(length) % 8 == 0


@pytest.mark.parametrize(("length", "expected"), [(17, 24), (33, 48), (65, 80), (100, 112), (129, 144), (500, 512)])
def test_a_large_batch_is_padded_to_multiples_of_16_at_most(length, expected):
    assert rounded(length, num_subtokens=4096) == expected
    assert rounded(length, num_subtokens=4095) >= expected


def test_a_batch_counts_as_large_by_its_subtokens(on_a_gpu, monkeypatch):
    extractor = tiny_extractor()
    batch = batch_of(extractor, ["word " * 70] * 2)
    widths = []
    for least in (batch.input_ids.numel() + 1, batch.input_ids.numel()):
        monkeypatch.setattr(replays, "_LARGE", least)
        with modes.inference(extractor.model):
            extractor.model(batch)
        widths.append((on_a_gpu[-1].shapes[0][1], on_a_gpu[-1].shapes[4][1]))
    finely = [length + -length % 16 for length in (batch.input_ids.shape[1], batch.word_starts.shape[1])]
    assert widths == [(rounded(batch.input_ids.shape[1]), rounded(70)), tuple(finely)]
    assert widths[0] > widths[1]
