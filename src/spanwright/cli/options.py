"""From files and assignments to a TrainConfig."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spanwright.errors import ConfigError
from spanwright.train_config import TrainConfig, from_mapping, toml_loads, with_override


def read_config(path: Path | None, assignments: Sequence[str]) -> TrainConfig:
    """The options of a TOML file, or the defaults, with each ``section.key=value`` on top.

    Raises:
        ConfigError: the file is absent or no TOML, or says something unknown; the file and the key are named.

    """
    config = TrainConfig()
    if path is not None:
        try:
            config = from_mapping(TrainConfig, toml_loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"{path} must be a TOML file, but cannot be read: {error.strerror}.") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except ValueError as error:
            raise ConfigError(f"{path} must be a TOML file, but is none: {error}.") from None
    for assignment in assignments:
        config = with_override(config, assignment)
    return config


def split_labels(text: str | None) -> list[str] | None:
    """``"person, political party"`` as a list of labels; None stays None."""
    return None if text is None else [label.strip() for label in text.split(",") if label.strip()]
