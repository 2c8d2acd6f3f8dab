"""Which stages there are, in order, and what each takes in."""

NAME = "cuts"

# Those whose output can be kept; "refine", after them, gives the whole result.
STAGES = ("depth", "features", "ncut", "localcut", "confidence")
LAST = "refine"

# "photos" are the decoded images. Depth is left out for recipes that do not look at it.
INPUTS = {
    "depth": ("photos",),
    "features": ("photos",),
    "ncut": ("features", "depth"),
    "localcut": ("ncut", "features", "depth"),
    "confidence": ("localcut", "depth"),
    "refine": ("photos", "confidence", "depth"),
}
