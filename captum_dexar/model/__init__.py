"""What a decoder is: its layers, its logit lens, its state and its memory."""
