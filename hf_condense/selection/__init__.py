"""Selection of real images and crops."""
