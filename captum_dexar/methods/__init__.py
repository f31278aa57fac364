"""The methods that explain the decoder's layers, DEX-AR first."""
