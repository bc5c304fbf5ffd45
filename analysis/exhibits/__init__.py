"""Tables, figures and reports: how results are shown."""
