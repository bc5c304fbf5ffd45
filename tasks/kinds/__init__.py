"""The built-in tasks: one file each, found by being here."""
