"""Folders go both ways."""

from __future__ import annotations

import pytest
import torch

from spanwright import Extractor
from support.tiny import FAMILIES, LABELS, SENTENCES, logits_of, tiny_extractor


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_again(family, safe, tmp_path, load_peer):
    ours = tiny_extractor(family, num_rnn_layers=2)
    ours.save(tmp_path / "ours")
    peer = load_peer(tmp_path / "ours")
    peer.save_pretrained(str(tmp_path / "theirs"), safe_serialization=safe)
    back = Extractor.from_pretrained(tmp_path / "theirs", device="cpu")
    returned = back.model.state_dict()
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, returned[name]), name
    words = SENTENCES[0].split()  # attention may be another kernel: gliner writes which
    torch.testing.assert_close(logits_of(back, words, LABELS), logits_of(ours, words, LABELS))
