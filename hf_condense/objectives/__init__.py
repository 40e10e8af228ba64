"""What pixels are optimised for."""
