"""Which stages there are, in order, and what each takes in."""

STAGES = ("depth", "features", "ncut", "localcut", "confidence", "refine")

# "photos" are the decoded images. Depth is left out for recipes that do not look at it.
INPUTS = {
    "depth": ("photos",),
    "features": ("photos",),
    "ncut": ("features", "depth"),
    "localcut": ("ncut", "features", "depth"),
    "confidence": ("localcut", "depth"),
    "refine": ("photos", "confidence", "depth"),
}
