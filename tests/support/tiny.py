"""Tiny random models of every family, made in memory: no download, a few milliseconds each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, get_args

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from spanwright import modes
from spanwright.checkpoint import Package, pack
from spanwright.config import Adjacency, ModelConfig, SpanMode
from spanwright.encoding import Row
from spanwright.extractor import Extractor
from spanwright.model import build

LABELS = ("person", "political party", "country", "organisation")
RELATIONS = ("member of", "met in")
SENTENCES = (
    "Parties with mainly Eurosceptic views are the ruling United Russia , and opposition parties .",
    "Angela Merkel met Barack Obama in Berlin on a rainy Tuesday in 2016 .",
    "The e-mail from foo_bar-baz reached the Federal Court of Australia at 3.14 pm !",
    "He joined the Communist Party of the Russian Federation , then left for Serbia .",
    "Zoë and Łukasz don't agree : Île-de-France isn't a country .",
    "Yes .",
)

_SIZES: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "deberta-v2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "relative_attention": True,
        "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": -1,
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
        "max_position_embeddings": 512,
    },
    "modernbert": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "attn_implementation": "eager",
        "reference_compile": False,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "xlm-roberta": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 0,
    },
    "mt5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.1},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.1},
}
FAMILIES = tuple(_SIZES)


_SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
_HEAD = 5  # characters of a word that are its first subtoken; the rest is a second one


@cache
def _serialized(family: str) -> str:
    """A small tokenizer of the kind that the family uses, as JSON: the same in every process.

    The trainers of `tokenizers` break ties by hash maps that each process seeds anew, so that their vocabularies, and
    with them every number of a tiny model, differ from run to run. Byte-level BPE is the exception.
    """
    if family == "bert":
        tokenizer = _word_piece()
    elif family == "modernbert":
        tokenizer = _byte_pair()
    else:
        tokenizer = _unigram()
    single = "$A [SEP]" if family in ("t5", "mt5") else "[CLS] $A [SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(s, tokenizer.token_to_id(s)) for s in ("[CLS]", "[SEP]")]
    )
    return str(tokenizer.to_str())


def _word_piece() -> Tokenizer:
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(text) for text in (*SENTENCES, *LABELS)]
    letters, heads, tails = _pieces(texts, splitter)
    pieces = [*_SPECIALS, *letters, *(f"##{p}" for p in letters), *heads, *(f"##{p}" for p in tails)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return tokenizer


def _unigram() -> Tokenizer:
    splitter = pre_tokenizers.Metaspace()
    letters, heads, tails = _pieces((*SENTENCES, *LABELS), splitter)
    scores = dict.fromkeys(_SPECIALS, 0.0) | dict.fromkeys([*heads, *tails], -4.0) | dict.fromkeys(letters, -8.0)
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=_SPECIALS.index("[UNK]")))
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def _pieces(texts: Sequence[str], splitter: Any) -> tuple[list[str], list[str], list[str]]:
    """The letters of `texts`, and the heads and tails of their words."""
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    tails = sorted({word[_HEAD:] for word in words} - {""})
    return sorted(set("".join(words))), sorted({word[:_HEAD] for word in words}), tails


def _byte_pair() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *LABELS] * 4, trainer)
    return tokenizer


def tiny_tokenizer(family: str = "bert", *, relations: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with the markers that published models add."""
    tokenizer = plain_tokenizer(family)
    markers = ["<<ENT>>", "<<SEP>>", "<<REL>>"] if relations else ["[FLERT]", "<<ENT>>", "<<SEP>>"]
    tokenizer.add_special_tokens({"additional_special_tokens": markers})
    return tokenizer


def plain_tokenizer(family: str = "bert") -> PreTrainedTokenizerFast:
    """A tokenizer as an encoder comes with."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_serialized(family)),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_max_length=512,
    )


def tiny_config(family: str = "bert", **changes: Any) -> ModelConfig:
    """A configuration of a few thousand parameters; `changes` are fields of ModelConfig."""
    tokenizer = tiny_tokenizer(family, relations="adjacency" in changes)
    config = ModelConfig(
        backbone=f"tiny-{family}",
        backbone_config={"model_type": family, "vocab_size": len(tokenizer), **_SIZES[family]},
        hidden_size=24,
        max_width=4,
        entity_token_id=tokenizer.convert_tokens_to_ids("<<ENT>>"),
        vocab_size=len(tokenizer),
        relation_token_id=tokenizer.convert_tokens_to_ids("<<REL>>") if "adjacency" in changes else -1,
    )
    return replace(config, **changes)


def bi_encoder(label_family: str = "bert", **changes: Any) -> dict[str, Any]:
    """Changes to `tiny_config` that make it a bi-encoder whose labels are read by a transformer of `label_family`."""
    size = len(plain_tokenizer(label_family))
    config = {"model_type": label_family, "vocab_size": size, **_SIZES[label_family]}
    return {"label_backbone": f"tiny-{label_family}", "label_backbone_config": config, **changes}


ADJACENCIES = get_args(Adjacency)
RELATION_MODELS = {f"relations, {kind}": {"adjacency": kind} for kind in ADJACENCIES} | {
    "relations, token": {"adjacency": "mlp", "span_mode": "token_level"},
    "relations, triples": {"adjacency": "bilinear", "triples": "ComplEx"},
}
SPAN_MODES = [mode for mode in get_args(SpanMode) if mode != "token_level"]
ARCHITECTURES = (
    {mode: {"span_mode": mode} for mode in SPAN_MODES}
    | {
        "fused layers": {"fuse_layers": True},
        "token": {"span_mode": "token_level"},
        "token with head": {"span_mode": "token_level", "span_head": True},
        "bi-encoder": bi_encoder(),
        "bi-encoder, fused": bi_encoder(fusion="l2l-t2t-l2t-t2l"),
        "bi-encoder, token": bi_encoder("deberta-v2", span_mode="token_level"),
    }
    | RELATION_MODELS
)


def tiny_package(family: str = "bert", *, seed: int = 0, scale: float = 2.0, **changes: Any) -> Package:
    """A random package. `scale` widens the weights, so that scores spread over (0, 1) and decoding has work."""
    model = build(tiny_config(family, **changes), seed=seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:  # pretrained weights are far wider than the 0.02 that transformers are drawn with
            drawn_small = ".transformer" in name and "t5" not in family
            parameter.data.mul_(6.0 if drawn_small else scale if "transformer" not in name else 1.0)
    if model.config.is_bi_encoder:
        label_family = model.config.label_backbone_config["model_type"]
        return pack(model, tiny_tokenizer(family), plain_tokenizer(label_family))
    return pack(model, tiny_tokenizer(family, relations=model.config.finds_relations))


def tiny_extractor(family: str = "bert", *, seed: int = 0, **changes: Any) -> Extractor:
    """A random extractor."""
    return Extractor(tiny_package(family, seed=seed, **changes))


def logits_of(extractor: Extractor, words: Sequence[str], labels: Sequence[str]) -> Tensor:
    """What the network says of one row, before anything is decided."""
    with modes.inference(extractor.model):
        logits: Tensor = extractor.model(extractor.encoder.encode([Row(tuple(words), tuple(labels))])).logits
    return logits


def random_text(rng: random.Random, num_words: int) -> str:
    """Words of SENTENCES in a random order."""
    words = [word for sentence in SENTENCES for word in sentence.split()]
    return " ".join(rng.choice(words) for _ in range(num_words))
