"""The machinery of a run: its trainer, its record, going on with it, exporting from it."""
