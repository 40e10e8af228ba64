"""PDD: the method, its settings, and what a stage sees: real images, chains, observers (arXiv:2310.06982)."""
