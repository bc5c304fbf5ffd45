"""The effect of evolutions on predictions: sensitivity, importance, sets of neurons, ablation."""
