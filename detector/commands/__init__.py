"""What the detector adds to the command line.

Loaded by `pipeline.commands.extensions` whenever cuts3d starts: MMDetection is imported by the commands only.
"""

import click

from detector.commands import prediction, training


def extend(main: click.Group) -> None:
    """Add the detector's commands."""
    for command in (*training.COMMANDS, *prediction.COMMANDS):
        main.add_command(command)
