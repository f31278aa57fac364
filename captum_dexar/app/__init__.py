"""The local page of ``captum-dexar app``: ask about an image, see what was read."""
