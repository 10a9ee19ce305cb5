"""What a run will need of a device's memory and arithmetic, known before any weights load."""
