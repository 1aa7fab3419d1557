"""The pretrained transformer under a GLiNER, whatever its family."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModel, MT5EncoderModel, PretrainedConfig, PreTrainedModel, T5EncoderModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from spanwright.errors import CheckpointError, ConfigError, nearest
from spanwright.model import disentangled, modernbert
from spanwright.model.fusion import LayerFusion

ENCODER_HALVES = {"t5": T5EncoderModel, "mt5": MT5EncoderModel}  # of families that AutoModel builds with a decoder
_UNIT = 8  # subtokens
_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
# what a checkpoint must not decide: code of its own, and kernels, which transformers may fetch from a hub
_NOT_FOLLOWED = ("auto_map", "attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_PLAIN_ATTENTION = ("eager", "sdpa")


class Backbone(nn.Module):
    """A transformer, a fusion of its layers if asked and, where the sizes differ, a projection to `hidden_size`."""

    def __init__(self, transformer: PreTrainedModel, hidden_size: int, *, fuse_layers: bool = False) -> None:
        super().__init__()
        disentangled.speed_up(transformer)
        modernbert.adopt(transformer)
        self.transformer = transformer
        width = transformer.config.hidden_size
        self.limit = self.max_positions()  # subtokens; None: any number
        self.fuser = LayerFusion(transformer.config.num_hidden_layers, width) if fuse_layers else None
        self.projection: nn.Module = nn.Linear(width, hidden_size) if width != hidden_size else nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S), (B, S) -> (B, S, D)."""
        length = input_ids.shape[1]
        if input_ids.is_cuda:
            input_ids, attention_mask = self._aligned(input_ids, attention_mask)
        with _attention_kernels(input_ids.device):
            output = self.transformer(
                input_ids=input_ids, attention_mask=attention_mask.long(), output_hidden_states=self.fuser is not None
            )
        states = output.last_hidden_state
        if self.fuser is not None:
            layers = [each.to(states.dtype) for each in output.hidden_states[1:]]  # the first are the embeddings
            states = self.fuser(layers, attention_mask)
        projected: Tensor = self.projection(states[:, :length])
        return projected

    def _aligned(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Padded to whole units of a GPU's attention kernels, where the transformer can read so many subtokens."""
        extra = -input_ids.shape[1] % _UNIT
        if not extra or (self.limit is not None and input_ids.shape[1] + extra > self.limit):
            return input_ids, attention_mask
        return self.padded(input_ids, attention_mask, extra)

    def padded(self, input_ids: Tensor, attention_mask: Tensor, extra: int) -> tuple[Tensor, Tensor]:
        """Both with `extra` subtokens of padding."""
        filler = getattr(self.transformer.config, "pad_token_id", None) or 0
        return F.pad(input_ids, (0, extra), value=filler), F.pad(attention_mask, (0, extra), value=0)

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(N, T), (N, T) -> (N, D): the mean over real subtokens, special ones included."""
        states = self(input_ids, attention_mask)
        real = attention_mask.unsqueeze(-1).to(states.dtype)
        mean: Tensor = (states * real).sum(dim=1) / real.sum(dim=1)
        return mean

    def max_positions(self) -> int | None:
        """The longest sequence in subtokens that the transformer can read; None where positions are relative."""
        for name, module in self.transformer.named_modules():
            if not name.endswith(_POSITION_TABLES) or not isinstance(module, nn.Embedding):
                continue
            # RoBERTa's family counts positions from just after its padding id
            found = module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
            stated = getattr(self.transformer.config, "max_position_embeddings", None)  # BART's table has two rows more
            return min(found, stated) if isinstance(stated, int) and stated > 0 else found
        return None

    def lower_parts(self, num_layers: int) -> list[str]:
        """Names, within the model, of the embeddings and the first `num_layers` layers: what freezing layers means.

        Raises:
            ConfigError: the transformer has fewer layers.

        """
        stacks = [(name, m) for name, m in self.transformer.named_modules() if isinstance(m, nn.ModuleList)]
        name, layers = max(stacks, key=lambda stack: len(stack[1]), default=("", nn.ModuleList()))
        if not 1 <= num_layers <= len(layers):
            raise ConfigError(f"The layers to freeze must number 1 to {len(layers)}, but are {num_layers}.")
        tables = [n for n, m in self.transformer.named_modules() if "embed" in n.rsplit(".", 1)[-1] and n]
        names = tables + [f"{name}.{index}" for index in range(num_layers)]
        return [f"backbone.transformer.{part}" for part in names]


def _attention_kernels(device: torch.device) -> AbstractContextManager[Any]:
    """Without cuDNN's attention on a GPU, which plans anew for every shape: milliseconds a layer, and shapes vary."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def transformer_config(published: Mapping[str, Any]) -> PretrainedConfig:
    """The Hugging Face configuration in a published `encoder_config`.

    Its `auto_map` (remote code) is never followed, nor an attention that is none of torch's.

    Raises:
        CheckpointError: its model type is none that transformers knows, or reads in one direction only; or a value
            cannot be meant.

    """
    if not isinstance(published, Mapping):
        raise CheckpointError(f"The encoder's configuration must be an object, but is {published!r}.")
    values = _followed(published)
    kind = values.pop("model_type", None) or "deberta-v2"
    if kind not in CONFIG_MAPPING:
        name = str(kind)[:40]
        raise CheckpointError(
            f"The encoder's `model_type` must be one that transformers knows, but is {name!r}. "
            f"{nearest(name, CONFIG_MAPPING.keys())} Code in a checkpoint is never run."
        )
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in (*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "xlnet"):
        raise CheckpointError(
            f"The encoder must read in both directions, but {kind} is a causal model. Use gliner, with llm2vec."
        )
    with _as_checkpoint_error("configuration"):
        return AutoConfig.for_model(kind, **values)


def build_transformer(config: PretrainedConfig) -> PreTrainedModel:
    """The encoder of `config` with random weights; of an encoder-decoder family, the encoder half.

    Raises:
        CheckpointError: there is no such network.

    """
    kind = ENCODER_HALVES.get(config.model_type)
    with _as_checkpoint_error("network"):
        return AutoModel.from_config(config, trust_remote_code=False) if kind is None else kind(config)


def _followed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy without what a checkpoint must not decide, at any depth."""
    return {
        key: _followed(value) if isinstance(value, Mapping) else copy.deepcopy(value)
        for key, value in values.items()
        if key not in _NOT_FOLLOWED or value in _PLAIN_ATTENTION
    }


@contextmanager
def _as_checkpoint_error(what: str) -> Iterator[None]:
    """Transformers raises whatever comes up where a configuration cannot be meant."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"The encoder's configuration must describe a {what} that transformers can build, but does not: {reason}"
        ) from None
