"""A plan says what a run will need of a device's memory and arithmetic, before any weights load."""
