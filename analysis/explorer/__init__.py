"""The explorer: an HTML page for exploring the results of a run (`conceptevo explore RUN`)."""
