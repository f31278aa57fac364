"""What every argument of ``generate`` does to an explanation, in a table."""
