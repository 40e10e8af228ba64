"""Images in: sources, decoding, keyed randomness and augmentation."""
