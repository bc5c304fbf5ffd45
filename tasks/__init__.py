"""Studies: tasks, trials and controls made from a run's evidence, and the frozen study. Does not
import torch."""
