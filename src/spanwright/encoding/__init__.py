"""Words and labels to tensors."""

from spanwright.encoding.batch import BatchEncoder
from spanwright.encoding.subtokens import Subtokens
from spanwright.encoding.targets import Row, encode_targets, encode_token_targets

__all__ = ["BatchEncoder", "Row", "Subtokens", "encode_targets", "encode_token_targets"]
