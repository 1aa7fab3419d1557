"""Packages: a model, its tokenizer and its configuration in one folder, in the published format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from spanwright import modes
from spanwright.checkpoint import published
from spanwright.checkpoint.adapters import without_adapters
from spanwright.checkpoint.files import staged_folder
from spanwright.checkpoint.hub import DEFAULT_MODEL, local_folder
from spanwright.checkpoint.weights import load_into, read_weights, require_content, write_weights
from spanwright.config import ModelConfig
from spanwright.encoding import BatchEncoder, Subtokens
from spanwright.errors import CheckpointError
from spanwright.model.backbone import ENCODER_HALVES, Backbone
from spanwright.model.gliner import GLiNER, build, drawn_from
from spanwright.model.projection import Projection
from spanwright.model.spans import MarkerSpans, QuerySpans
from spanwright.train_config import NewModelOptions

_RARE = 4.6  # minus the logit of 1 %
LABEL_TOKENIZER = "labels_tokenizer"
_FILLER_TOKEN = "[FLERT]"  # published models carry this token before their two markers, without a use for it


@dataclass(frozen=True)
class Package:
    """A network, the encoder that feeds it, and the tokenizers that are saved with it.

    `unused`: tensors of the file that published models of this kind carry and never run; they are written back, since
    gliner builds those parts.
    """

    model: GLiNER
    encoder: BatchEncoder
    tokenizer: PreTrainedTokenizerBase
    label_tokenizer: PreTrainedTokenizerBase | None = None
    unused: Mapping[str, Tensor] = field(default_factory=dict)


def is_package(folder: Path) -> bool:
    """Whether `folder` holds a GLiNER."""
    return (folder / published.CONFIG_FILE).is_file()


def load_package(folder: Path, *, variant: str | None = None, online: bool = False) -> Package:
    """The package in a folder, on the CPU, in float32, in evaluation mode and untold.

    Nothing is run that the folder contains, and the global random state stays. Nothing is asked of a network, unless
    `online`: then an encoder's configuration and tokenizer, where the folder leaves them out.

    Raises:
        CheckpointError: a file is absent or damaged, the architecture is another, or weights are missing or unexpected.

    """
    values = _read_json(folder / published.CONFIG_FILE)
    config = published.config_from_published(values, str(folder))
    state = read_weights(folder, variant=variant)
    with _quiet_transformers():
        tokenizer = _load_tokenizer(folder, config.backbone, online=online)
        label_tokenizer = None
        if config.label_backbone is not None:
            label_tokenizer = _load_tokenizer(folder / LABEL_TOKENIZER, config.label_backbone, online=online)
        config = _completed(config, tokenizer, folder, online=online)
        if not config.is_bi_encoder:
            if not {"num_rnn_layers", "has_rnn"} & values.keys():  # the oldest configurations say nothing of it
                config = replace(config, num_rnn_layers=published.rnn_layers_in(state))
            _require_lstm(config, state, folder)
        model = build(config)
    unused = load_into(model, state, folder)
    return replace(pack(model.float(), tokenizer, label_tokenizer), unused=unused)


def new_package(folder: Path, options: NewModelOptions, *, seed: int) -> Package:
    """A GLiNER around a pretrained encoder's folder; what is new in it is drawn from `seed`.

    Raises:
        CheckpointError: the folder holds no encoder that transformers can load.

    """
    with _quiet_transformers(), drawn_from(seed):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            kind = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).model_type
            family = ENCODER_HALVES.get(kind, AutoModel)
            transformer = family.from_pretrained(folder, local_files_only=True, trust_remote_code=False).float()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{folder} must hold a GLiNER or a pretrained encoder, but holds neither: {reason}"
            ) from None
        shape = {field: getattr(options, field) for field in NewModelOptions.__dataclass_fields__}
        config = ModelConfig(backbone=transformer.config.name_or_path or str(folder), **shape)
        tokenizer.add_special_tokens({"additional_special_tokens": _markers(config)})
        _grow_embeddings(transformer, len(tokenizer))
        config = replace(
            config,
            backbone=Path(config.backbone).name,
            backbone_config=_without_paths(transformer.config.to_dict()),
            vocab_size=len(tokenizer),
            **_marker_ids(config, tokenizer),
        )
        model = GLiNER(config, Backbone(transformer, config.hidden_size, fuse_layers=config.fuse_layers))
        draw_head(model)
    return pack(model, tokenizer)


def save_package(package: Package, folder: Path, *, as_int8: bool = False) -> None:
    """Write a package whole or not at all; the model's mode, device and dtype stay as they are.

    Adapters (peft) are merged into what is written, and stay apart in the model. as_int8: a byte for each weight.

    Raises:
        StorageError: the folder cannot be written; what it held before is untouched.

    """
    size = sum(value.numel() * value.element_size() for value in package.model.state_dict().values())
    with modes.inference(package.model), staged_folder(folder, num_bytes=size) as staging:
        write_weights(without_adapters(package.model), staging, package.unused, as_int8=as_int8)
        package.tokenizer.save_pretrained(staging)
        if package.label_tokenizer is not None:
            package.label_tokenizer.save_pretrained(staging / LABEL_TOKENIZER)
        config = published.config_to_published(package.model.config)
        (staging / published.CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def pack(
    model: GLiNER, tokenizer: PreTrainedTokenizerBase, label_tokenizer: PreTrainedTokenizerBase | None = None
) -> Package:
    """A package of a model and the tokenizer that knows its markers; of a bi-encoder, and the labels' tokenizer."""
    subtokens, *of_labels = [
        Subtokens(each.backend_tokenizer, pad_id=each.pad_token_id or 0, unknown_id=each.unk_token_id)
        for each in (tokenizer, label_tokenizer)
        if each is not None
    ]
    encoder = BatchEncoder(
        subtokens,
        model.config,
        max_positions=model.backbone.max_positions(),
        label_subtokens=of_labels[0] if of_labels else None,
    )
    return Package(model, encoder, tokenizer, label_tokenizer)


def fetch_package(name: str | Path, *, revision: str | None = None, variant: str | None = None) -> tuple[Package, Path]:
    """The model in a folder, or of that name on the hub, and the folder that it is in.

    Raises:
        CheckpointError: as `local_folder` and `load_package`.

    """
    folder = local_folder(name, revision=revision, variant=variant)
    return load_package(
        folder, variant=variant, online=name != DEFAULT_MODEL and folder != Path(name).expanduser()
    ), folder


def _load_tokenizer(folder: Path, name: str, *, online: bool) -> PreTrainedTokenizerBase:
    own = any((folder / file).is_file() for file in ("tokenizer_config.json", "tokenizer.json"))
    source: str | Path = folder if own else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=own or not online, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{folder} must hold its tokenizer, but none can be read from {source}: {reason}. "
            f"Copy the files of {name}'s tokenizer into it."
        ) from None
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise CheckpointError(f"{folder} must hold a tokenizer that `tokenizers` can run, but holds {type(tokenizer)}.")
    return tokenizer


def _completed(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, *, online: bool) -> ModelConfig:
    """`config` with what older checkpoints leave to the reader: the backbone's configuration, markers, their ids."""
    if not config.backbone_config:
        found = _known_config(config.backbone, "encoder_config", folder, online=online)
        config = replace(config, backbone_config=found)
    if config.label_backbone is not None:  # the text's vocabulary has no markers there
        if not config.label_backbone_config:
            found = _known_config(config.label_backbone, "labels_encoder_config", folder, online=online)
            config = replace(config, label_backbone_config=found)
        return config
    if config.entity_token_id < 0 or (config.finds_relations and config.relation_token_id < 0):
        tokenizer.add_special_tokens({"additional_special_tokens": _markers(config)})
        config = replace(config, **_marker_ids(config, tokenizer))
    size = config.vocab_size if config.vocab_size > 0 else len(tokenizer)
    ids = {"class_token_index": config.entity_token_id}
    if config.finds_relations:
        ids["rel_token_index"] = config.relation_token_id
    for key, marker in ids.items():
        if not 0 <= marker < size:
            raise CheckpointError(f"{folder}: `{key}` must lie within the vocabulary of {size}, but is {marker}.")
    _require_markers(config, tokenizer, folder)
    return replace(config, vocab_size=size, backbone_config={**config.backbone_config, "vocab_size": size})


def _markers(config: ModelConfig) -> list[str]:
    """The tokens that a published model of this kind adds to its vocabulary, in their order."""
    if config.finds_relations:
        return [config.entity_token, config.separator_token, config.relation_token]
    return [_FILLER_TOKEN, config.entity_token, config.separator_token]


def _marker_ids(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The ids of the markers as fields of the configuration."""
    ids = {"entity_token_id": tokenizer.convert_tokens_to_ids(config.entity_token)}
    if config.finds_relations:
        ids["relation_token_id"] = tokenizer.convert_tokens_to_ids(config.relation_token)
    return ids


def _require_markers(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The tokenizer must have the markers where the model expects them; one that came without them is given them."""
    wanted = [config.entity_token, config.separator_token] + [config.relation_token] * config.finds_relations
    if any(marker not in tokenizer.get_vocab() for marker in wanted):
        tokenizer.add_special_tokens({"additional_special_tokens": _markers(config)})
    ids = _marker_ids(config, tokenizer)
    for field_name, found in ids.items():
        if found != (expected := getattr(config, field_name)):
            raise CheckpointError(
                f"{folder} must come with the tokenizer that it was trained with, whose markers begin at {expected}, "
                f"but in this one they begin at {found}. Copy that tokenizer's files into the folder."
            )


def _known_config(name: str, key: str, folder: Path, *, online: bool) -> dict[str, Any]:
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=not online, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} must say what its encoder is, but `{key}` is empty and {name} is not on "
            f"this machine ({str(error).splitlines()[0]}). Download that encoder once, with its configuration."
        ) from None
    return _without_paths(config.to_dict())


def _require_lstm(config: ModelConfig, state: dict[str, Any], folder: Path) -> None:
    stored = published.rnn_layers_in(state)
    if stored != config.num_rnn_layers:
        raise CheckpointError(
            f"Checkpoint {folder} must hold {config.num_rnn_layers} LSTM layer(s) as its configuration says, but holds "
            f"{stored}. Set `num_rnn_layers` in {published.CONFIG_FILE} to {stored}."
        )


def _grow_embeddings(transformer: Any, size: int) -> None:
    """Rows for added tokens, near the mean of the old ones as a token that nothing is known of should be."""
    old = transformer.get_input_embeddings().weight.detach()
    mean, spread = old.mean(dim=0), old.std(dim=0)
    before = old.shape[0]
    transformer.resize_token_embeddings(size, mean_resizing=False)
    if size > before:
        table = transformer.get_input_embeddings().weight.data
        table[before:] = mean + 0.1 * spread * torch.randn(size - before, table.shape[1])


def draw_head(model: GLiNER) -> None:
    """Weights of a new head from which a few hundred steps lead somewhere; the defaults of torch shrink every layer.

    Projections are drawn to keep the size of what passes through their ReLU (He et al., 2015). Biases make a new model
    score every span at about 1 %, near the share that is gold: the first steps would otherwise do nothing but push
    every logit down (the prior of Lin et al., 2017, section 4.1; a logit is a product of two vectors here, so each
    carries a root of it). Figures: docs/log.md.
    """
    for block in (module for module in model.modules() if isinstance(module, Projection)):
        nn.init.kaiming_normal_(block.first.weight, nonlinearity="relu")
        nn.init.zeros_(block.first.bias)
        nn.init.xavier_normal_(block.last.weight)
    for layer in model.context.layers:
        for name, weight in layer.named_parameters():
            if name.startswith("weight_ih"):
                nn.init.xavier_normal_(weight, gain=2.0)
            elif name.startswith("weight_hh"):
                for gate in weight.data.chunk(4):
                    nn.init.orthogonal_(gate)
    if model.config.span_mode == "cat":  # else the width of a span drowns its words, and every ReLU dies of it
        nn.init.normal_(cast(QuerySpans, model.spans).query_seg, std=0.05)
    if model.config.is_token_level:
        nn.init.constant_(cast(nn.Linear, model.tokens.out_mlp[-1]).bias, -_RARE)
    elif isinstance(model.spans, MarkerSpans):
        prior = (_RARE / model.config.hidden_size) ** 0.5
        for head, bias in ((model.spans.out_project, prior), (model.labels, -prior)):
            head.last.weight.data.mul_(0.5)
            nn.init.constant_(head.last.bias, bias)


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "auto_map")}


def _read_json(path: Path) -> dict[str, Any]:
    if path.is_file():
        require_content(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} must hold a GLiNER, but has no {path.name}. Name the folder that `train` or `save` wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} must be a JSON file, but cannot be read as one: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, but holds {type(values).__name__}.")
    return values


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without transformers' progress bars and load reports: what matters in them is checked and raised here."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
