"""SF2SE3 as CUPS runs it, written out plainly: the independent reference that the fast product code is compared with.

One run, one proposal, one object and one shift of the grid at a time, on whole maps, in double precision, and nothing
clever. Written from a description of the method (arXiv 2209.08532, 2504.01955, and their released constants and
defects), not from its code. The defects are as in `MoversConfig`, of which it reads constants and switches; what has no
switch there (holes, surface) is as released where `released` is true.

What the description leaves open: which numbers are drawn. Each iteration draws proposals × group numbers in 0..1; they
pick the seed and each member by their place in the list of those possible, in reading order.

H, W pixels · N = Gh·Gw points of the grid, row-major
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage
import scipy.optimize
import scipy.sparse
import scipy.spatial
import scipy.spatial.transform
import scipy.special

from stages.motion.camera import Camera
from stages.motion.clip_motion import ClipMotion
from stages.motion.movers_config import MoversConfig

CUT = 10 * math.sqrt(2)
EIGHT = np.ones((3, 3), int)


@dataclass(frozen=True)
class Look:
    """Steps 1 to 3. Maps (H, W, …); the grid's points (N, …); sigma of u, v and disparity."""

    reliable: np.ndarray
    flow_ok: np.ndarray
    depth: np.ndarray
    landing: np.ndarray
    disparity_next: np.ndarray
    sigma: tuple[float, float, float]
    camera: Camera
    rows: np.ndarray
    columns: np.ndarray
    before: np.ndarray
    after: np.ndarray

    def on_grid(self, map_: np.ndarray) -> np.ndarray:
        """The values of a map at the points of the grid."""
        return map_[self.rows][:, self.columns].reshape(-1, *map_.shape[2:])


@dataclass(frozen=True)
class Rigid:
    """A rigid object: rotation, translation, points it came from, points it explains, how well it explains each, and at
    what noise of u, v and disparity.
    """

    r: np.ndarray
    t: np.ndarray
    own: np.ndarray
    assigned: np.ndarray
    p: np.ndarray
    sigma: tuple[float, ...]


@dataclass(frozen=True)
class Mask:
    """A mask (H, W) of a run and its score."""

    mask: np.ndarray
    score: float


# --- steps 1 to 3 -----------------------------------------------------------------------------------------------------


def look(motion: ClipMotion, camera: Camera, config: MoversConfig) -> Look:
    """Noise, reliable pixels, clouds."""
    height, width = motion.disparity_HW.shape
    y, x = np.mgrid[:height, :width].astype(float)
    f, back = motion.flow_HW2.astype(float), motion.flow_back_HW2.astype(float)
    landing = f + np.stack([x, y], axis=-1)
    f_back = np.stack([bilinear(back[..., i], landing[..., 0], landing[..., 1]) for i in (0, 1)], axis=-1)
    inside = (landing[..., 0] >= 0) & (landing[..., 0] <= width - 1)
    inside &= (landing[..., 1] >= 0) & (landing[..., 1] <= height - 1)
    d0, d1 = motion.disparity_HW.astype(float), motion.disparity_next_HW.astype(float)
    d0_back = bilinear(motion.disparity_right_HW.astype(float), x - d0, y)
    d1_back = bilinear(motion.disparity_right_next_HW.astype(float), x - d1, y)

    lands = np.rint(np.where(inside[..., None], landing, 0)).astype(int)
    there = lands[..., 1], lands[..., 0]
    flow_ok = inside & window(height, width, config)
    flow_ok &= consistent(((f + f_back) ** 2).sum(-1), (f**2).sum(-1) + (f_back**2).sum(-1))
    ok0, ok1 = (
        in_range(d, camera, config) & consistent((d - b) ** 2, d**2 + b**2) & ~edges(d, config.edge)
        for d, b in ((d0, d0_back), (d1, d1_back))
    )
    sigma_u, sigma_v, sigma_d = sigmas(f + f_back, d0 - d0_back, config)

    rows, columns = (
        np.floor((np.arange(max(1, int(config.grid * side))) + 0.5) * side / max(1, int(config.grid * side))).astype(
            int
        )
        for side in (height, width)
    )
    with np.errstate(divide="ignore"):
        depth, depth_next = camera.fx * camera.baseline / d0, camera.fx * camera.baseline / d1[there]
    grid = np.ix_(rows, columns)
    return Look(
        reliable=flow_ok & ok0 & ok1[there],
        flow_ok=flow_ok,
        depth=depth,
        landing=landing,
        disparity_next=d1[there],
        sigma=(sigma_u, sigma_v, sigma_d),
        camera=camera,
        rows=rows,
        columns=columns,
        before=cloud(x[grid], y[grid], depth[grid], camera).reshape(-1, 3),
        after=cloud(landing[grid][..., 0], landing[grid][..., 1], depth_next[grid], camera).reshape(-1, 3),
    )


def bilinear(map_: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values between pixels, NaN outside and where one of the four has none."""
    height, width = map_.shape
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.where(inside, 0.0, np.nan)
    for down in (0, 1):
        for right in (0, 1):
            weight = np.where(down, y - top, 1 - (y - top)) * np.where(right, x - left, 1 - (x - left))
            total += weight * map_[np.minimum(top + down, height - 1), np.minimum(left + right, width - 1)]
    return total


def consistent(residual: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Squares of the way there and back, and of both ways."""
    return residual < 0.01 * size + 0.5


def window(height: int, width: int, config: MoversConfig) -> np.ndarray:
    """The dataset's mask."""
    kept = np.ones((height, width), bool)
    kept[: round(config.top * height)] = False
    kept[height - round(config.bottom * height) :] = False
    kept[:, : round(config.sides * width)] = False
    kept[:, width - round(config.sides * width) :] = False
    return kept


def in_range(d: np.ndarray, camera: Camera, config: MoversConfig) -> np.ndarray:
    """Whether the depth is trusted."""
    with np.errstate(divide="ignore"):
        depth = camera.fx * camera.baseline / d
    return (depth >= config.near) & (depth <= config.far)


def edges(d: np.ndarray, least: float) -> np.ndarray:
    """Ridges of the gradient of log disparity, 5×5 around them."""
    hole = np.isnan(d)
    if hole.all():
        d = np.zeros_like(d)
    elif hole.any():
        nearest = scipy.ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
        d = d[tuple(nearest)]
    bell = np.exp(-np.square(np.arange(-2, 3)) / 2)
    smooth = np.log(d + 0.001)
    for axis in (0, 1):
        smooth = scipy.ndimage.convolve1d(smooth, bell / bell.sum(), axis, mode="mirror")
    gx, gy = scipy.ndimage.sobel(smooth, 1, mode="mirror"), scipy.ndimage.sobel(smooth, 0, mode="mirror")
    magnitude = np.hypot(gx, gy)
    padded = np.pad(magnitude, 1)
    ridge = np.zeros(d.shape, bool)
    for y, x in np.argwhere(magnitude > least):
        angle = round(math.atan2(gy[y, x], gx[y, x]) / (math.pi / 4)) * math.pi / 4
        dy, dx = round(math.sin(angle)), round(math.cos(angle))
        sides = padded[y + 1 + dy, x + 1 + dx], padded[y + 1 - dy, x + 1 - dx]
        ridge[y, x] = magnitude[y, x] >= sides[0] and magnitude[y, x] > sides[1]
    return scipy.ndimage.binary_dilation(ridge, np.ones((5, 5)))


def sigmas(flow: np.ndarray, disparity: np.ndarray, config: MoversConfig) -> tuple[float, float, float]:
    """Noise of u, v and disparity."""
    flow_ok = np.hypot(flow[..., 0], flow[..., 1]) < CUT
    found = []
    for residual, ok in ((flow[..., 0], flow_ok), (flow[..., 1], flow_ok), (disparity, np.abs(disparity) < CUT)):
        sigma = 2 * math.sqrt(2)
        if ok.mean() >= 0.1:
            rms = math.sqrt((residual[ok] ** 2).mean())
            rho = 0.1
            for step in np.linspace(0.1, 1, 100):
                a = CUT / (math.sqrt(2) * rms) if rms else math.inf
                if not rms:
                    rho = 1.0
                elif (
                    abs(
                        1
                        - 2 / math.sqrt(math.pi) * a * step * math.exp(-((a * step) ** 2)) / math.erf(a * step)
                        - step**2
                    )
                    < 0.01
                ):
                    rho = step
            sigma = config.noise_factor * rms / rho
        found.append(min(max(sigma, config.noise * math.sqrt(2)), CUT) / math.sqrt(2))
    return found[0], found[1], found[2]


def cloud(x: np.ndarray, y: np.ndarray, depth: np.ndarray, camera: Camera) -> np.ndarray:
    """Points in space."""
    return np.stack([(x - camera.cx) / camera.fx * depth, (y - camera.cy) / camera.fy * depth, depth], axis=-1)


def relying_on(seen: Look, reliable: np.ndarray, flow_ok: np.ndarray) -> Look:
    """With these reliable pixels: one more or less changes what all later draws stand for."""
    return replace(seen, reliable=reliable, flow_ok=flow_ok)


# --- steps 4 to 8: a run ----------------------------------------------------------------------------------------------


def one_run(seen: Look, config: MoversConfig, rng: np.random.Generator) -> list[Rigid]:
    """The objects of a run, the first the background; none is no motion."""
    reliable = seen.on_grid(seen.reliable)
    objects: list[Rigid] = []
    background: list[Rigid] = []
    fruitless = 0
    for _ in range(config.iterations):
        explained = np.zeros(len(reliable), bool)
        for known in objects:
            explained |= known.p > config.inlier
        free = reliable & ~explained
        proposals = propose(seen, free, config, rng)
        other = np.ones(len(reliable), bool)
        for known in background:
            other &= known.p <= config.inlier
        alike = [
            [soft_iou(soft_inliers(r, t, seen, known.sigma) * reliable, known.p) for known in background]
            for r, t in proposals
        ]
        proposals = [
            proposal
            for proposal, ious in zip(proposals, alike, strict=True)
            if max(ious, default=0) <= config.same_motion
        ]
        shares = [soft_inliers(r, t, seen, seen.sigma) * reliable * other for r, t in proposals]
        picked = select(shares, [known.p for known in objects], reliable, 1, config)
        new = []
        for index in picked:
            parts = split(*proposals[index], shares[index], free, seen, config)
            chosen = select(
                [part.p for part in parts], [known.p for known in objects], reliable, config.components, config
            )
            new = [refined(parts[number], other, seen, config) for number in chosen]
        if not new:
            fruitless += 1
            if fruitless == 2:
                break
        elif not objects and config.background == "corrected":
            new = background = at_own_noise(new, seen, config)
        objects += new
    return [objects[index] for index in select([one.p for one in objects], [], reliable, config.objects, config)]


def propose(
    seen: Look, free: np.ndarray, config: MoversConfig, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Step 4."""
    draws = rng.random((config.proposals, config.group))
    before, after = seen.before, seen.after
    apart = np.sqrt(((before[:, None] - before) ** 2).sum(-1))
    apart_after = np.sqrt(((after[:, None] - after) ** 2).sum(-1))
    with np.errstate(invalid="ignore"):
        near, rigid = apart <= config.reach, np.abs(apart - apart_after) <= config.rigid
    seeds = []
    for i in range(len(before)):
        if (near[i] & rigid[i] & free).sum() > 2 and (free[i] or config.seeds == "released"):
            seeds.append(i)
    found = []
    for draw in draws if seeds else ():
        members = [seeds[int(draw[0] * len(seeds))]]
        for number in draw[1:]:
            some, every = (near, rigid) if config.growth == "corrected" else (rigid, near)
            possible = free & some[members].any(axis=0) & every[members].all(axis=0)
            possible[members] = False
            if possible.any():
                choices = np.flatnonzero(possible)
                members.append(int(choices[int(number * len(choices))]))
        found.append(kabsch(before[members], after[members]))
    return found


def kabsch(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rigid motion from points to points; of two points the smallest turn."""
    x, y = a - a.mean(0), b - b.mean(0)
    if len(a) == 2:
        axis = np.cross(x[0], y[0])
        sine, cosine = np.linalg.norm(axis), x[0] @ y[0]
        turn = scipy.spatial.transform.Rotation.from_rotvec(
            axis / sine * math.atan2(sine, cosine) if sine else np.zeros(3)
        ).as_matrix()
    else:
        u, _, vt = np.linalg.svd(x.T @ y)
        turn = vt.T @ np.diag([1, 1, np.linalg.det(vt.T @ u.T)]) @ u.T
    return turn, b.mean(0) - turn @ a.mean(0)


def residuals(
    r: np.ndarray,
    t: np.ndarray,
    points: np.ndarray,
    landing: np.ndarray,
    disparity: np.ndarray,
    seen: Look,
    sigma: tuple[float, ...],
) -> np.ndarray:
    """Errors of u, v and disparity in deviations, (…, 3); infinite behind the camera."""
    camera, q = seen.camera, points @ r.T + t
    z = np.where(q[..., 2] > 1e-3, q[..., 2], np.nan)
    e = np.stack(
        [
            q[..., 0] / z * camera.fx + camera.cx - landing[..., 0],
            q[..., 1] / z * camera.fy + camera.cy - landing[..., 1],
            camera.fx * camera.baseline / z - disparity,
        ],
        axis=-1,
    )
    return np.nan_to_num(e / np.array(sigma), nan=np.inf)


def two_sided(e: np.ndarray) -> np.ndarray:
    """2·(1 - Φ(|e|))."""
    return 2 * scipy.special.ndtr(-np.abs(e))


def soft_inliers(r: np.ndarray, t: np.ndarray, seen: Look, sigma: tuple[float, ...]) -> np.ndarray:
    """Step 5, at the points of the grid."""
    landing, disparity = seen.on_grid(seen.landing), seen.on_grid(seen.disparity_next)
    return two_sided(residuals(r, t, seen.before, landing, disparity, seen, sigma)).prod(-1)


def select(
    shares: list[np.ndarray], earlier: list[np.ndarray], reliable: np.ndarray, most: int, config: MoversConfig
) -> list[int]:
    """Step 6."""
    chosen: list[int] = []
    while len(chosen) < most:
        before = earlier + [shares[index] for index in chosen]
        coverage = np.max(before, axis=0) if before else np.zeros(len(reliable))
        gains = []
        for index, p in enumerate(shares):
            gain = np.clip(p - coverage, 0, 1)[reliable].sum() / reliable.sum()
            if index in chosen or any(soft_iou(p, other) > config.same_motion for other in before):
                gain = 0.0
            gains.append(gain)
        if not gains or max(gains) <= config.gain:
            break
        chosen.append(int(np.argmax(gains)))
    return chosen


def soft_iou(p: np.ndarray, q: np.ndarray) -> float:
    """Of what two motions explain."""
    union = (p * q + p * (1 - q) + (1 - p) * q).sum()
    return float((p * q).sum() / union) if union else 0.0


def split(
    r: np.ndarray, t: np.ndarray, p: np.ndarray, free: np.ndarray, seen: Look, config: MoversConfig
) -> list[Rigid]:
    """Step 7, without the selection."""
    x, y = (at.ravel() for at in np.meshgrid(seen.columns / seen.camera.fx, seen.rows / seen.camera.fy))
    inliers = np.flatnonzero(free & (p > config.inlier))
    close = two_sided((x[:, None] - x) / config.extent) * two_sided((y[:, None] - y) / config.extent)
    link = p[inliers, None] * close[np.ix_(inliers, inliers)]
    count, group = scipy.sparse.csgraph.connected_components(link > config.inlier, directed=True, connection="weak")
    found = []
    for component in range(count):
        own = np.zeros(len(p), bool)
        own[inliers[group == component]] = True
        product = p * spatial(own, seen, config, seen.rows, seen.columns)[1].ravel()
        assigned = product > config.inlier
        if assigned.sum() >= 4 or config.small == "released":
            found.append(Rigid(r, t, own, assigned, product, seen.sigma))
    # in the order of their first points
    return sorted(found, key=lambda one: int(np.flatnonzero(one.own)[0]))


def spatial(
    assigned: np.ndarray, seen: Look, config: MoversConfig, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Step 9's spatial part at pixels rows × columns: log-likelihood and p of the best assigned point in 9×9 cells."""
    (height, width), (gh, gw) = seen.reliable.shape, (len(seen.rows), len(seen.columns))
    log, p = np.full((len(rows), len(columns)), -np.inf), np.zeros((len(rows), len(columns)))
    on = np.pad(assigned.reshape(gh, gw), 4)
    for dy in range(-4, 5):
        for dx in range(-4, 5):
            cy, cx = rows * gh // height + dy, columns * gw // width + dx
            there = on[cy[:, None] + 4, cx + 4]
            y = (seen.rows[np.clip(cy, 0, gh - 1)] - rows) / seen.camera.fy / config.extent
            x = (seen.columns[np.clip(cx, 0, gw - 1)] - columns) / seen.camera.fx / config.extent
            normal = [-0.5 * at**2 - math.log(config.extent * math.sqrt(2 * math.pi)) for at in (y, x)]
            log = np.maximum(log, np.where(there, normal[0][:, None] + normal[1], -np.inf))
            p = np.maximum(p, np.where(there, two_sided(y)[:, None] * two_sided(x), 0))
    return log, p


def at_own_noise(background: list[Rigid], seen: Look, config: MoversConfig) -> list[Rigid]:
    """Ours: what the background's motion explains, at the noise of the points of its largest part."""
    one = background[0]
    landing, disparity = seen.on_grid(seen.landing), seen.on_grid(seen.disparity_next)
    e = abs(residuals(one.r, one.t, seen.before, landing, disparity, seen, (1, 1, 1))[one.assigned])
    sigma = tuple(
        min(max(config.noise_factor * np.quantile(e[:, axis], 0.9545) / 2, config.background_noise), seen.sigma[axis])
        for axis in range(3)
    )
    found = []
    for part in background:
        near = spatial(part.assigned, seen, config, seen.rows, seen.columns)[1].ravel()
        p = soft_inliers(part.r, part.t, seen, sigma) * seen.on_grid(seen.reliable) * near
        if (p > config.inlier).sum() >= 4 or config.small == "released":
            known = replace(part, assigned=p > config.inlier, p=p, sigma=sigma)
            found.append(refined(known, np.ones(len(p), bool), seen, config))
    return found


def refined(one: Rigid, other: np.ndarray, seen: Look, config: MoversConfig) -> Rigid:
    """Step 7's iterative PnP, and what the object explains after it, of points that are not the background's; at rest
    with fewer than 4 points.
    """
    points, landing, camera = seen.before[one.assigned], seen.on_grid(seen.landing)[one.assigned], seen.camera

    def motion(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return scipy.spatial.transform.Rotation.from_rotvec(v[:3]).as_matrix() @ one.r, v[3:]

    def misses(v: np.ndarray) -> np.ndarray:
        r, t = motion(v)
        q = points @ r.T + t
        return (q[:, :2] / q[:, 2:] * (camera.fx, camera.fy) + (camera.cx, camera.cy) - landing).ravel()

    r, t = np.eye(3), np.zeros(3)
    if len(points) >= 4:
        start = np.concatenate([np.zeros(3), one.t])
        r, t = motion(scipy.optimize.least_squares(misses, start, method="lm", xtol=1e-12, ftol=1e-12).x)
    p = soft_inliers(r, t, seen, one.sigma) * seen.on_grid(seen.reliable) * other
    return replace(one, r=r, t=t, p=p * spatial(one.assigned, seen, config, seen.rows, seen.columns)[1].ravel())


# --- steps 9 to 11: masks of a run ------------------------------------------------------------------------------------


def bodies(objects: list[Rigid], seen: Look, config: MoversConfig) -> list[int]:
    """Step 10: the first object of each one's body, 0 for the background."""
    body = list(range(len(objects)))
    reliable = seen.on_grid(seen.reliable)
    for k, one in enumerate(objects):
        if config.background == "released":
            cosine = (np.trace(objects[0].r.T @ one.r) - 1) / 2
            if 0.5 * math.acos(np.clip(cosine, -1, 1)) >= 0.02:
                body[k] = 0
            continue
        for j in range(k):
            before = objects[j]
            by_before = soft_inliers(before.r, before.t, seen, before.sigma) * reliable > config.inlier
            by_this = soft_inliers(one.r, one.t, seen, one.sigma) * reliable > config.inlier
            forth, back = by_before[one.own].mean() >= 0.5, by_this[before.own].mean() >= 0.5
            if forth if j == 0 else body[j] > 0 and (forth or back):
                body[k] = body[j]
                break
    return body


def label_map(objects: list[Rigid], seen: Look, config: MoversConfig) -> tuple[np.ndarray, np.ndarray]:
    """Step 9: the object of every pixel, -1 none, and softmax over the objects, (K, H, W)."""
    height, width = seen.reliable.shape
    y, x = np.mgrid[:height, :width]
    body = bodies(objects, seen, config)
    near = [spatial(one.assigned, seen, config, np.arange(height), np.arange(width)) for one in objects]
    points = cloud(x, y, seen.depth, seen.camera)
    e = [residuals(one.r, one.t, points, seen.landing, seen.disparity_next, seen, one.sigma) for one in objects]
    label, certainty = most_likely(e, near, objects, config)
    label[~seen.reliable] = -1
    if config.labels == "released":
        return label, certainty
    # what is not reliable, at the depth of the nearest pixel of each object, by flow alone
    e_flow = []
    for k, one in enumerate(objects):
        own = label == k if body[k] else seen.reliable & ~np.isin(label, [j for j in range(len(objects)) if body[j]])
        if not own.any():
            e_flow.append(np.full((height, width, 2), np.inf))
            continue
        nearest = scipy.ndimage.distance_transform_edt(~own, return_distances=False, return_indices=True)
        points = cloud(x, y, seen.depth[tuple(nearest)], seen.camera)
        e_flow.append(residuals(one.r, one.t, points, seen.landing, seen.disparity_next, seen, one.sigma)[..., :2])
    label_flow, certainty_flow = most_likely(e_flow, near, objects, config)
    gap = seen.flow_ok & ~seen.reliable
    label[gap], certainty[:, gap] = label_flow[gap], certainty_flow[:, gap]
    return label, certainty


def most_likely(
    e: list[np.ndarray], near: list[tuple[np.ndarray, np.ndarray]], objects: list[Rigid], config: MoversConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The object with the largest log-likelihood, -1 if none, and softmax."""
    log, p = [], []
    for errors, (log_near, p_near), one in zip(e, near, objects, strict=True):
        sigma = np.array(one.sigma[: errors.shape[-1]])
        log.append(log_near + (-0.5 * errors**2 - np.log(sigma * math.sqrt(2 * math.pi))).sum(-1))
        p.append(two_sided(errors).prod(-1) if config.labels == "corrected" else two_sided(errors).prod(-1) * p_near)
    logs, shares = np.nan_to_num(np.array(log), nan=-np.inf), np.array(p)
    label = logs.argmax(0)
    if config.labels == "corrected":
        none = np.take_along_axis(shares, label[None], 0)[0] <= config.inlier
    else:
        none = (shares == 0).all(0)
    label[none | np.isinf(logs.max(0))] = -1
    with np.errstate(invalid="ignore"):
        likelihood = np.exp(logs - logs.max(0))
    return label, likelihood / likelihood.sum(0)


def run_masks(objects: list[Rigid], seen: Look, config: MoversConfig) -> list[Mask]:
    """Steps 9 to 11: a mask for each connected piece of each body that moves."""
    label, certainty = label_map(objects, seen, config)
    body = np.array(bodies(objects, seen, config))
    found = []
    for number in sorted({int(b) for b in body if b > 0}):
        members = np.flatnonzero(body == number)
        pieces, count = scipy.ndimage.label(np.isin(label, members), EIGHT)
        for piece in range(1, count + 1):
            mask = pieces == piece
            if mask.sum() >= config.smallest:
                found.append(Mask(mask, float(certainty[members].sum(0)[mask].mean())))
    return found


# --- the ensemble -----------------------------------------------------------------------------------------------------


def movers(
    motion: ClipMotion, camera: Camera, config: MoversConfig, seed: int, released: bool = False
) -> tuple[list[np.ndarray], list[float]]:
    """Masks of all runs together and their agreement, by the order of their ids."""
    return movers_seen(look(motion, camera, config), config, seed, released)


def movers_seen(
    seen: Look, config: MoversConfig, seed: int, released: bool = False
) -> tuple[list[np.ndarray], list[float]]:
    """The same from step 4 on."""
    if seen.reliable.sum() < config.fewest:
        return [], []
    runs = []
    for run in range(config.runs):
        objects = one_run(seen, config, np.random.default_rng((seed, run)))
        if objects:
            runs.append(run_masks(objects, seen, config))
    pooled = [one for masks in runs for one in masks]
    covered = sum((one.mask.astype(int) for one in pooled), np.zeros(seen.reliable.shape, int))
    pooled = [one for one in pooled if covered[one.mask].mean() / config.runs >= config.agreement]
    kept = nms(pooled, config.nms)
    painted = np.zeros(seen.reliable.shape, int)
    for number in sorted(range(len(kept)), key=lambda index: kept[index].mask.sum()):
        painted[whole(kept[number].mask, released)] = number + 1
    masks, agreements = [], []
    for number, one in enumerate(kept):
        mask = painted == number + 1
        if mask.sum() >= config.area and surface(mask, seen, released) >= config.surface:
            masks.append(mask)
            agreements.append(float(covered[one.mask].mean() / config.runs))
    return masks, agreements


def nms(pooled: list[Mask], least: float) -> list[Mask]:
    """Matrix NMS."""
    pooled = sorted(pooled, key=lambda one: -one.score)
    iou = [[(a.mask & b.mask).sum() / (a.mask | b.mask).sum() for b in pooled] for a in pooled]
    kept = []
    for j, one in enumerate(pooled):
        decay = 1.0
        for i in range(j):
            worst = max((iou[h][i] for h in range(i)), default=0)
            decay = min(decay, math.exp(-2 * iou[i][j] ** 2) / math.exp(-2 * worst**2))
        if one.score * decay >= least:
            kept.append(one)
    return kept


def whole(mask: np.ndarray, released: bool) -> np.ndarray:
    """Without holes; as released, all but the largest piece of what is not the mask, or of the mask."""
    if not released:
        return np.asarray(scipy.ndimage.binary_fill_holes(mask))
    pieces, _ = scipy.ndimage.label(~mask)
    return pieces != np.bincount(pieces.ravel()).argmax()


def surface(mask: np.ndarray, seen: Look, released: bool) -> float:
    """Square metres: of the convex hull that faces the camera at the median reliable depth; as released, of all
    triangles between the mask's pixels in space."""
    y, x = np.nonzero(mask)
    camera = seen.camera
    if not released:
        depth = seen.depth[mask & seen.reliable]
        if not len(depth):
            return 0.0
        hull = scipy.spatial.Delaunay(np.stack([x, y], 1))
        inside = hull.find_simplex(np.argwhere(np.ones_like(mask))[:, ::-1]) >= 0
        return float(inside.sum() * np.median(depth) ** 2 / camera.fx / camera.fy)
    corners = cloud(x, y, seen.depth[y, x], camera)[scipy.spatial.Delaunay(np.stack([x, y], 1)).simplices]
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return float(np.nansum(np.linalg.norm(sides, axis=1)) / 2)
