"""`spanwright.train`: from a model, files and options to a trained model in a folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from spanwright import modes
from spanwright.checkpoint import is_package, local_folder, new_package
from spanwright.checkpoint.files import refusals
from spanwright.config import ModelConfig
from spanwright.data.coverage import Coverage, training_rows
from spanwright.data.indexed import Fit, IndexedExamples, IndexedRows, digest_of
from spanwright.data.labels import LabelSampler, inventories, label_inventory, relation_inventory
from spanwright.data.load import load_examples
from spanwright.data.mixture import Mixture
from spanwright.data.source import is_json_lines
from spanwright.entities import Example
from spanwright.errors import ConfigError, DataError
from spanwright.evaluation import Report
from spanwright.extractor import Extractor
from spanwright.text.windows import Window, plan_windows
from spanwright.text.words import Split, splitter
from spanwright.train_config import LabelOptions, NewModelOptions, TrainConfig
from spanwright.training.loop import Loop
from spanwright.training.record import draw_curve
from spanwright.training.resume import Resume
from spanwright.training.stream import MicroBatches, row_cost
from spanwright.training.validation import Validator
from spanwright.training.world import open_world

CONFIG_FILE = "train-config.json"

Data = str | Path | Sequence[Example]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished run: the trained extractor, the best step and its report on the dev set, what the data could teach."""

    extractor: Extractor
    num_steps: int
    best_step: int
    report: Report | None
    coverage: Coverage


def train(
    model: str | Path | Extractor,
    train: Data,
    dev: Data | None = None,
    *,
    output: str | Path,
    config: TrainConfig = TrainConfig(),
    device: str | torch.device | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    skip_invalid: bool = False,
    show: bool = False,
    tell: Callable[[str], object] | None = None,
) -> TrainResult:
    """Fine-tune a GLiNER, or make one from a pretrained encoder, and write the best to `output`.

    model: a GLiNER's folder or name, a pretrained encoder's folder, or an extractor, which is trained in place and
    keeps its modes, its device and its declared parts. train, dev: files in any format that `check` reads, or
    examples. With dev, the package in `output` is the one of the best micro F1; without, the last. resume: go on from
    the newest whole state in `output`, or begin where there is none; accept_changes: also where options, data or the
    number of processes are others.

    What is drawn at random follows from `training.seed` alone, and the global random states are as before when it
    returns. SIGTERM and SIGINT finish the step and save a state; then SystemExit (143) or KeyboardInterrupt is raised.

    Raises:
        DataError: a file has defects, and `skip_invalid` is not set; or there is nothing to learn.
        ConfigError: options contradict each other, or `output` holds other files.
        CheckpointError: there is no such model; StorageError: `output` cannot be written, what is in it stays.
        TrainingError: the run cannot go on (not finite, out of memory, a process died); the last state stays.

    """
    folder = Path(output)
    say = tell or (lambda line: None)
    if config.validation.patience and dev is None:
        raise ConfigError("`validation.patience` must be 0 without dev data, but is not: there is nothing to wait for.")
    _require_free(folder, resume=resume)
    extractor = model if isinstance(model, Extractor) else load_or_make(model, config.model, seed=config.training.seed)
    split = splitter(extractor.model.config.word_splitter)
    limit = config.training.index_above << 20
    encoder = extractor.encoder
    examples = _read(train, split, skip_invalid, say, index=(limit, lambda row: row_cost(encoder, row)))
    held_out = None if dev is None else _read(dev, split, skip_invalid, say)

    known, known_relations = _inventories(examples)
    inventory = sorted({label for labels in known.values() for label in labels} | {*label_inventory(held_out or [])})
    related: list[str] = []
    if extractor.model.config.finds_relations:
        related = sorted({*known_relations, *relation_inventory(held_out or [])})
    sampler = LabelSampler(
        known, config.labels, seed=config.training.seed, relations=known_relations if related else ()
    )
    windows = _Windows(extractor, inventory, related, config.labels)
    reach = extractor.model.config.reach
    rows, coverage = _rows(examples, windows, reach)
    say(str(coverage) + ".")
    if not rows or not inventory:
        raise DataError("The training data must hold at least one sentence and one label, but hold none.")
    batches = MicroBatches(
        rows, encoder, sampler, config.training, mixture=_mixture(rows, config), digest=digest_of(examples)
    )
    validator = None
    if held_out is not None:
        if not held_out:
            raise DataError("`dev` must have at least one example, but is empty.")
        dev_rows, _ = training_rows(held_out, windows, max_width=reach)
        decode = config.validation.decode_options()
        validator = Validator(held_out, dev_rows, sampler, decode, config.loss, labels=inventory, relations=related)

    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        _hold_still(stack, extractor, config)
        world = stack.enter_context(open_world(config.training, folder, device))
        home = extractor.model.device
        stack.callback(extractor.model.to, home)
        extractor.model.to(world.device)
        if world.is_main:
            with refusals(folder / CONFIG_FILE):
                (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
        loop = Loop(extractor, batches, validator, config, folder)
        outcome = loop.run(world, resume=Resume(resume, accept_changes), show=show, say=say)
        if world.is_main and not outcome.signal:
            draw_curve(folder)
    if outcome.signal == signal.SIGINT:
        raise KeyboardInterrupt(f"stopped after step {outcome.num_steps}")
    if outcome.signal:
        raise SystemExit(128 + outcome.signal)
    return TrainResult(extractor, outcome.num_steps, outcome.best_step, outcome.report, coverage)


def load_or_make(name: str | Path, options: NewModelOptions, *, seed: int) -> Extractor:
    """The GLiNER of that name, or a new one around the pretrained encoder of that name.

    Raises:
        CheckpointError: it is neither.

    """
    folder = local_folder(name)
    if is_package(folder):
        return Extractor.from_pretrained(name, device="cpu")
    return Extractor(new_package(folder, options, seed=seed))


class _Windows:
    """The windows of an example in training: its words beside the longest prompt that a row may get."""

    def __init__(
        self, extractor: Extractor, inventory: Sequence[str], relations: Sequence[str], options: LabelOptions
    ) -> None:
        self._encoder = extractor.encoder
        self._config: ModelConfig = extractor.model.config
        self._room = self._encoder.room(())
        if self._room is None:
            return
        self._room -= self._longest_prompt(inventory, options.max_labels)
        self._room -= self._longest_prompt(relations, options.max_relations)
        if self._room < self._config.max_width:
            raise ConfigError(
                f"`labels.max_labels` must leave room for words among the {self._encoder.max_positions} positions of "
                f"the encoder, but {options.max_labels} labels may leave {self._room}. Lower it."
            )

    def _longest_prompt(self, inventory: Sequence[str], number: int) -> int:
        """Subtokens that the `number` longest labels take, each with its marker."""
        costs = [1 + len(ids) for ids in self._encoder.subtokens.ids(inventory)]
        return 0 if self._config.is_bi_encoder else sum(sorted(costs, reverse=True)[:number])

    def is_one(self, cost: int, num_words: int) -> bool:
        """Whether an example of so many subtokens and words is one window."""
        return 0 < num_words <= self._config.max_words and (self._room is None or cost <= self._room)

    def cost_of(self, row: Example) -> int:
        """Subtokens of a row's words."""
        return row_cost(self._encoder, row)

    def __call__(self, example: Example) -> Sequence[Window]:
        costs = self._encoder.costs(example.word_texts)
        overlap = min(2 * self._config.max_width, self._config.max_words // 2)
        return plan_windows(costs, max_words=self._config.max_words, max_cost=self._room, overlap=overlap)


def _read(
    data: Data,
    split: Split,
    skip_invalid: bool,
    say: Callable[[str], object],
    *,
    index: tuple[int, Callable[[Example], int]] | None = None,
) -> Sequence[Example]:
    """Examples, held or, of a JSON-lines file of more bytes than `index` says, indexed with the costs that it gives."""
    if not isinstance(data, (str, Path)):
        return list(data)
    path = Path(data)
    examples: Sequence[Example]
    if index is not None and path.is_file() and path.stat().st_size > index[0] and is_json_lines(path):
        say(f"{path} has {path.stat().st_size >> 20:,} MiB: its lines are checked and indexed.")
        examples = indexed = IndexedExamples(path, split=split, cost_of=index[1], skip_invalid=skip_invalid)
        skipped = indexed.losses
    else:
        loaded = load_examples(path, split=split, skip_invalid=skip_invalid)
        examples, skipped = loaded.examples, loaded.skipped
    if skipped:
        say(f"{data}: left out {len(skipped)} defects:")
        for defect in skipped[:20]:
            say(f"  {defect}")
        if len(skipped) > 20:
            say(f"  and {len(skipped) - 20} more; `spanwright check {data}` lists all")
    return examples


def _inventories(examples: Sequence[Example]) -> tuple[dict[str, list[str]], list[str]]:
    """All labels of each source and all relations that examples speak of."""
    if isinstance(examples, IndexedExamples):
        return examples.inventories, examples.relations
    return inventories(examples), relation_inventory(examples)


def _mixture(rows: Sequence[Example], config: TrainConfig) -> Mixture | None:
    """How often the rows of each source come; None where each comes once."""
    if config.mixture.is_plain:
        return None
    sources = rows.sources if isinstance(rows, IndexedRows) else (row.source for row in rows)
    return Mixture(sources, config.mixture)


def _rows(examples: Sequence[Example], windows: _Windows, reach: int | None) -> tuple[Sequence[Example], Coverage]:
    """The training rows of examples, held or indexed as these are."""
    if isinstance(examples, IndexedExamples):
        rows = IndexedRows(examples, Fit(windows, windows.is_one, windows.cost_of, reach))
        return rows, rows.coverage
    return training_rows(examples, windows, max_width=reach)


def _hold_still(stack: ExitStack, extractor: Extractor, config: TrainConfig) -> None:
    """Freeze what the options say, and switch on gradient checkpointing; the stack undoes both."""
    names: list[str] = []
    for part in config.training.freeze:
        name, colon, count = part.partition(":")
        if name == "backbone.layers" and colon and count.isdigit():
            names += extractor.model.backbone.lower_parts(int(count))
        else:
            names.append(part)
    if names:
        stack.enter_context(modes.frozen(extractor.model, names))
    transformer = extractor.model.backbone.transformer
    if config.training.gradient_checkpointing and not transformer.is_gradient_checkpointing:
        transformer.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        stack.callback(transformer.gradient_checkpointing_disable)


def _require_free(folder: Path, *, resume: bool) -> None:
    if folder.is_file():
        raise ConfigError(f"`output` must be a folder, but {folder} is a file.")
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"`output` must be a new or empty folder, but {folder} holds files. Name another, or go on with the run in "
            "it by `--resume`."
        )
