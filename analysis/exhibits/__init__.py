"""Tables, figures and reports that present results."""
