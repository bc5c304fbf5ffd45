"""One file in which a researcher looks around in a run: `conceptevo explore RUN`."""
