"""The explorer: one HTML file in which a run can be explored (`conceptevo explore RUN`)."""
