"""The command that proposes a threshold for features: tau."""

import sys

import click

from pipeline.commands.options import device_option, root_option


@click.command()
@click.option("--images", required=True, help="Photos like those to be cut; see `cuts3d run`.")
@root_option
@click.option("--features", required=True, help="Feature preset, name of a ViT of timm, NAME=FILE, or a checkpoint.")
@click.option("--set", "overrides", multiple=True, metavar="features.OPTION=VALUE", help="Override an option.")
@click.option("--count", type=click.IntRange(min=1), default=32, show_default=True, help="Photos to look at.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which of the photos.")
@device_option
def tau(
    images: str, root: str | None, features: str, overrides: tuple[str, ...], count: int, seed: int, device: str
) -> None:
    """Propose the threshold τ on cosines for any features, from photos without labels.

    One for recipes that search an image in a tree (cuts3d), one for those with rounds (maskcut, cuts3d_rounds).

    Exits with 1 when one of the photos could not be read.
    """
    from pipeline.methods.cuts.recipes import RECIPES, SEARCHES, STAGES_OF
    from pipeline.methods.cuts.tau import propose_tau

    found = propose_tau(images, features, overrides, root, count, seed, device)
    config, proposal = found.features, found.proposal
    centred = ", mean-centred" if config.centred else ""
    click.echo(f"features   {config.model} {config.kind}{centred}, {config.size} px, {found.fingerprint[:12]}")
    click.echo(f"photos     {len(found.photos)} of {found.listed}, seed {seed}")
    if found.known is not None:
        click.echo(f"now        τ {found.known:g}, for these features without --set")
    for search, kind in SEARCHES.items():
        if "ncut" not in STAGES_OF[search]:
            continue
        tau = getattr(proposal, search)
        interval = f"[{tau.low:.3f}, {tau.high:.3f}]"
        recipes = [name for name, recipe in RECIPES.items() if isinstance(recipe.search, kind)]
        click.echo(f"{search:<10} --set affinity.tau={tau.tau:.4f}   {interval}, joins {tau.share:.0%} of the pairs")
        click.echo(f"{'':<10} for --recipe {', '.join(recipes)}")
    if found.set_aside:
        click.echo(f"{len(found.set_aside)} of the photos drawn could not be read", err=True)
        sys.exit(1)
