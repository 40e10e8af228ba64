"""Image data: sources, decoding, keyed randomness and augmentation."""
