"""Words and labels to tensors."""

from spanwright.encoding.batch import BatchEncoder, TokenizedRow
from spanwright.encoding.questions import Question, batches_of, label_groups, questions_of
from spanwright.encoding.subtokens import Subtokens
from spanwright.encoding.targets import Row, encode_targets, encode_token_targets
from spanwright.encoding.texts import Texts

__all__ = [
    "BatchEncoder",
    "Question",
    "Row",
    "Subtokens",
    "Texts",
    "TokenizedRow",
    "batches_of",
    "encode_targets",
    "encode_token_targets",
    "label_groups",
    "questions_of",
]
