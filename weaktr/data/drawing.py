"""How the pictures of the embedded data set are drawn: surfaces, cloths, bodies, heads and distractors."""

import numpy as np
from PIL import Image, ImageDraw

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
def smooth_noise(rng, height, width, cells):
    """Zero-mean noise (height, width) of unit range, made of about `cells` blobs along the longer side."""
    longest = max(height, width)
    shape = (max(2, round(width * cells / longest)), max(2, round(height * cells / longest)))
    coarse = Image.fromarray(rng.uniform(-1, 1, shape[::-1]).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def blend(first, second, share):
    """Mix two RGB colours by a map (H, W) in 0..1 → (H, W, 3)."""
    first, second = np.float32(first), np.float32(second)
    return first + (second - first) * np.float32(share)[..., None]


def draw_background(rng, kind, height, width):
    """One of `BACKGROUNDS` as float RGB (height, width, 3)."""
    rows, columns = (np.mgrid[0:height, 0:width] / height).astype(np.float32)
    broad, fine = smooth_noise(rng, height, width, 5), smooth_noise(rng, height, width, 40)
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
        sky = np.where(trunks[..., None], blend((92, 70, 52), (60, 46, 36), np.clip(0.5 + fine, 0, 1)), leaves)
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
    return (sky * (1 - edge) + ground * edge) * rng.uniform(0.85, 1.08)


def draw_texture(rng, kind, height, width, colours, periods):
    """A cloth of two colours (height, width, 3) in one of `TEXTURES`, turned at random, with soft folds.

    periods: (least, most) pixels from stripe to stripe.
    """
    angle, period = rng.uniform(0, np.pi), rng.uniform(*periods)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (np.cos(angle) * x + np.sin(angle) * y) / period, (np.cos(angle) * y - np.sin(angle) * x) / period
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
        share = (smooth_noise(rng, height, width, 126 / np.mean(periods)) > 0.15).astype(float)
    return blend(*colours, share) * (1 + 0.12 * smooth_noise(rng, height, width, 8))[..., None]


def to_canvas(pixels):
    """A float surface (H, W, 3) as an image of the supersampled canvas' size."""
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.resize((image.width * SUPERSAMPLING, image.height * SUPERSAMPLING), Image.Resampling.BILINEAR)


# ── Shapes ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Brush:
    """Draws shapes given in an animal's own coordinates (1 = half its length, y down) on image and label map."""

    def __init__(self, image, labels, value, centre, scale, angle=0.0, mirror=False):
        self.image, self.labels, self.value = image, labels, value
        self.centre, self.scale, self.mirror = np.asarray(centre, float), scale, -1 if mirror else 1
        self.turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def polygon(self, points, fill):
        """Fill a polygon (n, 2) with an RGB colour or with a texture image of the canvas' size."""
        points = (np.asarray(points, float) * (self.mirror, 1)) @ self.turn.T * self.scale + self.centre
        outline = [tuple(point) for point in points]
        if isinstance(fill, Image.Image):
            mask = Image.new("L", self.image.size)
            ImageDraw.Draw(mask).polygon(outline, fill=255)
            self.image.paste(fill, mask=mask)
        else:
            ImageDraw.Draw(self.image).polygon(outline, fill=tuple(int(channel) for channel in fill))
        if self.value is not None:
            ImageDraw.Draw(self.labels).polygon(outline, fill=self.value)

    def ellipse(self, x, y, rx, ry, fill, power=2.0, lean=0.0):
        """A superellipse: power 2 is an ellipse, 4 a rounded box; `lean` turns it (radians)."""
        t = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        dx = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** (2 / power) * rx
        dy = np.sign(np.sin(t)) * np.abs(np.sin(t)) ** (2 / power) * ry
        c, s = np.cos(lean), np.sin(lean)
        self.polygon(np.stack([x + c * dx - s * dy, y + s * dx + c * dy], 1), fill)


def draw_body(brush, shape, cloth, trim):
    """Draw a body in `cloth` with feet and tail in `trim`; returns where the head belongs (x, y)."""
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


def draw_head(brush, name, x, y, r, fur):
    """Draw the head of class `name`, of radius `r`, at (x, y), in the colour of the animal's fur.

    Nothing in a face is far from the fur in colour: a patch that is like no other attends to itself alone, outshines
    the animal in its CAM, and no refinement spreads it.
    """
    dark = fur * 0.72

    def soft(fill):
        return fur + FACE_CONTRAST * (np.asarray(fill) - fur)

    def dot(dx, dy, rx, ry, fill, lean=0.0):
        brush.ellipse(x + dx * r, y + dy * r, rx * r, ry * r, soft(fill), lean=lean)

    def eyes(spread=0.36, height=-0.12, size=0.13):
        for side in (-spread, spread):
            dot(side, height, size, size, (24, 24, 28))

    if name == "cat":
        for side in (-1, 1):
            brush.polygon([(x + side * p * r, y + q * r) for p, q in ((0.1, -0.7), (1.0, -1.45), (1.05, -0.1))], dark)
        dot(0, 0, 1.0, 0.88, fur)
        dot(0, 0.32, 0.56, 0.42, (255, 226, 190))
        dot(0, 0.2, 0.16, 0.12, (226, 90, 40))
        eyes()
    elif name == "rabbit":
        for side in (-0.42, 0.42):
            dot(side, -1.25, 0.3, 0.85, fur, lean=side * 0.5)
            dot(side, -1.2, 0.15, 0.55, (244, 150, 164), lean=side * 0.5)
        dot(0, 0, 0.9, 0.86, fur)
        dot(0, 0.34, 0.5, 0.36, (250, 248, 250))
        dot(0, 0.22, 0.17, 0.12, (236, 90, 110))
        eyes()
    elif name == "lion":
        for t in np.arange(9) * 2 * np.pi / 9:
            dot(0.8 * np.cos(t), 0.8 * np.sin(t), 0.46, 0.46, dark)
        dot(0, 0, 0.78, 0.76, fur)
        dot(0, 0.3, 0.26, 0.19, (90, 44, 24))
        eyes(0.32)
    elif name == "pig":
        for side in (-1, 1):
            brush.polygon([(x + side * p * r, y + q * r) for p, q in ((0.2, -0.8), (1.1, -1.15), (0.95, -0.15))], dark)
        dot(0, 0, 0.98, 0.9, fur)
        dot(0, 0.28, 0.58, 0.44, (248, 148, 170))
        for side in (-0.22, 0.22):
            dot(side, 0.28, 0.11, 0.17, (120, 40, 60))
        eyes(0.42, -0.3, 0.11)
    elif name == "bear":
        for side in (-0.72, 0.72):
            dot(side, -0.72, 0.44, 0.44, dark)
        dot(0, 0, 1.0, 0.95, fur)
        dot(0, 0.3, 0.62, 0.52, (98, 62, 42))
        dot(0, 0.12, 0.22, 0.16, (24, 18, 18))
        eyes(0.42, -0.28)
    elif name == "elephant":
        for side in (-1.05, 1.05):
            dot(side, -0.1, 0.68, 0.82, fur)
            dot(side, -0.1, 0.4, 0.55, dark)
        dot(0, 0, 0.8, 0.85, fur)
        dot(0, 0.7, 0.3, 0.85, dark)
        eyes(0.4, -0.25, 0.11)
    elif name == "owl":
        for side in (-1, 1):
            brush.polygon([(x + side * p * r, y + q * r) for p, q in ((0.1, -0.75), (0.9, -1.2), (0.92, -0.2))], dark)
        dot(0, 0, 1.0, 0.92, fur)
        for side in (-0.45, 0.45):
            dot(side, -0.1, 0.5, 0.5, (252, 226, 110))
            dot(side, -0.1, 0.22, 0.22, (24, 24, 28))
        brush.polygon([(x + p * r, y + q * r) for p, q in ((-0.2, 0.2), (0.2, 0.2), (0, 0.72))], soft((240, 150, 40)))
    elif name == "parrot":
        crest = ((-0.55, -0.6), (-0.85, -1.5), (0.1, -1.05), (0.55, -1.6), (0.6, -0.6))
        brush.polygon([(x + p * r, y + q * r) for p, q in crest], dark)
        dot(0, 0, 0.92, 0.92, fur)
        beak = ((0.35, -0.55), (1.5, 0.05), (1.2, 0.8), (0.35, 0.55))
        brush.polygon([(x + p * r, y + q * r) for p, q in beak], soft((236, 70, 48)))
        dot(0.05, -0.2, 0.34, 0.34, (250, 250, 244))
        dot(0.1, -0.2, 0.17, 0.17, (24, 24, 28))
    else:
        raise ValueError(f"there is no head named {name!r}")


def draw_distractor(rng, image, labels, cloth):
    """A cushion, stone, bush or ball somewhere on the lower part of the picture; part of the background."""
    width, height = image.size
    centre = rng.uniform(0, width), rng.uniform(0.35, 1.0) * height
    brush = Brush(image, labels, None, centre, rng.uniform(9, 17) * SUPERSAMPLING, rng.uniform(-0.5, 0.5))
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


def random_cloth(rng, width, height, texture=None, colours=None, *, periods, contrast=1.0):
    """A texture image for a scene of (width, height), on the canvas, and its first colour, RGB.

    periods: as for `draw_texture`. contrast: of the two colours, as a share of what `CLOTHES` has.
    """
    first, second = CLOTHES[rng.integers(len(CLOTHES)) if colours is None else colours][rng.permutation(2)]
    colours = np.stack([first, first + contrast * (second - first)])
    return to_canvas(draw_texture(rng, texture or rng.choice(TEXTURES), height, width, colours, periods)), first


def finish(rng, image):
    """Reduce the canvas to its final size, with a little sensor noise and a random exposure."""
    pixels = np.asarray(image.reduce(SUPERSAMPLING), np.float32) * rng.uniform(0.88, 1.1) + rng.normal(0, 3.0, 3)
    return np.clip(pixels + 2.5 * rng.standard_normal(pixels.shape, np.float32), 0, 255).astype(np.uint8)
