"""What the adapters of several families have in common."""
