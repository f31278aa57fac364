"""What the drawn worlds share: words with what they refer to, and processors."""
