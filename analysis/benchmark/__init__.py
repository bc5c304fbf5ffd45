"""Results and exhibits of a benchmark."""
