"""A trained policy is written in a format that other libraries read, and compared before it counts."""
