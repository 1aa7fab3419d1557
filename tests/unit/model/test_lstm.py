import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from spanwright.model import lstm as lstm_module
from spanwright.model.lstm import BiLSTM, GradSafeLSTM


def pair(**shape):
    torch.manual_seed(0)
    plain = nn.LSTM(4, 3, **shape)
    safe = GradSafeLSTM(4, 3, **shape)
    safe.load_state_dict(plain.state_dict())
    return plain.eval(), safe.eval()


def run(lstm, words, hx):
    words = words.clone().requires_grad_()
    given = (
        pack_padded_sequence(words, torch.tensor([5, 3]), batch_first=True, enforce_sorted=False)
        if hx == "packed"
        else words
    )
    output, (hidden, cell) = lstm(given, None if isinstance(hx, str) else hx)
    flat = output.data if isinstance(output, PackedSequence) else output
    lstm.zero_grad()
    (flat.sum() + hidden.sum() + 2 * cell.sum()).backward()
    return [flat, hidden, cell, words.grad, *(p.grad for p in lstm.parameters())]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["dense", "packed", "state"])
def test_equals_nn_lstm_in_evaluation_mode_bit_for_bit(layers, kind):
    plain, safe = pair(num_layers=layers, bidirectional=True, batch_first=True, dropout=0.5 if layers == 2 else 0.0)
    words = torch.randn(2, 5, 4)
    hx = (torch.randn(2 * layers, 2, 3), torch.randn(2 * layers, 2, 3)) if kind == "state" else kind
    for one, other in zip(run(plain, words, hx), run(safe, words, hx), strict=True):
        assert torch.equal(one, other)


def test_the_kernel_is_told_that_it_trains_only_where_gradients_are_recorded(monkeypatch):
    _, safe = pair(batch_first=True)
    calls = []
    kernel = torch.lstm
    monkeypatch.setattr(torch, "lstm", lambda *a: calls.append(a) or kernel(*a))
    words = torch.randn(2, 5, 4)
    safe(words)
    assert len(calls) == 1
    with torch.no_grad():
        safe(words)
    safe.train()
    safe(words)
    assert len(calls) == 1  # nn.LSTM's own road


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_what_it_does_not_know_takes_nn_lstms_road():
    plain, safe = pair(proj_size=2, batch_first=True)
    words = torch.randn(2, 5, 4)
    assert torch.equal(plain(words)[0], safe(words)[0])
    plain, safe = pair()
    assert torch.equal(plain(words[0])[0], safe(words[0])[0])


def test_time_first_input():
    plain, safe = pair()
    words = torch.randn(5, 2, 4)
    assert torch.equal(plain(words)[0], safe(words)[0])


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_layers_of_our_own_equal_those_of_nn_lstm(layers):
    torch.manual_seed(0)
    ours = BiLSTM(6, num_layers=layers).eval()
    words = torch.randn(3, 5, 6)
    found = ours(words, (5, 2, 4))
    if layers == 0:
        assert found is words
        return
    theirs = nn.LSTM(6, 3, num_layers=layers, bidirectional=True, batch_first=True)
    theirs.load_state_dict(
        {
            name.replace("_l0", f"_l{index}"): value
            for index, layer in enumerate(ours.layers)
            for name, value in layer.state_dict().items()
        }
    )
    packed = pack_padded_sequence(words, torch.tensor([5, 2, 4]), batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    torch.testing.assert_close(found, expected)
    assert (found[1, 2:] == 0).all()


def test_dropout_acts_between_layers_and_can_be_repeated():
    lstm = BiLSTM(6, num_layers=2, dropout=0.5).train()
    words = torch.randn(2, 4, 6)
    state = torch.random.get_rng_state()
    first = lstm(words, (4, 4))
    assert not torch.equal(first, lstm(words, (4, 4)))
    torch.random.set_rng_state(state)
    assert torch.equal(first, lstm(words, (4, 4)))


@pytest.mark.parametrize("over_rows", [True, False], ids=["as on a CPU", "as on a GPU"])
def test_the_layout_is_that_of_torch_and_its_gradients(over_rows, monkeypatch):
    torch.manual_seed(0)
    words, counts = torch.randn(4, 6, 8, requires_grad=True), (3, 6, 1, 3)
    lstm = BiLSTM(8)
    monkeypatch.setattr(lstm_module, "_reads_rows", lambda words: over_rows)
    output = lstm(words, counts)
    packed = pack_padded_sequence(words, torch.tensor(counts), batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(lstm.layers[0](packed)[0], batch_first=True, total_length=6)
    torch.testing.assert_close(output, expected)
    assert (output[2, 1:] == 0).all()
    weights = torch.randn(output.shape)
    wanted = [words, *lstm.parameters()]
    found, theirs = (torch.autograd.grad((each * weights).sum(), wanted) for each in (output, expected))
    assert len(found) == 9
    torch.testing.assert_close(found, theirs)


def test_who_looks_at_a_layer_sees_it_called():
    words = torch.randn(2, 4, 6)
    lstm = BiLSTM(6)
    expected = lstm(words, (4, 2))
    seen = []
    lstm.layers[0].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(lstm(words, (4, 2)), expected)
    assert seen == [1]


def test_weights_that_are_computed_anew_at_each_call():
    lstm = BiLSTM(6)
    torch.nn.utils.parametrizations.weight_norm(lstm.layers[0], "weight_hh_l0")
    for _ in range(2):
        lstm(torch.randn(2, 4, 6), (4, 2)).sum().backward()
    assert lstm.layers[0].parametrizations.weight_hh_l0.original0.grad is not None


def test_another_default_device_does_not_matter():
    lstm = BiLSTM(6)
    words = torch.randn(2, 4, 6)
    with torch.device("meta"):
        assert lstm(words, (4, 2)).device.type == "cpu"
