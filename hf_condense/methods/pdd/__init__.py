"""PDD: the method, its settings, and the data of a stage: real images, chains, observers (arXiv:2310.06982)."""
