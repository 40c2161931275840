"""How the pictures of the embedded data set are drawn: surfaces, cloths, bodies, heads and distractors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Colour = ArrayLike  # red, green and blue, 0…255
Points = Sequence[tuple[float, float]] | NDArray[np.float64]  # (n, 2), x before y

SUPERSAMPLING = 2  # shapes are drawn at this multiple of the final size
BACKGROUNDS = ("meadow", "snow", "desert", "forest", "barn", "sea")
BODIES = ("standing", "sitting", "perched", "block", "long", "fish")
TEXTURES = ("plain", "stripes", "hoops", "dots", "checks", "patches")
FACE_CONTRAST = 0.4  # 0: a face of fur alone, 1: snow-white muzzles and black eyes

# RGB pairs for bodies, cushions and balls; every class has one that it prefers
CLOTHES = np.array(
    [
        [(222, 84, 72), (250, 222, 170)],
        [(60, 120, 190), (220, 232, 240)],
        [(240, 180, 60), (150, 80, 40)],
        [(104, 76, 150), (224, 190, 236)],
        [(70, 150, 120), (230, 240, 200)],
        [(120, 90, 70), (226, 200, 166)],
        [(60, 66, 84), (190, 196, 206)],
        [(226, 120, 160), (255, 236, 240)],
    ],
    dtype=float,
)


# ── Surfaces ──────────────────────────────────────────────────────────────────────────────────────────────────────
def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: float) -> NDArray[np.float32]:
    """Zero-mean noise (height, width) of unit range, made of about `cells` blobs along the longer side."""
    longest = max(height, width)
    rows = max(2, round(height * cells / longest))
    columns = max(2, round(width * cells / longest))
    coarse = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def blend(first: Colour, second: Colour, share: ArrayLike) -> NDArray[np.float32]:
    """Two RGB colours, mixed by a map (H, W) in 0…1, as float RGB (H, W, 3)."""
    start = np.asarray(first, np.float32)
    end = np.asarray(second, np.float32)
    return start + (end - start) * np.asarray(share, np.float32)[..., None]


def draw_background(rng: np.random.Generator, kind: str, height: int, width: int) -> NDArray[np.floating]:
    """One of `BACKGROUNDS` as float RGB (height, width, 3)."""
    rows, columns = (np.mgrid[0:height, 0:width] / height).astype(np.float32)
    broad = smooth_noise(rng, height, width, 5)
    fine = smooth_noise(rng, height, width, 40)
    horizon = rng.uniform(0.15, 0.4) + 0.04 * np.sin(columns * rng.uniform(2, 6) + rng.uniform(0, 6))
    sky = blend((126, 182, 230), (222, 238, 250), np.clip(rows * 2.2 + 0.25 * broad, 0, 1))
    if kind == "meadow":
        ground = blend((128, 176, 78), (70, 124, 52), np.clip(rows + 0.3 * fine + 0.2 * broad, 0, 1))
    elif kind == "snow":
        ground = blend((246, 250, 255), (186, 206, 228), np.clip(0.35 + 0.5 * broad + 0.1 * fine, 0, 1))
    elif kind == "desert":
        dunes = 0.5 + 0.5 * np.sin(rows * rng.uniform(16, 30) + 3 * columns + 2 * broad)
        ground = blend((236, 204, 142), (206, 160, 98), np.clip(0.7 * dunes + 0.2 * fine, 0, 1))
    elif kind == "forest":
        trunks = np.sin(columns * rng.uniform(18, 30) + 1.5 * broad) > 0.55
        leaves = blend((62, 104, 66), (28, 62, 44), np.clip(0.5 + 0.6 * fine, 0, 1))
        bark = blend((92, 70, 52), (60, 46, 36), np.clip(0.5 + fine, 0, 1))
        sky = np.where(trunks[..., None], bark, leaves)
        horizon = horizon + 0.3
        ground = blend((104, 112, 62), (74, 82, 44), np.clip(0.5 + 0.5 * fine + 0.3 * broad, 0, 1))
    elif kind == "barn":
        planks = np.abs((columns * rng.uniform(5, 8)) % 1 - 0.5) > 0.46
        sky = blend((168, 92, 70), (128, 62, 50), np.clip(0.4 + 0.3 * fine + 0.6 * planks, 0, 1))
        horizon = horizon + 0.2
        ground = blend((206, 174, 104), (160, 124, 66), np.clip(0.5 + 0.7 * fine, 0, 1))
    else:  # sea
        ripples = 0.5 + 0.5 * np.sin(rows * rng.uniform(50, 70) + 4 * broad + 6 * columns)
        ground = blend((64, 142, 176), (138, 200, 214), np.clip(0.6 * ripples + 0.3 * broad, 0, 1))
    edge = np.clip((rows - horizon) * height / 3, 0, 1)[..., None]
    pixels: NDArray[np.floating] = sky * (1 - edge) + ground * edge
    return pixels * rng.uniform(0.85, 1.08)


def draw_texture(
    rng: np.random.Generator,
    kind: str,
    height: int,
    width: int,
    colours: NDArray[np.float64],
    periods: tuple[float, float],
) -> NDArray[np.floating]:
    """A cloth in one of `TEXTURES`, turned at random, with soft folds.

    Args:
        rng: Where the angle, the period and the folds are drawn from.
        kind: The texture.
        height: In pixels.
        width: In pixels.
        colours: Of the cloth, two (2, 3).
        periods: Least and most pixels from stripe to stripe.

    Returns:
        Float RGB (height, width, 3).
    """
    angle = rng.uniform(0, np.pi)
    period = rng.uniform(*periods)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u = (np.cos(angle) * x + np.sin(angle) * y) / period
    v = (np.cos(angle) * y - np.sin(angle) * x) / period
    if kind == "plain":
        share = np.zeros((height, width))
    elif kind == "stripes":
        share = (np.abs(u % 1 - 0.5) < 0.25).astype(float)
    elif kind == "hoops":
        share = (np.abs((y / period * 1.3) % 1 - 0.5) < 0.2).astype(float)
    elif kind == "dots":
        share = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.085).astype(float)
    elif kind == "checks":
        share = ((np.floor(u * 1.4) + np.floor(v * 1.4)) % 2).astype(float)
    else:  # patches
        share = (smooth_noise(rng, height, width, float(126 / np.mean(periods))) > 0.15).astype(float)
    first, second = colours
    folds = 1 + 0.12 * smooth_noise(rng, height, width, 8)
    return blend(first, second, share) * folds[..., None]


def to_canvas(pixels: NDArray[np.floating]) -> Image.Image:
    """A float surface (H, W, 3) as an image of the supersampled canvas' size."""
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    size = (image.width * SUPERSAMPLING, image.height * SUPERSAMPLING)
    return image.resize(size, Image.Resampling.BILINEAR)


# ── Shapes ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Brush:
    """Draws shapes given in an animal's own coordinates (1 = half its length, y down) on image and label map.

    Args:
        image: The canvas.
        labels: The label map of the canvas' size.
        value: What the shapes are on the label map; None leaves it as it is.
        centre: Of the animal, in pixels of the canvas.
        scale: Half the animal's length, in pixels of the canvas.
        angle: By which it is turned, in radians.
        mirror: Whether it looks the other way.
    """

    def __init__(
        self,
        image: Image.Image,
        labels: Image.Image,
        value: int | None,
        centre: ArrayLike,
        scale: float,
        angle: float = 0.0,
        mirror: bool = False,
    ) -> None:
        self.image = image
        self.labels = labels
        self.value = value
        self.centre = np.asarray(centre, float)
        self.scale = scale
        self.mirror = -1 if mirror else 1
        self.turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def polygon(self, points: Points, fill: Colour | Image.Image) -> None:
        """Fill a polygon with an RGB colour or with a texture image of the canvas' size."""
        mirrored = np.asarray(points, float) * (self.mirror, 1)
        placed = mirrored @ self.turn.T * self.scale + self.centre
        outline = [tuple(point) for point in placed]
        if isinstance(fill, Image.Image):
            mask = Image.new("L", self.image.size)
            ImageDraw.Draw(mask).polygon(outline, fill=255)
            self.image.paste(fill, mask=mask)
        else:
            colour = tuple(int(channel) for channel in np.asarray(fill))
            ImageDraw.Draw(self.image).polygon(outline, fill=colour)
        if self.value is not None:
            ImageDraw.Draw(self.labels).polygon(outline, fill=self.value)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Colour | Image.Image,
        power: float = 2.0,
        lean: float = 0.0,
    ) -> None:
        """A superellipse: power 2 is an ellipse, 4 a rounded box; `lean` turns it (radians)."""
        t = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        dx = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / power) * rx
        dy = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / power) * ry
        c = np.cos(lean)
        s = np.sin(lean)
        self.polygon(np.stack([x + c * dx - s * dy, y + s * dx + c * dy], 1), fill)


# ── Bodies ────────────────────────────────────────────────────────────────────────────────────────────────────────
def draw_body(brush: Brush, shape: str, cloth: Image.Image, trim: Colour) -> tuple[float, float]:
    """Draw one of `BODIES`.

    Args:
        brush: Of the animal.
        shape: The body.
        cloth: What the body is made of, a texture of the canvas' size.
        trim: Colour of feet and tail.

    Returns:
        Where the head belongs (x, y), in the animal's own coordinates.
    """
    if shape == "standing":
        for x in (-0.62, -0.35, 0.22, 0.48):
            brush.ellipse(x, 0.52, 0.12, 0.32, trim, power=4)
        brush.ellipse(-0.92, -0.22, 0.26, 0.08, trim, lean=0.7)
        brush.ellipse(-0.08, 0.08, 0.82, 0.46, cloth, power=2.4)
        return 0.62, -0.3
    if shape == "sitting":
        brush.ellipse(-0.62, 0.68, 0.36, 0.11, trim, lean=-0.4)
        brush.ellipse(0.0, 0.35, 0.56, 0.6, cloth, power=2.3)
        for x in (-0.3, 0.3):
            brush.ellipse(x, 0.9, 0.22, 0.12, trim)
        return 0.0, -0.42
    if shape == "perched":
        brush.polygon([(-0.55, 0.35), (-1.0, 0.95), (-0.6, 1.0), (-0.15, 0.6)], trim)
        brush.ellipse(0.0, 0.22, 0.46, 0.72, cloth, lean=0.35)
        brush.ellipse(-0.2, 0.3, 0.2, 0.5, trim, lean=0.35)
        return 0.26, -0.5
    if shape == "block":
        for x in (-0.45, 0.42):
            brush.ellipse(x, 0.72, 0.2, 0.26, trim, power=5)
        brush.ellipse(-0.02, 0.18, 0.72, 0.58, cloth, power=4.5)
        return 0.3, -0.44
    if shape == "long":
        for x in (-0.75, -0.55, 0.45, 0.65):
            brush.ellipse(x, 0.34, 0.09, 0.24, trim, power=4)
        brush.ellipse(-0.05, 0.05, 0.95, 0.28, cloth, power=3)
        return 0.82, -0.2
    brush.polygon([(-0.6, 0.0), (-1.0, -0.4), (-0.9, 0.05), (-1.0, 0.5)], trim)  # fish
    brush.ellipse(0.0, 0.05, 0.8, 0.44, cloth)
    brush.polygon([(-0.2, -0.35), (0.1, -0.72), (0.25, -0.35)], trim)
    return 0.66, 0.0


# ── Heads ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Face:
    """Draws the parts of a head, given in units of its radius from its middle, in colours near the animal's fur.

    Nothing in a face is far from the fur in colour: a patch that is like no other attends to itself alone, outshines
    the animal in its CAM, and no refinement spreads it.
    """

    def __init__(self, brush: Brush, x: float, y: float, radius: float, fur: NDArray[np.float64]) -> None:
        self.brush = brush
        self.x = x
        self.y = y
        self.radius = radius
        self.fur = fur
        self.dark = fur * 0.72

    def soft(self, colour: Colour) -> NDArray[np.float64]:
        """The colour, brought near the fur's."""
        return self.fur + FACE_CONTRAST * (np.asarray(colour) - self.fur)

    def dot(self, dx: float, dy: float, rx: float, ry: float, colour: Colour, lean: float = 0.0) -> None:
        """An ellipse around (dx, dy)."""
        x = self.x + dx * self.radius
        y = self.y + dy * self.radius
        self.brush.ellipse(x, y, rx * self.radius, ry * self.radius, self.soft(colour), lean=lean)

    def polygon(self, points: Points, colour: Colour) -> None:
        """A polygon in a colour as it is."""
        moved = [(self.x + dx * self.radius, self.y + dy * self.radius) for dx, dy in points]
        self.brush.polygon(moved, colour)

    def ears(self, points: Points) -> None:
        """A dark ear on the right, and its mirror image."""
        for side in (-1, 1):
            self.polygon([(side * dx, dy) for dx, dy in points], self.dark)

    def eyes(self, spread: float = 0.36, height: float = -0.12, size: float = 0.13) -> None:
        """Two round eyes."""
        for side in (-spread, spread):
            self.dot(side, height, size, size, (24, 24, 28))


def _cat(face: Face) -> None:
    face.ears([(0.1, -0.7), (1.0, -1.45), (1.05, -0.1)])
    face.dot(0, 0, 1.0, 0.88, face.fur)
    face.dot(0, 0.32, 0.56, 0.42, (255, 226, 190))
    face.dot(0, 0.2, 0.16, 0.12, (226, 90, 40))
    face.eyes()


def _rabbit(face: Face) -> None:
    for side in (-0.42, 0.42):
        face.dot(side, -1.25, 0.3, 0.85, face.fur, lean=side * 0.5)
        face.dot(side, -1.2, 0.15, 0.55, (244, 150, 164), lean=side * 0.5)
    face.dot(0, 0, 0.9, 0.86, face.fur)
    face.dot(0, 0.34, 0.5, 0.36, (250, 248, 250))
    face.dot(0, 0.22, 0.17, 0.12, (236, 90, 110))
    face.eyes()


def _lion(face: Face) -> None:
    for angle in np.arange(9) * 2 * np.pi / 9:
        face.dot(0.8 * np.cos(angle), 0.8 * np.sin(angle), 0.46, 0.46, face.dark)
    face.dot(0, 0, 0.78, 0.76, face.fur)
    face.dot(0, 0.3, 0.26, 0.19, (90, 44, 24))
    face.eyes(0.32)


def _pig(face: Face) -> None:
    face.ears([(0.2, -0.8), (1.1, -1.15), (0.95, -0.15)])
    face.dot(0, 0, 0.98, 0.9, face.fur)
    face.dot(0, 0.28, 0.58, 0.44, (248, 148, 170))
    for side in (-0.22, 0.22):
        face.dot(side, 0.28, 0.11, 0.17, (120, 40, 60))
    face.eyes(0.42, -0.3, 0.11)


def _bear(face: Face) -> None:
    for side in (-0.72, 0.72):
        face.dot(side, -0.72, 0.44, 0.44, face.dark)
    face.dot(0, 0, 1.0, 0.95, face.fur)
    face.dot(0, 0.3, 0.62, 0.52, (98, 62, 42))
    face.dot(0, 0.12, 0.22, 0.16, (24, 18, 18))
    face.eyes(0.42, -0.28)


def _elephant(face: Face) -> None:
    for side in (-1.05, 1.05):
        face.dot(side, -0.1, 0.68, 0.82, face.fur)
        face.dot(side, -0.1, 0.4, 0.55, face.dark)
    face.dot(0, 0, 0.8, 0.85, face.fur)
    face.dot(0, 0.7, 0.3, 0.85, face.dark)
    face.eyes(0.4, -0.25, 0.11)


def _owl(face: Face) -> None:
    face.ears([(0.1, -0.75), (0.9, -1.2), (0.92, -0.2)])
    face.dot(0, 0, 1.0, 0.92, face.fur)
    for side in (-0.45, 0.45):
        face.dot(side, -0.1, 0.5, 0.5, (252, 226, 110))
        face.dot(side, -0.1, 0.22, 0.22, (24, 24, 28))
    beak = [(-0.2, 0.2), (0.2, 0.2), (0, 0.72)]
    face.polygon(beak, face.soft((240, 150, 40)))


def _parrot(face: Face) -> None:
    crest = [(-0.55, -0.6), (-0.85, -1.5), (0.1, -1.05), (0.55, -1.6), (0.6, -0.6)]
    face.polygon(crest, face.dark)
    face.dot(0, 0, 0.92, 0.92, face.fur)
    beak = [(0.35, -0.55), (1.5, 0.05), (1.2, 0.8), (0.35, 0.55)]
    face.polygon(beak, face.soft((236, 70, 48)))
    face.dot(0.05, -0.2, 0.34, 0.34, (250, 250, 244))
    face.dot(0.1, -0.2, 0.17, 0.17, (24, 24, 28))


HEADS = {
    "bear": _bear,
    "cat": _cat,
    "elephant": _elephant,
    "lion": _lion,
    "owl": _owl,
    "parrot": _parrot,
    "pig": _pig,
    "rabbit": _rabbit,
}


def draw_head(brush: Brush, name: str, x: float, y: float, radius: float, fur: NDArray[np.float64]) -> None:
    """Draw the head of a class in the colour of the animal's fur, in the animal's own coordinates.

    Raises:
        ValueError: No head has that name.
    """
    if name not in HEADS:
        raise ValueError(f"no head is named {name!r}")
    HEADS[name](Face(brush, x, y, radius, fur))


# ── The rest of a scene ───────────────────────────────────────────────────────────────────────────────────────────
def draw_distractor(rng: np.random.Generator, image: Image.Image, labels: Image.Image, cloth: Image.Image) -> None:
    """A cushion, stone, bush or ball somewhere on the lower part of the picture; part of the background."""
    width, height = image.size
    x = rng.uniform(0, width)
    y = rng.uniform(0.35, 1.0) * height
    scale = rng.uniform(9, 17) * SUPERSAMPLING
    brush = Brush(image, labels, None, (x, y), scale, angle=rng.uniform(-0.5, 0.5))
    kind = rng.choice(("cushion", "stone", "bush", "ball"))
    if kind == "cushion":
        brush.ellipse(0, 0, 1.1, 0.75, cloth, power=5)
    elif kind == "stone":
        grey = rng.uniform(110, 170)
        corners = np.sort(rng.uniform(0, 2 * np.pi, 7))
        points = np.stack([np.cos(corners) * 1.1, np.sin(corners) * 0.7], 1)
        brush.polygon(points, (grey, grey, grey + 6))
        brush.polygon(points * 0.6 - (0.1, 0.15), (grey + 25, grey + 25, grey + 28))
    elif kind == "bush":
        for dx, dy in rng.uniform(-0.7, 0.7, (6, 2)):
            brush.ellipse(dx, dy * 0.6, 0.55, 0.5, (60 + 40 * dy, 120 + 40 * dx, 60))
    else:
        colours = CLOTHES[rng.integers(len(CLOTHES))]
        brush.ellipse(0, 0, 0.8, 0.8, colours[0])
        brush.ellipse(0, 0, 0.3, 0.8, colours[1], lean=0.4)


def random_cloth(
    rng: np.random.Generator,
    width: int,
    height: int,
    texture: str | None = None,
    colours: int | None = None,
    *,
    periods: tuple[float, float],
    contrast: float = 1.0,
) -> tuple[Image.Image, NDArray[np.float64]]:
    """A cloth for a scene.

    Args:
        rng: Where everything that is not given is drawn from.
        width: Of the scene, in pixels.
        height: Of the scene, in pixels.
        texture: One of `TEXTURES`, or any.
        colours: Which of `CLOTHES`, or any; which of its two colours comes first is drawn.
        periods: Least and most pixels from stripe to stripe.
        contrast: Of the two colours, as a share of what `CLOTHES` has.

    Returns:
        A texture image of the canvas' size, and its first colour, RGB.
    """
    if colours is None:
        colours = int(rng.integers(len(CLOTHES)))
    first, second = CLOTHES[colours][rng.permutation(2)]
    both = np.stack([first, first + contrast * (second - first)])
    if texture is None:
        texture = str(rng.choice(TEXTURES))
    return to_canvas(draw_texture(rng, texture, height, width, both, periods)), first


def finish(rng: np.random.Generator, image: Image.Image) -> NDArray[np.uint8]:
    """Reduce the canvas to its final size, with a random exposure, a random tint and a little sensor noise."""
    reduced = np.asarray(image.reduce(SUPERSAMPLING), np.float32)
    exposed = reduced * rng.uniform(0.88, 1.1) + rng.normal(0, 3.0, 3)
    noise = 2.5 * rng.standard_normal(exposed.shape, np.float32)
    return np.clip(exposed + noise, 0, 255).astype(np.uint8)
