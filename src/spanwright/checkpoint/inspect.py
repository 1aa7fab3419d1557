"""What a model's folder holds, without running any of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from spanwright.checkpoint.package import Package
from spanwright.checkpoint.weights import weight_files
from spanwright.model import GLiNER
from spanwright.model.disentangled import BandedAttention
from spanwright.model.modernbert import RotaryAttention
from spanwright.model.replays import ENCODERS
from spanwright.model.spans import MarkerSpans

_CARD = "README.md"
_PART_NAMES = ("backbone", "label_encoder", "context", "fusion", "labels", "tokens", "spans", "relations")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a model: `architecture` in words, `parameters` by part, `limits` in words and subtokens.

    `choices` are those that loading makes unless told otherwise, each with its reason. `files` maps each file's name to
    its size in bytes and its SHA-256; `unused` names tensors that are never run. `thresholds` are the model's own, of
    labels and last words; all others have 0.5.
    """

    folder: str
    architecture: str
    encoder: str
    label_encoder: str | None
    parameters: dict[str, int]
    stored_as: dict[str, int]
    limits: dict[str, int | None]
    markers: dict[str, str]
    word_splitter: str
    subtoken_pooling: str
    thresholds: Mapping[str, float]
    calibration: Sequence[float] | None
    choices: dict[str, str]
    files: dict[str, tuple[int, str]]
    unused: tuple[str, ...]
    licence: str | None
    card: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def inspect_package(package: Package, folder: Path, *, variant: str | None = None) -> Inspection:
    """What a loaded package and its folder say."""
    config, model = package.model.config, package.model
    kind = "bi-encoder" if config.is_bi_encoder else "uni-encoder"
    level = f"token{', span head' * config.span_head}" if config.is_token_level else f"span ({config.span_mode})"
    extras = [", fused layers"] * config.fuse_layers + [f", fusion {config.fusion}"] * (model.fusion is not None)
    if config.finds_relations:
        extras.append(f", relations ({config.adjacency}, {config.triples or 'projected pairs'})")
    counts = Counter[str]()
    for name, parameter in model.named_parameters():
        counts[name.split(".")[0]] += parameter.numel()
    card = folder / _CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    markers = {} if config.is_bi_encoder else {"entity": config.entity_token, "separator": config.separator_token}
    if config.finds_relations:
        markers["relation"] = config.relation_token
    return Inspection(
        folder=str(folder),
        architecture=f"{kind}, {level}{''.join(extras)}",
        encoder=f"{config.backbone} ({model.backbone.transformer.config.model_type})",
        label_encoder=config.label_backbone,
        parameters={name: counts[name] for name in _PART_NAMES if counts[name]},
        stored_as=_stored_types(folder, variant),
        limits={
            "words of a window": config.max_words,
            "words of a span": config.reach,
            "subtokens of a sequence": package.encoder.max_positions,
        },
        markers=markers,
        word_splitter=config.word_splitter,
        subtoken_pooling=config.subtoken_pooling,
        thresholds=config.thresholds,
        calibration=config.calibration,
        choices=_choices(model),
        files={
            str(path.relative_to(folder)): (path.stat().st_size, _sha256(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        },
        unused=tuple(package.unused),
        licence=_licence(text or ""),
        card=_CARD if text else None,
    )


def _choices(model: GLiNER) -> dict[str, str]:
    on_gpu = torch.cuda.is_available()
    kind = getattr(model.backbone.transformer.config, "_attn_implementation", None) or "eager"
    banded = any(isinstance(module, BandedAttention) for module in model.backbone.modules())
    replays = model.replays.encoder in ENCODERS and model.label_encoder is None and not model.config.span_head
    return {
        "small batches": (
            "on a GPU recorded once and replayed (CUDA graphs)" if replays else "run, not replayed, for this kind"
        ),
        "device": "cuda, for there is one" if on_gpu else "cpu, for there is no GPU that torch can use",
        "dtype": "float32, the answers of training; float16 is faster on a GPU",
        "attention": "banded, the same numbers as transformers' DeBERTa" if banded else f"{kind}, of transformers",
        "kernels": _kernels(model),
    }


def _kernels(model: GLiNER) -> str:
    parts = {type(part) for part in model.modules()}
    named = {MarkerSpans: "span products", BandedAttention: "attention", RotaryAttention: "attention, positions, gate"}
    own = [name for kind, name in named.items() if kind in parts]
    return f"of our own on a GPU with Triton: {', '.join(own)}" if own else "none of our own for this kind"


def _licence(card: str) -> str | None:
    """What a model card's front matter says of the licence."""
    from huggingface_hub import RepoCard

    try:
        licence = RepoCard(card, ignore_metadata_errors=True).data.to_dict().get("license")  # type: ignore[no-untyped-call]
    except ValueError:  # a front matter that is none
        return None
    return ", ".join(map(str, licence)) if isinstance(licence, list) else None if licence is None else str(licence)


def _stored_types(folder: Path, variant: str | None) -> dict[str, int]:
    """How many tensors of each type the weight files hold; empty for pickles, which would have to be loaded."""
    from safetensors import safe_open

    types = Counter[str]()
    for path in weight_files(folder, variant=variant):
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt") as file:
                types.update(file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118
    return dict(types)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
