"""Several methods on the same answer."""
