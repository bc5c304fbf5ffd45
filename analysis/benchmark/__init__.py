"""The results and exhibits of a benchmark."""
