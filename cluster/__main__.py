"""`python -m cluster`: the cuts3d command out of its source, as a job runs it in a working directory."""

from pipeline.cli import main

main(prog_name="cuts3d")
