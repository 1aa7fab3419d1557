"""What gliner's models have in common: loading, moving, training, saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spanwright.compat.examples import examples_of
from spanwright.compat.loading import load
from spanwright.compat.outputs import emptied
from spanwright.compat.training import evaluates, training_config
from spanwright.config import DecodeOptions, ModelConfig
from spanwright.errors import ConfigError
from spanwright.evaluation import Report, evaluate
from spanwright.extractor import Extractor
from spanwright.model import GLiNER as Network
from spanwright.training import train

if TYPE_CHECKING:
    from typing_extensions import Self


class Base:
    """A model behind gliner's calls, but for its questions. `extractor` is what answers; `model` the network."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path,
        revision: str | None = None,
        *,
        map_location: str | torch.device | None = "cpu",
        dtype: str | torch.dtype | None = None,
        variant: str | None = None,
        quantize: str | bool | None = None,
        **others: Any,
    ) -> Self:
        """The model in a folder, or of that name on the hub.

        variant: half-precision weights ("fp16", "bf16") where the model has such; else a warning, and the whole ones
        are cast. quantize: the same types, always cast. others: `max_length` (words of a window), `max_width`, and what
        changes nothing here.

        Raises:
            CheckpointError: there is no such model, or it is damaged or of another kind.
            ConfigError: an argument is unknown or cannot be honoured.

        """
        return cls(
            load(
                model_id,
                revision=revision,
                map_location=map_location,
                dtype=dtype,
                variant=variant,
                quantize=quantize,
                others=others,
            )
        )

    @classmethod
    def from_config(cls, *_: Any, **__: Any) -> Self:
        """Not offered. Raises ConfigError, which says how a new model is made."""
        raise ConfigError(
            "`from_config` is not offered: `spanwright.train` makes a new model from a pretrained encoder's folder."
        )

    @property
    def model(self) -> Network:
        """The network."""
        return self.extractor.model

    @property
    def config(self) -> ModelConfig:
        """The network's shape, under Spanwright's names."""
        return self.extractor.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.extractor.model.device

    def to(self, *where: Any, **how: Any) -> Self:
        """Move the weights, or cast them."""
        self.extractor.model.to(*where, **how)
        return self

    def half(self) -> Self:
        """Cast the weights to float16."""
        return self.to(torch.float16)

    def eval(self) -> Self:
        """Nothing to do: no answer here depends on the mode that the model rests in."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Nothing to do: training declares its modes itself."""
        return self

    def compile(self) -> None:
        """Nothing to do: answers are the same, compiled or not, and this library compiles nothing."""

    def _report(
        self,
        data: Sequence[Mapping[str, Any]],
        labels: Sequence[str] | None,
        relations: Sequence[str] | None,
        options: DecodeOptions,
    ) -> Report:
        """What `evaluate` tells. Types that are named go before those that an example lists, as in gliner."""
        examples = examples_of(data, "test_data")
        if labels is not None:
            examples = [replace(example, labels=None) for example in examples]
        if relations is not None:
            examples = [
                replace(each, gold_relations=replace(each.gold_relations, labels=None)) if each.gold_relations else each
                for each in examples
            ]
        return evaluate(self.extractor, examples, labels, options, relations=relations)

    @staticmethod
    def create_training_args(output_dir: str | Path, **arguments: Any) -> dict[str, Any]:
        """Arguments of `train_model`, to be given as its `training_args`."""
        return {"output_dir": output_dir, **arguments}

    def train_model(
        self,
        train_dataset: Sequence[Mapping[str, Any]],
        eval_dataset: Sequence[Mapping[str, Any]] | None = None,
        training_args: Mapping[str, Any] | None = None,
        freeze_components: Sequence[str] | None = None,
        compile_model: bool = False,
        output_dir: str | Path | None = None,
        **arguments: Any,
    ) -> Trainer:
        """Fine-tune in place, with gliner's training arguments, its defaults and its objective (the sum).

        The best model by F1 on `eval_dataset`, or the last without, is in memory and in `output_dir` afterwards. What a
        former run left in `output_dir` is replaced. `compile_model` changes nothing.

        Raises:
            ConfigError: an argument is unknown here or cannot be honoured; or `output_dir` holds other files.
            DataError: an example cannot be read.
            TrainingError: the run cannot go on.

        """
        if training_args is not None and not isinstance(training_args, Mapping):
            raise ConfigError(
                "`training_args` must be what `create_training_args` of this class gives, but is of type "
                f"{type(training_args).__name__}. Give its values to `train_model` itself."
            )
        given = dict(training_args or {}) | arguments
        folder = output_dir or given.pop("output_dir", None)
        given.pop("output_dir", None)
        if folder is None:
            raise ConfigError("`output_dir` must name a folder, but is left out.")
        device = "cpu" if given.pop("use_cpu", False) else None
        precision = {name: bool(given.pop(name, False)) for name in ("bf16", "fp16")}
        config = training_config(given, freeze_components, **precision, model=self.config)
        examples = examples_of(train_dataset, "train_dataset")
        dev = examples_of(eval_dataset, "eval_dataset") if eval_dataset is not None and evaluates(given) else None
        with emptied(Path(folder)):
            train(self.extractor, examples, dev, output=folder, config=config, device=device)
        return Trainer(self, Path(folder))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: ModelConfig | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        safe_serialization: bool = True,
    ) -> None:
        """Write the model in the published format, always as safetensors. `repo_id` is for what is not done here.

        Raises:
            CheckpointError: the folder cannot be written; what it held before is untouched.
            ConfigError: the model is to be pushed to the hub, or to have another configuration.

        """
        if push_to_hub:
            raise ConfigError("`push_to_hub` must be False, but is True. Save, then `hf upload` the folder.")
        if config is not None and config != self.config:
            raise ConfigError("`config` must be the model's own, but is another. Leave it out.")
        self.extractor.save(save_directory)


@dataclass(frozen=True, slots=True)
class Trainer:
    """What is left of a run: the `model`, and where its package is."""

    model: Base
    output_dir: Path

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Write the model; without a folder, it is in `output_dir` already."""
        if output_dir is not None and Path(output_dir) != self.output_dir:
            self.model.save_pretrained(output_dir)
