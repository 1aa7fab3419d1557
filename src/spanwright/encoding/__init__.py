"""Words and labels to tensors."""

from spanwright.encoding.batch import BatchEncoder, Row, encode_targets, encode_token_targets
from spanwright.encoding.subtokens import Subtokens

__all__ = ["BatchEncoder", "Row", "Subtokens", "encode_targets", "encode_token_targets"]
