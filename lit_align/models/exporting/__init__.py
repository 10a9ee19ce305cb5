"""A trained policy in a format that other libraries read, compared before it counts."""
