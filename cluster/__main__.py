"""`python -m cluster`: the cuts3d command from its source alone, as a job runs it out of a working directory.

Where the package is not installed, nothing is written anywhere of its extensions: this one brings itself along.
"""

from cluster.commands import extend
from pipeline.cli import main
from pipeline.extensions import load_extensions

load_extensions(main)
if "submit" not in main.commands:
    extend(main)
main.extended = True
main(prog_name="cuts3d")
