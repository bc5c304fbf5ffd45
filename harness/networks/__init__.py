"""Networks: where checkpoints come from, layers, recording, re-execution, training."""
