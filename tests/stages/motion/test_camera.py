"""The camera after scaling and cropping, against points that are projected and pixels that are moved."""

import math
from typing import Any

import numpy as np
import pytest

from stages.motion.camera import Camera

CAMERA = Camera(721.5, 718.0, 609.6, 172.9, 0.54)
POINT = np.array([1.3, -0.4, 7.0])  # metres right, down, forward


def pixel(camera: Camera, point: np.ndarray) -> tuple[float, float]:
    x, y, z = point
    return camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy


@pytest.mark.parametrize(("factor_y", "factor_x"), [(0.625, 0.625), (2, 3), (1, 1)])
def test_a_scaled_camera_sees_points_where_scaled_pictures_show_them(factor_y: float, factor_x: float) -> None:
    x, y = pixel(CAMERA, POINT)
    scaled = CAMERA.scaled(factor_y, factor_x)
    # a picture has its corner at -0.5, and distances from there are what is scaled
    assert pixel(scaled, POINT) == pytest.approx(((x + 0.5) * factor_x - 0.5, (y + 0.5) * factor_y - 0.5))
    assert scaled.baseline == CAMERA.baseline
    disparity = CAMERA.fx * CAMERA.baseline / POINT[2]
    assert scaled.fx * scaled.baseline / POINT[2] == pytest.approx(disparity * factor_x)


def test_the_principal_point_moves_with_every_crop() -> None:
    x, y = pixel(CAMERA, POINT)
    cropped = CAMERA.cropped(top=7, left=138)
    assert pixel(cropped, POINT) == pytest.approx((x - 138, y - 7))
    assert (cropped.cx, cropped.cy) == pytest.approx((471.6, 165.9))
    whole = cropped.cropped(-7, -138)
    assert (whole.cx, whole.cy) == pytest.approx((CAMERA.cx, CAMERA.cy))


def test_scaling_and_cropping_commute_as_on_pictures() -> None:
    one = CAMERA.cropped(8, 16).scaled(0.5, 0.25)
    other = CAMERA.scaled(0.5, 0.25).cropped(4, 4)
    for name in Camera.__slots__:
        assert getattr(one, name) == pytest.approx(getattr(other, name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": 0.0}, "camera: fx is 0.0, it must be above 0"),
        ({"fy": math.nan}, "camera: fy is nan, it must be a number"),
        ({"cx": math.inf}, "camera: cx is inf"),
        ({"cy": "far"}, "camera: cy is 'far'"),
        ({"baseline": -0.54}, "camera: baseline is -0.54"),
        ({"baseline": True}, "camera: baseline is True"),
        ({"baseline": None}, "camera: baseline is None"),
    ],
)
def test_wrong_numbers_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    known = {"fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0, "baseline": 1.0}
    with pytest.raises(ValueError, match=message):
        Camera(**{**known, **change})
