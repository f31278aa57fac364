"""What goes in: an image and a prompt, or model inputs, with what is known of them."""
