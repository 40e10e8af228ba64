"""What the columns of the pages mean, in a sentence or two each."""

from __future__ import annotations

# key -> (name, explanation)
TERMS = {
    "rank": (
        "Rank",
        "First and last place that the row may have: 1 + the rows that are significantly better, up to the number of rows "
        "minus those that are significantly worse (Welch for all pairs, Holm over the pairs).",
    ),
    "top1": (
        "Top-1",
        "Share of test images that the students get right, in percent: mean ± standard deviation over runs.",
    ),
    "difference": (
        "Difference",
        "Mean accuracy minus that of the board's random draws, in percentage points, with its 95 % interval. All bars of "
        "a table share one axis; the upright line is zero.",
    ),
    "verdict": (
        "Verdict",
        "Above, no different from, or below random draws, at 5 % after Holm's correction over the columns of one result.",
    ),
    "verdicts": ("Verdicts", "How many of a method's columns are above, no different from, and below random draws."),
    "worth": (
        "Worth",
        "One image of the set is worth this many random real images under the same labels: the images per class at which "
        "random sets reach its accuracy, divided by its own. Random draws are worth 1. “Flat”: more random images would not "
        "help either, so that the interval is wider than a factor of ten. “Or more”: the ladder of random sets ends there.",
    ),
    "bytes": (
        "Bytes",
        "What a student needs: images as published, labels of the regime, and the teacher where it runs in training.",
    ),
    "seconds": (
        "Seconds",
        "Training of networks and synthesis of one set, on the submitter's machine. Random draws take none.",
    ),
    "level": (
        "Level",
        "Claimed: scored by its submitter. Checked: accepted into the results repository by its maintainers. Re-scored: others "
        "trained students of their own. Remade: others made the same set from its settings. Disputed: others disagree.",
    ),
    "robustness": (
        "HLR, IOR, LRS",
        "DD-Ranking's scores: what hard labels leave to full data (less is better), improvement over random, and both in "
        "one number of 100, where 26.9 says nothing either way.",
    ),
    "control": (
        "Control",
        "Random draws scored on the submitter's machine minus the same draws on the board's: near 0 where both agree.",
    ),
}
