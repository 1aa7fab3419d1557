"""Fine-tuning."""

from spanwright.training.run import TrainResult, load_or_make, train

__all__ = ["TrainResult", "load_or_make", "train"]
