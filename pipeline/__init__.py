"""Which images, which recipe, where results are kept: manifest, recipes, store, runner, export, command line."""
