"""Studies: tasks, trials and controls from a run's evidence, frozen. Does not import torch."""
