"""The machinery of a run is its trainer, its record, going on with it, and exporting from it."""
