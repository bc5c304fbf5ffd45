"""Networks: checkpoints and their sources, probed layers, recording, re-execution and training."""
