"""Synthetic street scenes with exact labels, in the layout of Cityscapes.

A pinhole camera looks down a street. Every surface (ground, facades, skyline, upright objects) is a depth per pixel,
and one z-buffer decides what is seen, so the label of a pixel is the label of the nearest surface there. Texture,
light, haze and sensor noise make the classes learnable but not separable by colour alone. A scene is a function of
its generator: same seed, same bytes.

Checked:   the label map against a slow nearest-surface search over all surfaces; thickness by distance transform;
           the files by `ppvision data check --format cityscapes`.
Deviates:  from Cityscapes (Cordts et al., arXiv:1604.01685) in having no rider, train, motorcycle or bicycle. Objects
           are widened to `min_thickness` pixels where perspective would make them thinner: what is asked for is what
           one gets.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ppvision.data.formats import cityscapes
from ppvision.errors import UserError

# What is drawn, with the label ids of Cityscapes. "ego vehicle" is one of the ids that training ignores.
CLASSES = {
    "ego vehicle": 1,
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "car": 26,
    "truck": 27,
    "bus": 28,
}
CAMERA_HEIGHT = 2.0  # metres
KINDS = ("car", "person", "pole", "light", "sign", "tree", "truck", "bus")
ODDS = np.array([0.26, 0.2, 0.08, 0.1, 0.12, 0.1, 0.07, 0.07])


@dataclass
class Surface:
    """A drawn surface: `mask` bool [h,w] and `depth` float32 [h,w] (metres) at rows `top:`, columns `left:` of the
    image."""

    label: int
    top: int
    left: int
    mask: np.ndarray
    depth: np.ndarray


@dataclass
class Scene:
    """`image` float32 [H,W,3] in 0..255 RGB, `labels` uint8 [H,W] (Cityscapes ids), `depth` float32 [H,W] in metres,
    and every accepted surface, from which the two maps can be derived again."""

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    surfaces: list[Surface] = field(default_factory=list)

    def draw(self, surface: Surface, colour: np.ndarray, min_thickness: int | None = None) -> bool:
        """Paint `surface` where it is nearer than what is there; `colour` broadcasts to [h,w,3].

        With `min_thickness` the surface is taken back, and False returned, when it is hidden or when any visible
        region of a label it touches is left thinner than that.
        """
        h, w = surface.mask.shape
        window = np.s_[surface.top : surface.top + h, surface.left : surface.left + w]
        seen = surface.mask & (surface.depth < self.depth[window])
        if not seen.any():
            return False
        hidden = np.flatnonzero(np.bincount(self.labels[window][seen]))
        before = self.labels[window].copy()
        np.copyto(self.labels[window], np.uint8(surface.label), where=seen)
        # Its own label first: small and most often at fault.
        touched = dict.fromkeys([surface.label, *hidden.tolist()])
        if min_thickness and not all(is_thick(self.labels == label, min_thickness) for label in touched):
            self.labels[window] = before
            return False
        np.copyto(self.depth[window], surface.depth, where=seen)
        np.copyto(self.image[window], colour, where=seen[..., None], casting="same_kind")
        self.surfaces.append(surface)
        return True


def is_thick(mask: np.ndarray, thickness: int) -> bool:
    """Whether every connected region of `mask` [H,W] holds a disc of that diameter in pixels, and is mostly made of
    such discs (at most a fifth of a region lies in corners and slivers that no such disc reaches)."""
    left, top, w, h = cv2.boundingRect(mask.astype(np.uint8))
    # The image's border counts as outside: an object cut by it is as thin as what is left of it.
    mask = np.pad(mask[top : top + h, left : left + w], 1).astype(np.uint8)
    num, regions, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    core = cv2.distanceTransform(mask, cv2.DIST_L2, 5) >= (thickness + 1) / 2
    if not np.bincount(regions[core], minlength=num)[1:].all():
        return False
    mask[cv2.distanceTransform(1 - core.astype(np.uint8), cv2.DIST_L2, 5) <= (thickness + 1) / 2] = 0
    lost = np.bincount(regions[mask > 0], minlength=num)
    return bool((lost[1:] <= 0.2 * stats[1:, cv2.CC_STAT_AREA]).all())


class _Painter:
    """One scene in the making: camera, light and textures drawn from `rng`, then the surfaces."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], thickness: int):
        self.rng, self.t = rng, thickness
        self.h, self.w = size
        self.focal = self.h * rng.uniform(0.9, 1.2)  # pixels
        self.horizon = self.h * rng.uniform(0.36, 0.46)
        self.centre = self.w * rng.uniform(0.42, 0.58)
        self.tile = rng.random((128, 128), dtype=np.float32)  # one noise tile serves all textures at different scales
        self.smooth = cv2.resize(rng.random((16, 16), dtype=np.float32), (128, 128), interpolation=cv2.INTER_CUBIC)
        self.gain = rng.uniform(0.7, 1.1)
        self.sun = rng.uniform(0.75, 1.2, 2).tolist()  # brightness of left and right facades
        self.haze = rng.uniform(60, 300)  # metres until two thirds are lost in the sky's colour
        self.sky = np.array([150, 175, 205], np.float32) + rng.uniform(-35, 35, 3).astype(np.float32)
        self.rows = np.arange(self.h, dtype=np.float32) + 0.5 - np.float32(self.horizon)  # [H], below the horizon > 0
        self.cols = np.arange(self.w, dtype=np.float32) + 0.5 - np.float32(self.centre)  # [W]
        self.scene = Scene(
            np.zeros((self.h, self.w, 3), np.float32),
            np.zeros((self.h, self.w), np.uint8),
            np.full((self.h, self.w), np.inf, np.float32),
        )

    def noise(self, y: np.ndarray, x: np.ndarray, smooth: bool = False) -> np.ndarray:
        """Texture value 0..1 at integer-truncated coordinates, repeating every 128."""
        tile = self.smooth if smooth else self.tile
        return tile[np.asarray(y).astype(np.int32) & 127, np.asarray(x).astype(np.int32) & 127]

    def colour(self, low: float = 40, high: float = 220) -> np.ndarray:
        return self.rng.uniform(low, high, 3).astype(np.float32)

    def full(self, label: str, mask: np.ndarray, depth: np.ndarray, colour: np.ndarray) -> None:
        shape = (self.h, self.w)
        surface = Surface(CLASSES[label], 0, 0, np.broadcast_to(mask, shape), np.broadcast_to(depth, shape))
        self.scene.draw(surface, colour)

    def street(self) -> bool:
        """Sky, skyline, ground and facades; False when a region came out too thin."""
        rng, t, rows = self.rng, self.t, self.rows[:, None]
        height = np.clip(-rows / max(self.horizon, 1), 0, 1)
        clouds = self.noise(np.arange(self.h)[:, None] * 64 // self.h, np.arange(self.w)[None] * 128 // self.w, True)
        shade = 1.12 - 0.25 * height + 0.18 * (clouds - 0.5)
        self.full("sky", np.True_, np.float32(1e6), self.sky * shade[..., None])

        below = self.h - self.horizon
        self.far_row = t * rng.uniform(0.9, 1.3)  # rows below the horizon at which the skyline stands
        far = self.focal * CAMERA_HEIGHT / self.far_row
        self.skyline(far)

        # The ground is divided by lines through the vanishing point. `edge` is the height at which such a line leaves
        # the image's side, in rows below the horizon: a band of the ground is about as thick as the difference of two
        # edges.
        reach = (self.centre, self.w - self.centre)
        park = [bool(rng.random() < 0.3) for _ in range(2)]
        road_edges = [max(below * rng.uniform(0.7, 1.25), (6.6 if open_land else 3.6) * t) for open_land in park]
        walk_edges = [
            # ... and at the skyline the pavement is still `t` columns wide.
            min(e - t * rng.uniform(2.2, 2.8) - 0.05 * below, 1 / (1 / e + 1.1 * t / (self.far_row * r)))
            for e, r in zip(road_edges, reach, strict=True)
        ]
        self.road = [r / e for r, e in zip(reach, road_edges, strict=True)]  # |column| / row at the kerb
        self.walk = [r / e for r, e in zip(reach, walk_edges, strict=True)]
        self.ground(park)
        for side in range(2):
            if not park[side]:
                self.facades(side, far, reach[side])
        self.park = park
        return all(is_thick(self.scene.labels == label, t) for label in np.unique(self.scene.labels))

    def skyline(self, far: float) -> None:
        rng, t, rows = self.rng, self.t, self.rows[:, None]
        num = int(rng.integers(1, 4))
        cuts = np.sort(rng.uniform(0.15, 0.85, num - 1)) * self.w
        block = np.searchsorted(cuts, np.arange(self.w))
        top = (t * rng.uniform(1.3, 2.2, num)).astype(np.float32)[block]
        green = (rng.random(num) < 0.5)[block]
        tone = rng.uniform(70, 150, (num, 3)).astype(np.float32)[block]
        y, x = np.arange(self.h)[:, None], np.arange(self.w)[None]
        leaf = np.array([50, 85, 45], np.float32) * (0.6 + 0.9 * self.noise(y, x))[..., None]
        brick = tone * (0.85 + 0.25 * (((y // 3 + x // 4) % 3) == 0))[..., None]
        top = top + green * 0.25 * t * (self.noise(0 * x[0], x[0], True) - 0.5)  # tree tops; roofs are flat
        mask = (rows < self.far_row) & (rows > -top[None])
        for label, where, colour in (("vegetation", green, leaf), ("building", ~green, brick)):
            if where.any():
                self.full(label, mask & where[None], np.float32(far), colour)

    def ground(self, park: list[bool]) -> None:
        first = int(np.ceil(self.horizon + 1))  # the horizon itself lies behind the skyline
        rows, cols = self.rows[first:, None], self.cols[None, :]
        depth = (self.focal * CAMERA_HEIGHT / rows).astype(np.float32)  # metres
        slope = cols / rows  # sideways distance in camera heights
        side = (cols > 0).astype(np.int8)
        kerb, fence = np.asarray(self.road, np.float32)[side], np.asarray(self.walk, np.float32)[side]
        x, z = slope * CAMERA_HEIGHT, np.broadcast_to(depth, slope.shape)
        grain = self.noise(z * 24, x * 24)
        patch = self.noise(z * 3, x * 8, True)
        base, walk, grass = self.rng.uniform(75, 115), self.rng.uniform(120, 175), self.rng.uniform(0.8, 1.2)
        tint = self.rng.uniform(-10, 10, 3).astype(np.float32)
        asphalt = (base * (0.75 + 0.3 * patch + 0.25 * grain))[..., None] + tint
        lane = (np.abs(slope) < 0.035) & ((z * 0.35 % 1) < 0.55)
        asphalt[lane] = 205 + 30 * (grain[lane][:, None] - 0.5)
        joints = ((x * 1.1 % 1) < 0.07) | ((z * 1.1 % 1) < 0.07)
        slabs = (walk * (0.85 + 0.2 * grain + 0.1 * patch) * np.where(joints, 0.8, 1.0))[..., None] * np.float32(
            [1.05, 1.0, 0.93]
        )
        turf = np.float32([95, 120, 60]) * (grass * (0.55 + 0.5 * grain + 0.4 * patch))[..., None]
        on_road, on_walk = np.abs(slope) < kerb, np.abs(slope) < fence
        open_land = np.asarray(park)[side] & ~on_walk
        h, w = slope.shape
        for label, mask, colour in (
            ("road", on_road, asphalt),
            ("sidewalk", on_walk & ~on_road, slabs),
            ("terrain", open_land, turf),
            ("sidewalk", ~on_walk & ~open_land, slabs),  # hidden behind the facades, but the ground has no holes
        ):
            if mask.any():
                self.scene.draw(
                    Surface(CLASSES[label], first, 0, mask, np.broadcast_to(depth, (h, w))), self.lit(colour, z)
                )

    def facades(self, side: int, far: float, reach: float) -> None:
        """Buildings, walls, fences and hedges in the plane where the pavement ends, one lot after the other."""
        rng, t = self.rng, self.t
        own = np.flatnonzero(self.cols < 0 if side == 0 else self.cols > 0)
        first, own = int(own[0]), np.s_[own[0] : own[-1] + 1]
        away = np.abs(self.cols[own])  # columns from the vanishing point
        distance = np.float32(self.walk[side] * CAMERA_HEIGHT)
        z = self.focal * distance / away  # [W]
        nearest = max(self.focal * distance / far, 1.0)
        num = int(np.clip((reach - nearest) / (3.0 * t), 1, 4))
        cuts = np.linspace(nearest, reach, num + 1)[1:-1] + rng.uniform(-0.4, 0.4, num - 1) * t
        lot = np.searchsorted(cuts, away)
        kinds = rng.choice(["building", "wall", "fence", "vegetation"], num, p=[0.55, 0.13, 0.14, 0.18])
        low = np.isin(kinds, ["wall", "fence"])
        tall = np.where(low, rng.uniform(1.6, 2.4, num), np.where(kinds == "building", rng.uniform(4, 9, num), 3.5))
        inner = np.concatenate([[nearest], cuts])
        tall = np.maximum(tall, 1.7 * t * distance / inner)  # at its far end a lot is still this many rows high
        rows, foot = self.rows[:, None], (self.focal * CAMERA_HEIGHT / z)[None]
        top = (tall[lot] - CAMERA_HEIGHT) * self.focal / z
        mask = (rows > -top[None]) & (rows <= foot + 1)
        up = (foot - rows) * z[None] / self.focal  # metres above the ground
        along = np.broadcast_to(z[None], up.shape)
        grain = self.noise(up * 16, along * 16)
        window = (
            ((up / 2.9 % 1) > 0.35) & ((up / 2.9 % 1) < 0.75) & ((along / 2.2 % 1) > 0.3) & ((along / 2.2 % 1) < 0.72)
        )
        for i, kind in enumerate(kinds):
            here = mask & (lot == i)[None]
            if not here.any():
                continue
            if kind == "building":
                colour = self.colour(90, 200) * (0.9 + 0.2 * grain)[..., None]
                colour = np.where(window[..., None], np.float32([60, 70, 85]) * (0.8 + 0.5 * grain)[..., None], colour)
            elif kind == "wall":
                course = ((up * 4 % 1) < 0.12) | (((along * 2 + (up * 4).astype(np.int32) % 2 * 0.5) % 1) < 0.08)
                colour = self.colour(120, 160) * (np.where(course, 0.75, 0.95) + 0.15 * grain)[..., None]
            elif kind == "fence":
                slat = (along * 5 % 1) < 0.5
                colour = np.float32([125, 95, 65]) * (np.where(slat, 1.1, 0.6) + 0.15 * grain)[..., None]
            else:
                colour = (
                    np.float32([60, 95, 45]) * (0.45 + grain + 0.4 * self.noise(up * 3, along * 3, True))[..., None]
                )
            # A finger nearer than its foot: no ground shows through the seam.
            surface = Surface(CLASSES[str(kind)], 0, first, here, (0.98 * along).astype(np.float32))
            self.scene.draw(surface, self.lit(colour, along) * self.sun[side])

    def lit(self, colour: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
        """Illumination and haze at a distance in metres."""
        haze = 1 - np.exp(-np.asarray(depth, np.float32) / np.float32(self.haze))
        haze = np.minimum(haze, np.float32(0.7))[..., None]
        return colour * ((1 - haze) * np.float32(self.gain)) + self.sky * haze

    def place(self, kind: str) -> bool:
        """Try to stand one object somewhere it belongs; False when there is no room for it."""
        rng, t = self.rng, self.t
        below = self.h - self.horizon
        foot = rng.uniform(self.far_row * 1.1, below * 0.97)  # rows below the horizon
        metre = foot / CAMERA_HEIGHT  # pixels per metre at that distance
        side = int(rng.integers(2))
        sign = (-1, 1)[side]
        if kind in ("car", "truck", "bus"):
            column = rng.uniform(-self.road[0], self.road[1]) * 0.85 * foot
        elif kind == "person" and rng.random() < 0.2:
            column = rng.uniform(-self.road[0], self.road[1]) * foot
        elif kind == "tree" and self.park[side]:
            column = sign * self.walk[side] * rng.uniform(1.0, 1.6) * foot
        else:
            column = sign * rng.uniform(self.road[side], self.walk[side]) * foot
        min_w = t + 2  # a pixel on either side is lost to rounding
        if kind == "car":
            w = max(rng.choice([1.8, 3.9]) * metre, 1.8 * min_w)
            h = max(1.5 * metre, 1.25 * min_w)
            w = max(w, 1.1 * h)
        elif kind in ("truck", "bus"):
            w = max(rng.uniform(2.4, 5.0) * metre, 2.2 * min_w)
            h = max(3.0 * metre, 2.0 * min_w)
        elif kind == "person":
            w = max(0.6 * metre, 1.35 * min_w)
            h = max(1.75 * metre, 2.7 * w)
        elif kind == "tree":
            w = max(3.0 * metre, 2.6 * min_w)
            h = max(rng.uniform(4, 6) * metre, 1.5 * w)
        else:
            w = max((0.25 if kind == "pole" else 0.8) * metre, (1.0 if kind == "pole" else 1.5) * min_w)
            h = max(rng.uniform(3.0, 5.0) * metre, 3.4 * w)
        w, h = float(w), float(h)  # plain numbers: float32 arrays stay float32 under every numpy
        left, top = round(self.centre + column - w / 2), round(self.horizon + foot - h)
        x0, x1 = max(left, 0), min(round(left + w), self.w)
        y0, y1 = max(top, 0), min(round(self.horizon + foot), self.h)
        if x1 - x0 < min_w or y1 - y0 < min_w:
            return False
        # 0..1 from the left and upwards in the object's box
        a = (np.arange(x0, x1, dtype=np.float32) + 0.5 - left) / np.float32(round(left + w) - left)
        b = 1 - (np.arange(y0, y1, dtype=np.float32) + 0.5 - top) / np.float32(round(self.horizon + foot) - top)
        a, b = np.meshgrid(a, b)
        depth = np.float32(self.focal * CAMERA_HEIGHT / foot)
        grain = self.noise(np.arange(y0, y1)[:, None] + side * 31, np.arange(x0, x1)[None] + int(column))
        for part, (label, mask, colour) in enumerate(self.parts(kind, a, b, w, h, grain)):
            # Parts of one thing (a pole and its sign) stand a finger apart so that their order is defined.
            plane = np.full(mask.shape, depth * (1 - 0.001 * part), np.float32)
            if not self.scene.draw(Surface(CLASSES[label], y0, x0, mask, plane), self.lit(colour, depth), self.t):
                return part > 0  # a pole without its sign may stay
        return True

    def parts(self, kind: str, a: np.ndarray, b: np.ndarray, w: float, h: float, grain: np.ndarray) -> list:
        """(label, mask, colour) of an upright thing; `a` and `b` run 0..1 across and up its box of `w` x `h` pixels."""
        rng, min_w = self.rng, self.t + 2
        paint = self.colour(35, 235) * (0.9 + 0.2 * grain)[..., None]
        shade = (1.08 - 0.3 * np.abs(a - 0.4))[..., None]
        side = np.abs(a - 0.5)
        if kind == "car":
            cabin = (b > 0.55) & (side < 0.5 - 0.28 * (b - 0.5))
            mask = ((b <= 0.6) & (side < 0.5 - 0.04 * (b > 0.5))) | cabin
            glass = (b > 0.62) & (b < 0.93) & (side < 0.33)
            tyre = (b < 0.22) & (np.abs(side - 0.33) < 0.11)
            lamp = (b > 0.36) & (b < 0.5) & (side > 0.38)
            paint = np.where(glass[..., None], np.float32([45, 55, 70]) + 35 * grain[..., None], paint * shade)
            paint = np.where(tyre[..., None], np.float32([25, 25, 28]) + 15 * grain[..., None], paint)
            return [("car", mask, np.where(lamp[..., None], np.float32([190, 35, 30]), paint))]
        if kind in ("truck", "bus"):
            tyre = (b < 0.14) & (np.abs(side - 0.3) < 0.09)
            if kind == "bus":
                mask = (b > 0.03) & ((b < 0.96) | (side < 0.46))
                glass = (b > 0.5) & (b < 0.82) & ((a * 5 % 1) > 0.14) & (side < 0.47)
            else:
                cab = rng.choice([-1, 1]) * (a - 0.5) > 0.18
                mask = (b > 0.02) & ((b < 0.72) | ~cab)
                glass = cab & (b > 0.42) & (b < 0.63) & (side < 0.45)
            paint = np.where(glass[..., None], np.float32([40, 50, 62]) + 45 * grain[..., None], paint * shade)
            return [(kind, mask, np.where(tyre[..., None], np.float32([25, 25, 28]), paint))]
        if kind == "person":
            head = max(0.62, min_w / w)
            mask = ((b < 0.8) & (side < 0.5 - 0.5 * np.maximum(b - 0.72, 0))) & ((b > 0.42) | (side < 0.42))
            top = 1 - head * w / h
            mask |= (b >= top) & ((side / (head / 2)) ** 2 + ((b - (top + 1) / 2) / ((1 - top) / 2)) ** 2 < 1.15)
            trousers = (b < 0.45)[..., None]
            skin = (b > top + 0.01)[..., None]
            legs = self.colour(20, 110) * (0.9 + 0.2 * grain)[..., None] * np.where(side < 0.05, 0.6, 1.0)[..., None]
            face = np.float32([205, 160, 130]) * rng.uniform(0.45, 1.1) * (0.95 + 0.1 * grain)[..., None]
            return [("person", mask, np.where(skin, face, np.where(trousers, legs, paint * shade)))]
        if kind == "tree":
            trunk = (b < 0.5) & (side < max(0.5 * min_w / w, 0.07))
            crown = np.zeros_like(trunk)
            for _ in range(6):
                x, y, r = rng.uniform(0.3, 0.7), rng.uniform(0.55, 0.75), rng.uniform(0.24, 0.3)
                crown |= ((a - x) / r) ** 2 + ((b - y) * h / w / r) ** 2 < 1
            leaf = np.float32([65, 100, 45]) * rng.uniform(0.7, 1.1) * (0.4 + 1.1 * grain + 0.3 * (b - 0.5))[..., None]
            return [("vegetation", trunk | crown, np.where(crown[..., None], leaf, np.float32([85, 65, 50])))]
        grey = np.float32([120, 122, 125]) * rng.uniform(0.45, 1.1)
        shaft = grey * (1.15 - 0.9 * np.abs(a - 0.5) / max(min_w / w, 0.3))[..., None] * (0.95 + 0.1 * grain)[..., None]
        if kind == "pole":
            return [("pole", np.ones_like(a, bool), shaft)]
        pole = ("pole", (side < 0.5 * min_w / w) & (b < 0.9), shaft)
        size = min(1.7 if kind == "light" else 1.0, h / w * 0.55) * w / h  # of the head, as a part of the height
        y = (b - (1 - size)) / size  # 0..1 up the head
        if kind == "light":
            lamp = rng.integers(3)
            lens = (((a - 0.5) * w) ** 2 + ((y - (2 * lamp + 1) / 6) * size * h) ** 2) < (0.13 * size * h) ** 2
            glow = np.float32([[40, 220, 110], [245, 190, 40], [240, 50, 40]])[lamp]
            box = np.float32([35, 38, 36]) * (0.9 + 0.3 * grain)[..., None]
            return [pole, ("traffic light", (y > 0) & (side < 0.46), np.where(lens[..., None], glow, box))]
        shape = rng.integers(2)
        dial = ((a - 0.5) * 2) ** 2 + ((y - 0.5) * 2) ** 2
        mask = (y > 0) & ((dial < 1) if shape else (side < 0.48))
        rim = dial > 0.55 if shape else np.maximum(side * 2, np.abs(y - 0.5) * 2) > 0.8
        face, edge = (np.float32([235, 235, 230]), np.float32([200, 30, 35]))
        if not shape:
            face, edge = np.float32([30, 75, 170]), np.float32([235, 235, 235])
        return [pole, ("traffic sign", mask, np.where(rim[..., None], edge, face) * (0.92 + 0.16 * grain)[..., None])]

    def hood(self) -> None:
        """The bonnet of the car that carries the camera: an id that training ignores."""
        tall = self.t * self.rng.uniform(1.4, 1.8)
        rise = tall * (1 - 0.35 * (self.cols / (self.w / 2)) ** 2)
        mask = (self.h - np.arange(self.h))[:, None] <= rise[None]
        shine = (0.8 + 0.4 * self.noise(np.arange(self.h)[:, None], np.arange(self.w)[None] // 2, True))[..., None]
        surface = Surface(CLASSES["ego vehicle"], 0, 0, mask, np.full((self.h, self.w), 0.5, np.float32))
        self.scene.draw(surface, self.colour(30, 110) * shine, self.t)


def compose(rng: np.random.Generator, size: tuple[int, int], min_thickness: int = 16) -> Scene:
    """One scene with its depth and surfaces; see `render`."""
    h, w = size
    if min_thickness < 1 or h < 7 * min_thickness or w < 10 * min_thickness:
        raise UserError(
            f"street scenes of {h}x{w} have no room for objects of {min_thickness} pixels;"
            f" use at least {7 * min_thickness}x{10 * min_thickness} or a smaller min_thickness"
        )
    for _ in range(60):
        painter = _Painter(rng, (h, w), min_thickness)
        if painter.street():
            break
    else:
        raise UserError(f"no street of {h}x{w} with objects of {min_thickness} pixels found; use a larger size")
    if h >= 12 * min_thickness and rng.random() < 0.3:
        painter.hood()
    missing = int(np.clip(h * w / min_thickness**2 / 50, 5, 10))
    for _ in range(max(2 * missing, 16)):
        missing -= painter.place(KINDS[rng.choice(len(KINDS), p=ODDS)])
        if missing <= 0:
            break
    scene = painter.scene
    scene.image += rng.standard_normal((h, w, 1), dtype=np.float32) * 4 + rng.standard_normal(3, dtype=np.float32) * 3
    np.clip(scene.image, 0, 255, out=scene.image)
    return scene


def render(rng: np.random.Generator, size: tuple[int, int], min_thickness: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street.

    Args:
        rng: all randomness; the same state gives the same bytes.
        size: (height, width) in pixels, at least (7, 10) times `min_thickness`.
        min_thickness: every visible region of a label holds a disc of this diameter in pixels.

    Returns:
        image uint8 [H,W,3] RGB, and uint8 [H,W] label ids of Cityscapes (0..33, not train ids).

    Raises:
        UserError: the size has no room for objects that thick.
    """
    scene = compose(rng, size, min_thickness)
    return scene.image.astype(np.uint8), scene.labels


def write(
    root: str | os.PathLike,
    num_train: int,
    num_val: int,
    size: tuple[int, int] = (256, 512),
    seed: int = 0,
    *,
    min_thickness: int = 16,
    city: str = "synthetic",
) -> Path:
    """Write `num_train` + `num_val` scenes under `root` as Cityscapes is laid out (`leftImg8bit/{split}/{city}/...png`,
    `gtFine/{split}/{city}/..._gtFine_labelIds.png`).

    Scene i of a split depends on (seed, split, i) only: a larger set begins with the smaller one. Files that exist are
    overwritten.

    Returns:
        `root`.
    """
    root = Path(root)
    for split_index, (split, count) in enumerate((("train", num_train), ("val", num_val))):
        for i in range(count):
            image, labels = render(np.random.default_rng([seed, split_index, i]), size, min_thickness)
            cityscapes.write(root, split, city, f"{i:06d}_000000", image, labels)
    return root
