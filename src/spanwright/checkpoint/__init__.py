"""Folders that hold models: load, make anew from an encoder, save."""

from spanwright.checkpoint.hub import DEFAULT_MODEL, local_folder
from spanwright.checkpoint.inspect import Inspection, inspect_package
from spanwright.checkpoint.package import (
    Package,
    fetch_package,
    is_package,
    load_package,
    new_package,
    pack,
    save_package,
)

__all__ = [
    "DEFAULT_MODEL",
    "Inspection",
    "Package",
    "fetch_package",
    "inspect_package",
    "is_package",
    "load_package",
    "local_folder",
    "new_package",
    "pack",
    "save_package",
]
