"""Settings of a launch that name models, whatever the method makes of them."""

from collections.abc import Iterable
from dataclasses import replace

from pipeline.errors import ConfigError
from pipeline.models.specs import absolute_depth, absolute_features, absolute_motion
from pipeline.runs.launch import Launch

_ABSOLUTE = {"features": absolute_features, "depth": absolute_depth, "motion": absolute_motion}


def with_absolute_models(launch: Launch, names: Iterable[str] = ()) -> Launch:
    """The launch with the paths of features, models of depth and motion, and maps absolute.

    names: values that are no paths.
    """
    settings = {
        name: _ABSOLUTE[name](value) if name in _ABSOLUTE and value not in names else value
        for name, value in launch.settings.items()
    }
    return replace(launch, settings=settings)


def refuse_other_settings(launch: Launch, known: Iterable[str]) -> None:
    """ConfigError for a setting that the launch's recipe does not have. known: those it has."""
    known = list(known)
    if foreign := [name for name in launch.settings if name not in known]:
        raise ConfigError(f"recipe {launch.recipe} has no setting {foreign[0]!r}: it has {', '.join(known)}")
