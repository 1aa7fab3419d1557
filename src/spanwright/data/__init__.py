"""Annotated text: read, checked, written, and asked for labels."""

from spanwright.data.check import CheckReport, check
from spanwright.data.labels import LabelSampler, label_inventory, relation_inventory
from spanwright.data.load import Loaded, load_examples
from spanwright.data.notes import Defect, Record
from spanwright.data.records import read_records
from spanwright.data.write import Written, format_of, write_examples

__all__ = [
    "CheckReport",
    "Defect",
    "LabelSampler",
    "Loaded",
    "Record",
    "Written",
    "check",
    "format_of",
    "label_inventory",
    "load_examples",
    "read_records",
    "relation_inventory",
    "write_examples",
]
