"""What comes out: one result type for every attribution of an answer."""
