"""Rendered scenes with exact depth: like objects that touch in the image and lie apart in depth.

The case CutS3D is made for, with everything known. open3d casts rays at the pixel centres of an orthographic camera.
World frame: x right 0..1 and y down 0..1 over the image, z away from the camera; the nearest object starts at z = 0 and
the background is a wall at z = 1, so that scene units and min-max scaled depth agree.

Dimension letters: N = Gh·Gw patches in row-major order, D feature width, H, W pixels, Gh, Gw patch grid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.ndimage

SHAPES = ("box", "sphere", "cylinder", "cone")
WALL_DEPTH = 1.0
WALL_CLEARANCE = 0.1
ROW_SPAN = 0.86
COLOURS = ((200, 120, 60), (70, 130, 190), (110, 170, 80), (180, 90, 160))
WALL_COLOUR = (150, 150, 155)
HORIZON = 0.35
"""Where a floor begins, in image heights; it rises to z = 0 at the lower edge of the image."""

# Half width of a shape's silhouette, of 1, at height t in -1 (top) .. 1 (bottom).
_SILHOUETTES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "box": lambda t: np.ones_like(t),
    "cylinder": lambda t: np.ones_like(t),
    "sphere": lambda t: np.sqrt(1.0 - t**2),
    "cone": lambda t: (1.0 + t) / 2.0,
}


@dataclass(frozen=True)
class SceneConfig:
    """A row of objects. Lengths along the image in image widths, depths in units where the wall is at 1."""

    n_objects: int = 2
    depth_gap: float = 0.2
    """Least distance in depth between the farthest point of an object and the nearest of the next behind it."""
    overlap: float = 0.2
    """How far neighbours overlap in the image, as a fraction of the narrower one's width; 0 only just touches."""
    thickness: float = 0.1
    """Depth extent of every object."""
    shapes: tuple[str, ...] | None = None
    """One of `SHAPES` per object, left to right; None draws them from the seed."""
    n_classes: int = 1
    """Appearances: object i has class i mod n_classes."""
    depth_blur: float = 0.0
    """Sigma in pixels of the Gaussian blur of `Scene.depth`, as an estimated depth would be; 0 keeps it exact."""
    size: int = 480
    """Height and width in pixels."""
    seed: int = 0
    """Draws shapes, sizes, vertical offsets, which object is nearer, and turns of the boxes."""

    def __post_init__(self) -> None:
        if not 2 <= self.n_objects <= 4:
            raise ValueError(f"n_objects must be in 2..4, is {self.n_objects}")
        if not 0.0 <= self.overlap <= 0.35:
            raise ValueError(
                f"overlap must be in 0..0.35, is {self.overlap}: more hides an object between two nearer ones"
            )
        if self.depth_gap < 0.0 or self.thickness <= 0.0 or self.depth_blur < 0.0:
            raise ValueError("depth_gap and depth_blur must be >= 0 and thickness > 0")
        depth_needed = self.n_objects * self.thickness + (self.n_objects - 1) * self.depth_gap
        if depth_needed > WALL_DEPTH - WALL_CLEARANCE:
            raise ValueError(f"depth_gap and thickness need depth {depth_needed:.2f}, there is {1 - WALL_CLEARANCE}")
        if self.shapes is not None and (len(self.shapes) != self.n_objects or not set(self.shapes) <= set(SHAPES)):
            raise ValueError(f"shapes must be {self.n_objects} of {SHAPES}, is {self.shapes}")
        if not 1 <= self.n_classes <= len(COLOURS):
            raise ValueError(f"n_classes must be in 1..{len(COLOURS)}, is {self.n_classes}")


@dataclass(frozen=True)
class SceneObject:
    """Where an object is: its bounding box is centre ± half, both (x, y, z)."""

    shape: str
    """One of `SHAPES`, or "torus", a ring that faces the camera."""
    class_id: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    turn: float
    """Radians about the vertical axis, boxes only."""


@dataclass(frozen=True)
class Scene:
    rgb: np.ndarray
    """uint8 (H, W, 3)."""
    depth: np.ndarray
    """float32 (H, W), min-max scaled to 0..1, larger = farther, blurred as configured."""
    exact_depth: np.ndarray
    """float32 (H, W), z where the ray hits, scene units, never blurred."""
    instances: np.ndarray
    """int32 (H, W), 0 = background, object i of `objects` is i + 1."""
    objects: tuple[SceneObject, ...]

    @property
    def class_map(self) -> np.ndarray:
        """int32 (H, W), 0 = background, class c is c + 1."""
        lookup = np.array([0] + [placed.class_id + 1 for placed in self.objects], dtype=np.int32)
        return lookup[self.instances]


def place_objects(config: SceneConfig) -> tuple[SceneObject, ...]:
    """Objects left to right: a row in the image in which neighbours touch, each in its own slice of depth."""
    rng = np.random.default_rng(config.seed)
    n = config.n_objects
    shapes = config.shapes or tuple(SHAPES[i] for i in rng.permutation(len(SHAPES))[:n])
    half_widths = rng.uniform(0.85, 1.15, n)
    half_heights = half_widths * rng.uniform(0.9, 1.4, n)
    offsets = rng.uniform(-0.2, 0.2, n)
    slices = rng.permutation(n)
    turns = rng.uniform(np.radians(25), np.radians(65), n)

    centres_x = np.zeros(n)
    for i in range(1, n):
        bounds_y = [(offsets[j] - half_heights[j], offsets[j] + half_heights[j]) for j in (i - 1, i)]
        y = np.linspace(max(low for low, _ in bounds_y), min(high for _, high in bounds_y), 1001)
        reach = np.zeros_like(y)
        for j in (i - 1, i):
            t = np.clip((y - offsets[j]) / half_heights[j], -1.0, 1.0)
            reach += half_widths[j] * _SILHOUETTES[shapes[j]](t)
        overlap = config.overlap * 2 * min(half_widths[i - 1], half_widths[i])
        centres_x[i] = centres_x[i - 1] + reach.max() - overlap

    # The row is as wide as the image allows, but two objects must not fill it: the background has to win the corners.
    left, right = (centres_x - half_widths).min(), (centres_x + half_widths).max()
    scale = min(ROW_SPAN / (right - left), 0.19)
    return tuple(
        SceneObject(
            shape=shapes[i],
            class_id=i % config.n_classes,
            centre=(
                float(0.5 + scale * (centres_x[i] - (left + right) / 2)),
                float(0.5 + scale * offsets[i]),
                float(slices[i] * (config.thickness + config.depth_gap) + config.thickness / 2),
            ),
            half=(float(scale * half_widths[i]), float(scale * half_heights[i]), config.thickness / 2),
            turn=float(turns[i]),
        )
        for i in range(n)
    )


def place_groups(depth_gap: float, seed: int, thickness: float = 0.06) -> tuple[SceneObject, ...]:
    """Two groups of two or three objects on a floor: a row of one class far back, one of another class in front of it.

    Bounding boxes of neighbours overlap in the image by 5 to 30 % of their mean width; in depth those of a group lie
    `depth_gap` apart, in any order. Shapes, sizes and places are drawn from the seed.
    """
    rng = np.random.default_rng(seed)
    objects: list[SceneObject] = []
    leftward = rng.integers(2)
    for class_id, nearest in enumerate((0.54, 0.06)):
        n = int(rng.integers(2, 4))
        half_widths = rng.uniform(0.085, 0.12, n)
        steps = (half_widths[1:] + half_widths[:-1]) * rng.uniform(0.7, 0.95, n - 1)
        centres_x = np.concatenate([[0.0], np.cumsum(steps)])
        # The groups keep to opposite sides of the image, so that the near one does not hide the far one.
        space = 0.94 - (half_widths[0] + centres_x[-1] + half_widths[-1])
        shift = space * rng.uniform(0.0, 0.3)
        centres_x += 0.03 + half_widths[0] + (shift if class_id == leftward else space - shift)
        for centre_x, half_x, place in zip(centres_x, half_widths, rng.permutation(n), strict=True):
            z = nearest + place * (thickness + depth_gap)
            half_y = half_x * rng.uniform(0.9, 1.3)
            objects.append(
                SceneObject(
                    shape=str(rng.choice((*SHAPES, "torus"))),
                    class_id=class_id,
                    centre=(float(centre_x), float(HORIZON + (1 - HORIZON) * (1 - z) - half_y), float(z)),
                    half=(float(half_x), float(half_y), thickness / 2),
                    turn=float(rng.uniform(np.radians(25), np.radians(65))),
                )
            )
    return tuple(objects)


def render(config: SceneConfig) -> Scene:
    """Places the objects of `config` and casts a ray per pixel."""
    return render_objects(place_objects(config), config.size, config.depth_blur)


def render_objects(
    objects: tuple[SceneObject, ...], size: int = 480, depth_blur: float = 0.0, floor: bool = False
) -> Scene:
    """Casts size × size rays at `objects` in front of the wall, and above the floor if there is one."""
    # Importing open3d takes seconds: only tests that render pay for it.
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    wall = o3d.geometry.TriangleMesh.create_box(3.0, 3.0, 1.0).translate((-1.0, -1.0, WALL_DEPTH))
    scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(wall))
    for placed in objects:
        scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(_mesh(o3d, placed)))
    if floor:
        scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(_floor(o3d)))

    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    camera_z = -1.0
    rays = np.stack([x, y, np.full_like(x, camera_z), 0 * x, 0 * x, np.ones_like(x)], axis=-1).astype(np.float32)
    hits = scene.cast_rays(o3d.core.Tensor(rays), nthreads=1)

    exact_depth = hits["t_hit"].numpy() + np.float32(camera_z)
    # Geometries are numbered as added: the wall is 0, object i is i + 1, the floor the last.
    instances = hits["geometry_ids"].numpy().astype(np.int32)
    instances[instances > len(objects)] = 0
    depth = scipy.ndimage.gaussian_filter(exact_depth, depth_blur, mode="nearest") if depth_blur > 0 else exact_depth
    depth = (depth - depth.min()) / (depth.max() - depth.min())
    return Scene(
        rgb=_shade(hits["primitive_normals"].numpy(), instances, objects),
        depth=depth.astype(np.float32),
        exact_depth=exact_depth.astype(np.float32),
        instances=instances,
        objects=objects,
    )


def majority(labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The most frequent label of each patch, (Gh, Gw) int32; the smaller label where two are as frequent."""
    cells = _cells(labels, grid)
    counts = np.stack([(cells == label).sum(axis=-1) for label in range(int(labels.max()) + 1)])
    return counts.argmax(axis=0).astype(np.int32)


def patch_mean(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Mean of `values` (H, W) over each patch, (Gh, Gw) float32."""
    return _cells(values, grid).mean(axis=-1).astype(np.float32)


def majority_depth(scene: Scene, grid: tuple[int, int]) -> np.ndarray:
    """`Scene.depth` averaged over the pixels of each patch's majority instance, (Gh, Gw) float32.

    Unlike `patch_mean` it puts no point between two objects, and agrees with `majority(scene.instances)`.
    """
    belongs = _cells(scene.instances, grid) == majority(scene.instances, grid)[..., None]
    return _cells(scene.depth, grid).mean(axis=-1, where=belongs).astype(np.float32)


def features_ND(scene: Scene, grid: tuple[int, int], noise: float = 0.02, width: int = 32, seed: int = 0) -> np.ndarray:
    """Patch features (N, D) float32 as an ideal backbone would give them: they know what a thing is, not which one.

    One unit vector for the background and one per class, orthogonal, plus Gaussian noise of deviation `noise` in every
    dimension. With noise ≪ 0.15, cosines are near 1 within a class and near 0 between classes.
    """
    classes_N = majority(scene.class_map, grid).reshape(-1)
    if width <= classes_N.max():
        raise ValueError(f"width must be above the number of classes, {classes_N.max()}, is {width}")
    ideal_ND = np.eye(width)[classes_N]
    return (ideal_ND + noise * np.random.default_rng(seed).standard_normal(ideal_ND.shape)).astype(np.float32)


def _cells(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(Gh, Gw, pixels of a patch)."""
    (height, width), (gh, gw) = values.shape, grid
    if height % gh or width % gw:
        raise ValueError(f"the picture, {height}×{width}, does not divide into {gh}×{gw} patches")
    return values.reshape(gh, height // gh, gw, width // gw).swapaxes(1, 2).reshape(gh, gw, -1)


def _floor(o3d):  # type: ignore[no-untyped-def]
    """From the wall at the horizon straight to z = 0 at the lower edge, and on beyond it."""
    beyond = HORIZON + 1.1 * (1 - HORIZON)
    corners = [(x, y, z) for y, z in ((HORIZON, WALL_DEPTH), (beyond, -0.1)) for x in (-1.0, 2.0)]
    return o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(np.array(corners)), o3d.utility.Vector3iVector(np.array([(0, 1, 2), (1, 3, 2)]))
    )


def _mesh(o3d, placed: SceneObject):  # type: ignore[no-untyped-def]
    """The shape's mesh, stretched to fill its bounding box. Cylinders and cones stand upright in the image."""
    make = o3d.geometry.TriangleMesh
    upright = o3d.geometry.get_rotation_matrix_from_xyz((np.pi / 2, 0.0, 0.0))
    if placed.shape == "box":
        turn = o3d.geometry.get_rotation_matrix_from_xyz((0.0, placed.turn, 0.0))
        mesh = make.create_box().rotate(turn, center=(0.5, 0.5, 0.5))
    elif placed.shape == "sphere":
        mesh = make.create_sphere(resolution=100)
    elif placed.shape == "torus":
        mesh = make.create_torus(torus_radius=1.0, tube_radius=0.5, radial_resolution=200, tubular_resolution=50)
    elif placed.shape == "cylinder":
        mesh = make.create_cylinder(resolution=200, split=1).rotate(upright, center=(0.0, 0.0, 0.0))
    else:
        mesh = make.create_cone(resolution=200, split=1).rotate(upright, center=(0.0, 0.0, 0.0))
    vertices = np.asarray(mesh.vertices)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    unit = 2 * (vertices - low) / (high - low) - 1
    mesh.vertices = o3d.utility.Vector3dVector(np.asarray(placed.centre) + unit * np.asarray(placed.half))
    return mesh


def _shade(normals: np.ndarray, instances: np.ndarray, objects: tuple[SceneObject, ...]) -> np.ndarray:
    """Lambert shading, light from the upper left behind the camera: uint8 (H, W, 3)."""
    light = np.array([-0.4, -0.5, -0.77])
    colours = np.array([WALL_COLOUR] + [COLOURS[placed.class_id] for placed in objects], dtype=np.float64)
    facing = np.where(normals[..., 2:] > 0, -normals, normals)
    brightness = 0.45 + 0.55 * np.clip(facing @ (light / np.linalg.norm(light)), 0.0, 1.0)
    return np.clip(colours[instances] * brightness[..., None], 0, 255).astype(np.uint8)
