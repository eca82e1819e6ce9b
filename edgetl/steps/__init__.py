"""One module per command: the whole of its work, from settings to a record."""
