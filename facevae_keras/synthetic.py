"""Built-in faces: portraits that NumPy paints, in CelebA's own layout.

Photos of faces cannot ship with a tutorial, so this module makes people up.
Their attributes are true because they are what was drawn. The file reads the
way a painter works: choose a person; outline the head and set up the lamp;
paint the background, the neck, a height field of the face under the lamp,
its features, the hair, what is worn; and last take the picture.

Head coordinates are pixels from the point between the eyes, ``u`` to the
right and ``v`` down. Light is linear (the square of a pixel value from 0 to
1) in planes of shape (3, height, width).
"""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image
from tqdm import tqdm

from facevae_keras.files import remove_leftovers, written_whole

# The comment in the JPEG files, by which a drawn face is known.
_DRAWN = b"drawn by facevae_keras"

WIDTH, HEIGHT = 178, 218
EYES_X, EYES_Y = 88.5, 111.0  # where CelebA's alignment puts the eyes

ATTRIBUTES = tuple(
    """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs
    Big_Lips Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows
    Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup
    High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
    Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns
    Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat
    Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young""".split()
)

# ------------------------------------------------------------- the palette
# fmt: off
SKINS = np.float32([
    (242, 204, 182), (229, 184, 156), (222, 176, 145), (210, 163, 128),
    (186, 137, 101), (152, 106, 76), (118, 80, 58), (90, 60, 46)])
HAIR_COLOURS = {
    "black": [(30, 25, 25), (38, 31, 30), (24, 22, 26)],
    "brown": [(92, 62, 42), (74, 48, 34), (112, 78, 52), (98, 58, 38)],
    "blond": [(204, 168, 112), (222, 190, 136), (190, 150, 92)],
    "auburn": [(134, 66, 36), (156, 80, 42), (112, 50, 34)],
    "gray": [(158, 156, 155), (196, 194, 190), (134, 133, 135)]}
IRISES = [(74, 46, 30), (58, 36, 26), (104, 72, 42), (96, 104, 72),
          (92, 122, 146), (112, 132, 140)]
LIPSTICKS = [(170, 40, 52), (188, 70, 84), (150, 34, 62), (206, 74, 86)]
EYE_SHADOWS = [(112, 74, 66), (92, 82, 98), (126, 88, 58), (84, 66, 60)]
CLOTHES = [(44, 52, 72), (36, 36, 40), (118, 46, 48), (88, 100, 84),
           (150, 116, 90), (122, 134, 152), (70, 62, 84), (56, 84, 88),
           (206, 200, 190), (196, 150, 142)]
# The top and the bottom of a blurred scene, and how mottled it is.
BACKGROUNDS = [
    ((132, 134, 138), (96, 98, 104), 5), ((188, 186, 182), (150, 148, 146), 5),
    ((70, 76, 88), (42, 46, 56), 5), ((118, 132, 150), (82, 92, 108), 6),
    ((160, 136, 110), (94, 74, 60), 16), ((120, 92, 72), (60, 46, 40), 18),
    ((176, 196, 212), (112, 128, 96), 14), ((124, 142, 104), (72, 88, 62), 18),
    ((196, 184, 160), (142, 124, 100), 12), ((46, 40, 44), (28, 26, 30), 12),
    ((150, 168, 172), (110, 120, 122), 10), ((128, 100, 98), (80, 64, 68), 12)]

# Thickness on top and at the sides, where the hair ends, how strands run,
# how much of the face it leaves open, and how common it is (men, women).
STYLES = {name: SimpleNamespace(top=top, side=side, end=end, flow=flow,
                                cover=cover, men=men, women=women)
          for name, top, side, end, flow, cover, men, women in [
    ("bald", 0, 0, -99, "radial", 1.0, 16, 0),
    ("buzz", 0, -1, 2, "radial", 0.93, 8, 0),
    ("crop", 9, 4, 4, "brush", 0.92, 22, 0),
    ("side part", 11, 5, 6, "fan", 0.91, 18, 0),
    ("quiff", 17, 3, 3, "brush", 0.91, 12, 0),
    ("receding", 6, 5, 8, "radial", 0.93, 15, 0),
    ("pixie", 10, 6, 20, "fan", 0.87, 0, 6),
    ("bob", 11, 12, 62, "fan", 0.87, 0, 16),
    ("shoulder", 11, 12, 92, "fan", 0.88, 6, 18),
    ("long", 11, 11, 150, "fan", 0.88, 0, 30),
    ("afro", 24, 20, 10, "curl", 0.93, 4, 3),
    ("curls", 16, 17, 80, "curl", 0.88, 3, 9),
    ("bun", 6, 2, 8, "radial", 0.93, 0, 9),
    ("ponytail", 6, 2, 8, "radial", 0.93, 0, 9)]}
# fmt: on

# ----------------------------------------------------- 1. choosing a person


def sample_person(rng, lipstick_on_men=False):
    """Make somebody up: all that will be drawn, and nothing more.

    Smile and open mouth are drawn independently of each other and of all
    the rest, so that neither can be told from anything else.

    Args:
        rng: a ``numpy.random.Generator``.
        lipstick_on_men: whether men wear lipstick as often as women; if not,
            they never do.

    Returns:
        A ``SimpleNamespace`` with one value per trait.

    Example:
        >>> sample_person(np.random.default_rng(1)).smiling in (True, False)
        True
    """
    within = rng.uniform

    def chance(probability):
        return bool(rng.random() < probability)

    def one_of(options):
        return options[int(rng.integers(len(options)))]

    def weighted(**weights):
        shares = np.cumsum([*weights.values()])
        return [*weights][int(np.sum(rng.random() * shares[-1] >= shares))]

    p = SimpleNamespace()
    p.smiling, p.open = chance(0.5), chance(0.45)
    smile = within(0.6, 1.05) if p.smiling else within(-0.36, 0.18)
    p.joy, p.gloom = max(smile, 0.0), max(-smile, 0.0)
    p.gap = within(0.45, 1.0) if p.open else 0.0
    p.male = chance(0.45)
    p.young = chance(0.74)
    p.old = 0.0 if p.young else within(0.45, 1.0)

    # The head and the features of the face.
    p.scale, p.turn = within(0.96, 1.04), within(-1, 1)
    p.roll, p.shift = rng.normal() * 0.045, (within(-1.5, 1.5), within(-2, 1))
    p.chubby = chance(0.16)
    p.width = within(1.1, 1.17) if p.chubby else within(0.9, 1.03)
    p.jaw = within(0.98, 1.1) if p.male else within(0.86, 0.98)
    p.chin = within(-5, 4) + 2 * p.male
    p.pale = chance(0.1)
    p.tone = within(0.9, 3.6) if chance(0.65) else within(3, 7)
    p.tone = within(0, 0.25) if p.pale else p.tone
    p.undertone = rng.normal() * 0.02
    p.rosy = p.tone < 4 and chance(0.3)
    p.big_nose = chance(0.3 if p.male else 0.12)
    p.nose = within(1.22, 1.42) if p.big_nose else within(0.8, 1.04)
    p.nose_end, p.bulb = within(20.5, 25.5), within(0.8, 1.2)
    p.big_lips = chance(0.18 if p.male else 0.32)
    p.lips = within(1.5, 1.8) if p.big_lips else within(0.75, 1.1)
    p.mouth, p.mouth_width = 41.5 + 0.3 * p.chin, within(0.93, 1.07)
    p.narrow_eyes = chance(0.16)
    p.eye_open = within(0.5, 0.6) if p.narrow_eyes else within(0.9, 1.15)
    p.eye_size, p.eye_tilt = within(0.93, 1.1), within(-0.3, 1.3)
    p.bags, p.gaze = chance(0.1 + 0.5 * p.old), within(-1, 1)
    p.iris = one_of(IRISES[:3] if p.tone > 3.2 else IRISES)
    p.bushy = chance(0.4 if p.male else 0.06)
    p.arched = not p.bushy and chance(0.1 if p.male else 0.5)
    p.brow = within(1.5, 1.8) if p.bushy else within(0.7, 1.0)
    p.brow_height = within(-14.2, -11.6)

    # Hair, beard, make-up, and what is worn.
    p.style = weighted(
        **{k: s.men if p.male else s.women for k, s in STYLES.items()}
    )
    p.hair = weighted(black=30, brown=34, blond=26, auburn=8, gray=1)
    if p.tone > 3.4:
        p.hair = weighted(black=60, brown=26, blond=2, gray=1)
    if p.old and chance(0.3 + 0.5 * p.old):
        p.hair = "gray"
    p.hair_colour = np.add(one_of(HAIR_COLOURS[p.hair]), within(-6, 6))
    p.part, p.volume = within(-1, 1), within(0.75, 1.25)
    p.strands, p.wavy = int(rng.integers(256)), chance(0.4)
    fan = STYLES[p.style].flow == "fan"
    p.bangs = fan and chance(0.15 if p.male else 0.28)
    beards = dict(none=40, stubble=20, mustache=13, goatee=14, full=16)
    p.beard = weighted(**beards) if p.male else "none"
    p.lipstick = (lipstick_on_men or not p.male) and chance(0.55)
    p.makeup = not p.male and chance(0.45)
    p.lipstick_colour, p.lid_colour = one_of(LIPSTICKS), one_of(EYE_SHADOWS)
    p.glasses = weighted(none=84, round=8, square=8)
    p.glasses_colour = one_of([(34, 30, 30), (70, 46, 32), (92, 92, 98)])
    p.earrings = not p.male and chance(0.4)
    p.earring = weighted(hoop=1, drop=2)
    p.metal = one_of([(226, 190, 110), (214, 216, 222)])
    p.hat = weighted(none=90, beanie=4, cap=3.5, brim=4)
    p.clothes, p.hat_colour = one_of(CLOTHES), one_of(CLOTHES[:8])
    p.collar = weighted(crew=3, vee=4, suit=2)

    # Light and place.
    lamp = np.array([within(-1, 1), within(-0.75, -0.3), 0.9])
    p.lamp = [float(part) for part in lamp / np.linalg.norm(lamp)]
    p.rim = within(0.1, 0.5) if chance(0.4) else 0.0
    p.warmth, p.exposure = within(-0.06, 0.12), within(0.92, 1.05)
    p.background, p.scene = one_of(BACKGROUNDS), int(rng.integers(256))
    return p


def describe(person):
    """The attributes that a portrait of somebody truly shows.

    What a hat hides (a bald head, bangs, short hair) is not claimed.

    Args:
        person: what ``sample_person`` returned.

    Returns:
        A dict from attribute name to bool, one entry per drawn attribute.
    """
    p, style, bare = person, STYLES[person.style], person.hat == "none"
    hair = p.hair if style.end > 12 or (bare and p.style != "bald") else ""
    falls = style.flow == "fan" and style.end > 50
    curly = style.flow == "curl" and hair != ""
    return {
        "5_o_Clock_Shadow": p.beard == "stubble",
        "Arched_Eyebrows": p.arched,
        "Bags_Under_Eyes": p.bags,
        "Bald": p.style == "bald" and bare,
        "Bangs": p.bangs and bare,
        "Big_Lips": p.big_lips,
        "Big_Nose": p.big_nose,
        "Black_Hair": hair == "black",
        "Blond_Hair": hair == "blond",
        "Brown_Hair": hair == "brown",
        "Bushy_Eyebrows": p.bushy,
        "Chubby": p.chubby,
        "Eyeglasses": p.glasses != "none",
        "Goatee": p.beard == "goatee",
        "Gray_Hair": hair == "gray",
        "Heavy_Makeup": p.makeup,
        "Male": p.male,
        "Mouth_Slightly_Open": p.open,
        "Mustache": p.beard in ("mustache", "goatee", "full"),
        "Narrow_Eyes": p.narrow_eyes,
        "No_Beard": p.beard == "none",
        "Pale_Skin": p.pale,
        "Receding_Hairline": p.style == "receding" and bare,
        "Rosy_Cheeks": p.rosy,
        "Smiling": p.smiling,
        "Straight_Hair": falls and not p.wavy,
        "Wavy_Hair": curly or (falls and p.wavy),
        "Wearing_Earrings": p.earrings,
        "Wearing_Hat": not bare,
        "Wearing_Lipstick": p.lipstick,
        "Young": p.young,
    }


DRAWN_ATTRIBUTES = tuple(describe(sample_person(np.random.default_rng(0))))

# ------------------------------------------------- 2. brushes and the canvas


def ramp(x, low, high):
    """Smooth step from 0 at ``low`` to 1 at ``high`` (also downwards)."""
    t = (x - low) * (1 / (high - low))
    t = np.minimum(np.maximum(t, 0, out=t), 1, out=t)
    bend = 3 - 2 * t
    bend *= t
    bend *= t
    return bend


def bump(x, y, half_width, half_height):
    """Soft hill of height 1: nearly a Gaussian, but quick and finite."""
    hill = np.square(x * (0.5 / half_width))
    hill += np.square(y * (0.5 / half_height))
    hill = np.minimum(hill, 1, out=hill)
    hill -= 1
    hill *= hill
    hill *= hill
    return hill


def ridge(x, half_width):
    """Soft line of height 1 along ``x == 0``."""
    return bump(x, 0.0, half_width, 1.0)


def colour(rgb):
    """RGB 0..255 as linear light that broadcasts over planes."""
    return (np.array(rgb, np.float32).reshape(3, 1, 1) / 255) ** 2


def noise(seed, along, across):
    """A 512x512 texture of smooth noise that repeats every 256 pixels."""
    y, x = np.meshgrid(*[np.fft.fftfreq(256)] * 2, indexing="ij")
    white = np.random.default_rng(seed).normal(size=(256, 256))
    spread = np.exp(-2 * np.pi**2 * ((y * along) ** 2 + (x * across) ** 2))
    tile = np.fft.ifft2(np.fft.fft2(white) * spread).real
    return np.tile(tile / tile.std(), (2, 2)).astype(np.float32)


STRANDS = np.tanh(0.5 * noise(1, 45, 1.4) + 0.6 * noise(2, 45, 5))
CURLS = 0.7 * np.cos(2.8 * noise(4, 6, 6)) + 0.25 * noise(3, 3, 3)
CLOUDS, GRAIN = noise(5, 6, 6), noise(6, 0.6, 0.6)
SCENES = 0.7 * noise(7, 30, 22) + 0.3 * noise(8, 13, 11)


def look_up(texture, rows, columns):
    """Texture values at real coordinates."""
    places = columns.astype(np.int32) & 255
    if not np.isscalar(rows):
        rows = rows.astype(np.int32) & 255
    return texture.ravel().take(rows * 512 + places)


def piece(texture, offset):
    """A piece of a texture as large as the picture."""
    y, x = 3 * offset % 256, 7 * offset % 256
    return texture[y : y + HEIGHT, x : x + WIDTH]


class Canvas:
    """The picture so far, the coordinates of the head, and its outline.

    ``u, v`` are head coordinates, and ``f`` is ``u`` as the features see it
    (the far half of a turned face is narrower). ``x, y`` start from the
    middle of the head, whose outline lies ``outside`` pixels inwards or
    ``reach`` times nearer; ``half`` is the half width of the face.
    """

    def __init__(self, person):
        self.p = p = person
        self.image = np.empty((3, HEIGHT, WIDTH), np.float32)
        rgb = [np.interp(p.tone, range(8), plane) for plane in SKINS.T]
        self.skin = colour(np.add(rgb, np.multiply(rgb, p.undertone)
                                  * [1, 0, -1]))  # fmt: skip
        self.hair = colour(p.hair_colour)
        # Down and across the page, then along the head's own axes.
        self.down = np.arange(HEIGHT, dtype=np.float32)[:, None]
        self.across = np.arange(WIDTH, dtype=np.float32)
        self.down -= EYES_Y + p.shift[1]
        self.across -= EYES_X + p.shift[0]
        cos, self.sin = math.cos(p.roll) / p.scale, math.sin(p.roll)
        self.u = cos * self.across + self.sin * self.down
        self.v = cos * self.down - self.sin * self.across
        self.f = self.u + p.turn * (0.0045 * self.u * self.u - 1.6)
        self.x, self.y = self.u + 6 * p.turn, self.v - 12
        self.half = 43.5 * p.width + p.joy
        self.chin = 57 + p.chin + 3.5 * p.gap
        radius = np.sqrt(self.x**2 + self.y**2) + 1e-3
        self.angle = np.arctan2(np.abs(self.x), self.y)  # 0 is the chin
        edge = self.outline()[(self.angle * (576 / math.pi)).astype(np.int32)]
        self.outside, self.reach = radius - edge, radius / edge

    def outline(self):
        """Distance of the face's edge from its middle, chin to crown."""
        p, half, crown = self.p, self.half, 21.75 * (1 + self.p.width)
        jaw, soft = p.width * p.jaw, 3 * p.chubby
        corners = [(0, self.chin), (11 * p.jaw + soft, self.chin - 2),
                   (36 * jaw + soft, 34), (half * 0.985, 10), (half, -12),
                   (crown * 0.98, -36), (crown * 0.79, -59),
                   (0, -74)]  # fmt: skip
        x, y = np.array(corners).T
        steps = np.linspace(0, math.pi, 73)
        edge = np.interp(steps, np.arctan2(x, y), np.hypot(x, y))
        for _ in range(3):
            edge = np.convolve(np.pad(edge, 3, "reflect"), np.ones(7) / 7)[6:-6]
        fine = np.interp(np.linspace(0, math.pi, 577), steps, edge)
        return fine.astype(np.float32)

    def around(self, u, v, half_width, half_height):
        """Slices of the picture around a point of the head."""
        p = self.p
        x = EYES_X + p.shift[0] + p.scale * (u - self.sin * v)
        y = EYES_Y + p.shift[1] + p.scale * (v + self.sin * u)
        rows = slice(max(int(y - half_height), 0), int(y + half_height) + 1)
        return rows, slice(max(int(x - half_width), 0), int(x + half_width) + 1)

    def paint(self, mask, light, where=()):
        """Cover with a colour where the mask is 1."""
        part = self.image[(slice(None), *where)]
        part += mask * (light - part)

    def darken(self, mask, amount, where=(), tint=(0.75, 1.0, 1.05)):
        """Take light away, from red a little less: a shadow on skin."""
        part = self.image[(slice(None), *where)]
        tint = np.float32(tint).reshape(3, 1, 1) * amount
        part *= np.maximum(1 - mask * tint, 0)


# ---------------------------------------- 3. what is behind and below the face


def paint_background(c):
    """A blurred scene: light from above, mottled, brighter at the lamp."""
    p, (top, bottom, mottle) = c.p, c.p.background
    down = np.linspace(0, 1, HEIGHT, dtype=np.float32)[:, None]
    across = np.linspace(-12, 12, WIDTH, dtype=np.float32) * p.lamp[0]
    patches = piece(SCENES, p.scene) + 0.5 * piece(SCENES, p.scene + 90)
    for k in range(3):
        mixed = patches + 0.3 * piece(SCENES, p.scene + 31 + 70 * k)
        value = top[k] + (bottom[k] - top[k]) * down + mottle * mixed + across
        c.image[k] = (np.minimum(np.maximum(value, 8), 245) / 255) ** 2


def paint_neck_and_clothes(c):
    p, where = c.p, (slice(140, HEIGHT), slice(0, WIDTH))
    # The neck follows the head; the shoulders stay level.
    u, v = c.across + 40 * c.sin, c.down[140:] / p.scale
    x, far = c.x[where] * 0.6 + u * 0.4, np.abs(u)
    half = (30 if p.male else 23) * (0.6 + 0.4 * p.width)
    half = half + 0.012 * np.maximum(v - 62, 0) ** 2
    side = np.minimum(np.maximum(x / half, -1), 1)
    light = 0.5 + 0.32 * side * p.lamp[0] - 0.3 * side * side
    cast = ramp(c.reach[where] - 0.1 * side * p.lamp[0], 1.45, 1.05)
    light = np.maximum(light * (1 - 0.5 * cast), 0.1)
    c.paint(ramp(np.abs(x) - half, 1, -1), c.skin * light, where)

    shoulder = 79 + (0.2 if p.male else 0.27) * far
    shoulder = v - shoulder - 60 * ramp(far, 75 + 18 * p.male, 130)
    light = 0.62 + 0.3 * p.lamp[0] * u / 80 - 0.3 * ramp(shoulder, 9, -2)
    cloth = ramp(shoulder, -1, 1)
    if p.collar == "suit":  # a white shirt under it
        shirt = cloth * ramp(v - 99 + 0.9 * far, -0.8, 0.8) * (far < 34)
        c.paint(shirt, colour((216, 214, 212)) * light, where)
    collar = {"crew": 96 - 0.016 * u * u, "vee": 110 - 0.85 * far,
              "suit": 118 - 1.1 * far}[p.collar]  # fmt: skip
    cloth = cloth * ramp(v - collar, -0.8, 0.8)
    c.paint(cloth, colour(p.clothes) * light, where)
    seam = ridge(v - collar - 4, 1.2) * cloth * (far < 34)
    c.darken(seam, 0.35, where, (1, 1, 1))


def paint_ears(c):
    for side in (-1, 1):
        u = -6 * c.p.turn + side * (c.half + 2)
        where = c.around(u, 8, 11, 18)
        x, y = (c.u[where] - u) * side, c.v[where] - 7
        r = np.sqrt(((x + 0.12 * y) / 6.2) ** 2 + (y / 13.5) ** 2)
        light = 0.52 + 0.26 * c.p.lamp[0] * side - 0.25 * ridge(r - 0.45, 0.3)
        warm = c.skin * colour((260, 246, 240))
        c.paint(ramp(r, 1.06, 0.9), warm * light, where)


# ----------------------------------------------- 4. the face under the lamp


def face_map(c):
    """Coordinates on the face that its painters share."""
    where = c.around(-6 * c.p.turn, 4, 53, 79)
    m = SimpleNamespace(where=where, f=c.f[where], v=c.v[where])
    m.side = np.sqrt(m.f * m.f + 14)  # like |f|, but smooth in the middle
    m.nose = m.f - c.p.turn * 5.5 * ramp(m.v, -8, 24)
    m.below = m.v - c.p.nose_end
    # The folds from the nose to the corners of the mouth.
    fold = 11 * c.p.nose**0.5 + (5 + 4 * c.p.joy) * m.below * 0.055
    m.folds = ramp(m.below, -4, 4) * ramp(m.below, 25, 12)
    m.folds *= 0.12 + 0.75 * c.p.joy + 0.65 * c.p.old
    m.folds *= ridge(m.side - fold, 2.6)
    return m


def height_of(c, m):
    """The face as a height field: a dome, and what stands out from it."""
    p, f, v, side, below = c.p, m.f - c.p.turn, m.v, m.side, m.below
    t2 = np.minimum(c.reach[m.where], 1.1) ** 2
    t6 = t2 * t2 * t2
    height = -37 * (0.3 * t2 + 0.33 * t6 + 0.37 * t6 * t6)
    height += (2.4 + 1.2 * p.male) * bump(side - 15, v + 13, 14, 6)  # brows
    height -= 4.2 * bump(side - 18, v + 1, 11, 8)  # eye sockets
    bridge = ramp(v, -18, 14) * ramp(below + 0.04 * m.nose**2, 9, -4)
    width = (5.2 + 2.6 * ramp(v, 0, p.nose_end)) * p.nose**0.7
    height += 6.2 * ridge(m.nose, width) * bridge
    height += 4.8 * p.bulb * bump(m.nose, below, 6.8 * p.nose * p.bulb, 7)
    wings = np.abs(m.nose) - 7 * p.nose
    height += 3.2 * bump(wings, below - 2, 4.6, 5)
    cheeks = bump(side - 25, v - 19 + 3 * p.joy, 14, 13)
    height += (1.8 + 3.2 * p.joy + 2 * p.chubby) * cheeks
    height += 2.6 * bump(f, v - 42, 17, 11)  # around the mouth
    height += 2.6 * bump(f, v - c.chin - 1, 12, 9)
    height -= 1.8 * bump(f, v - 53 - 3 * p.gap, 10, 3.5)  # under the lip
    height -= (1.2 + 2.5 * p.old) * bump(side - 34, v - 38, 8, 14)
    return height - 0.9 * m.folds


def paint_face(c, m):
    """Skin under a lamp, a sky, and sometimes a light from behind."""
    p, lamp, where = c.p, c.p.lamp, m.where
    slope_y, slope_x = np.gradient(height_of(c, m))
    up = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    facing = (lamp[2] - slope_x * lamp[0] - slope_y * lamp[1]) * up
    sky = (0.75 - 0.25 * slope_y * up) * (0.55 + 0.45 * up)
    # Light seeps through skin: red turns furthest into the shadow.
    seep = np.float32([0.34, 0.23, 0.19]).reshape(3, 1, 1)
    key = np.maximum((facing + seep) / (1 + seep), 0) ** 1.25
    warm = np.float32([1 + p.warmth, 1, 1 - p.warmth]).reshape(3, 1, 1)
    behind = np.maximum(-m.f / 40 * math.copysign(1, lamp[0]), 0)
    sky = 0.24 * sky + p.rim * behind * ramp(c.reach[where], 0.84, 1.0)
    light = 0.85 * key * warm + sky * (2 - warm)
    gloss = 0.55 * (slope_x * lamp[0] + slope_y * lamp[1])
    gloss = np.maximum((0.51 + 0.51 * lamp[2] - gloss) * up, 0) ** 24

    red = (0.35 + 0.75 * p.rosy + 0.12 * p.joy) * bump(
        m.side - 27, m.v - 20, 17, 14
    ) + 0.3 * bump(m.nose, m.below, 10, 8)
    blush = 1 - red * np.float32([0.02, 0.24, 0.2]).reshape(3, 1, 1)
    mottle = look_up(CLOUDS, m.v + 100 + p.scene, m.f + 100)
    light *= 1 + (0.012 + 0.02 * p.old) * mottle
    skin = c.skin * blush * light + 0.075 * gloss * (1 - 0.3 * p.makeup)
    c.paint(ramp(c.outside[where], 0.7, -1.0), skin, where)


def paint_shadows(c, m):
    """Shadows and lines that so coarse a height field cannot cast."""
    p, f, v, side, below = c.p, m.f, m.v, m.side, m.below
    lit_from = math.copysign(1, p.lamp[0])
    shadows = [
        (0.16 + 0.06 * p.male, bump(side - 18.5, v + 1, 12, 8)),
        (0.1, bump(side - 9, v + 2, 5, 7)),
        (0.26, m.folds),
        (0.26, bump(m.nose, below - 8.5, 8 * p.nose, 3.2)),
        (0.18, bump(f - p.turn, v - 52 - 4 * p.gap - p.lips, 9, 3)),
        (0.3 * abs(p.lamp[0]),
         bump(m.nose + 9 * p.nose * lit_from, below + 2, 5, 10)),
        (0.1, bump(f, below - 11, 2, 4)),
    ]  # fmt: skip
    if p.old:
        lines = sum(ridge(v + k + 0.004 * f * f, 1.3) for k in (26, 32, 38))
        feet = ridge(v + 1 - 0.5 * (side - 31), 1.2)
        feet += ridge(v - 2 - 0.9 * (side - 31), 1.2)
        shadows.append((0.2 * p.old, lines * ramp(side, 30, 12)))
        shadows.append((0.4 * p.old, feet * bump(side - 34, v - 1, 4, 6)))
    if p.chubby:
        double = ridge(v - c.chin - 7 - 0.008 * f * f, 2.2)
        shadows.append((0.2, double * ramp(side, 24, 12)))
    x, y = np.abs(m.nose) - 7 * p.nose, below - 2.5
    crease = ridge(np.sqrt(x * x + y * y) - 4, 1.3) * ramp(x, 0, 3)
    shadows.append((0.32, crease * ramp(below, -3, 1)))
    x = np.abs(m.nose)
    nostrils = bump(x - 4.1 * p.nose, below - 5.6 + 0.15 * x, 2.7 * p.nose, 1.5)
    shadows.append((0.85, nostrils))
    c.darken(sum(amount * mask for amount, mask in shadows), 0.9, m.where)


def paint_eye(c, side):
    """Lids, ball, iris and lashes; ``x`` runs from -1 inside to 1 outside."""
    p, where = c.p, c.around(19.5 * side, -3, 20, 20)
    f, v = c.f[where] * side - 19.5, c.v[where]
    x = f / (10.6 * p.eye_size)
    y, far = v + p.eye_tilt * x - 0.5, np.abs(x)
    arch = np.maximum(1 - x * x, 0)
    tall = p.eye_open * p.eye_size * (1 - 0.22 * p.joy)
    upper = y + 5.3 * tall * arch**0.75 * (1 - 0.12 * x)
    lower = 3.4 * tall * (1 + 0.1 * p.joy) * arch**0.9 * (1 + 0.15 * x) - y
    near = ramp(far, 1.15, 0.7)
    c.darken(ridge(upper + 3.0, 1.5) * near, 0.4 + 0.2 * p.old, where)
    if p.makeup:
        tint = bump(f - 1, y + 5.3 * tall + 1.5, 13, 5)
        c.paint(tint * 0.62, colour(p.lid_colour) * 0.6, where)
    c.darken(ridge(lower + 2.2, 1.6) * near, 0.1, where)
    if p.bags:
        c.darken(ridge(lower + 6.0, 2.6) * near, 0.45, where)
        c.darken(bump(f + 3, y - 5, 9, 4), 0.2, where)

    ball = ramp(upper, -0.5, 0.7) * ramp(lower, -0.5, 0.7) * ramp(far, 1, 0.9)
    white = 0.56 - 0.3 * ramp(upper, 3.2, 0) - 0.22 * x * x
    c.paint(ball, colour((236, 226, 220)) * white, where)
    iris_x, iris_y = f - side * p.gaze + 0.3, y + 0.7
    r = np.sqrt(iris_x * iris_x + iris_y * iris_y)
    depth = 0.55 + 0.5 * ramp(iris_y, -3, 4) - 0.55 * ramp(r, 3.0, 4.9)
    c.paint(ball * ramp(r, 5.3, 4.4), colour(p.iris) * depth, where)
    c.paint(ball * ramp(r, 2.5, 1.6), colour((14, 10, 10)), where)
    glint = bump(iris_x - side * 1.7 * p.lamp[0], iris_y + 1.7, 1.15, 1.15)
    c.paint(0.9 * glint, colour((240, 240, 240)), where)
    c.paint(0.5 * bump(x + 0.95, y, 0.16, 1.6), colour((120, 70, 64)), where)

    near = ramp(far, 1.1, 0.85)
    thick = 1.3 - 0.25 * p.male + 0.5 * p.makeup
    c.darken(ridge(upper + 0.3, thick) * near, 0.9, where, (0.95, 1, 1))
    c.darken(ridge(lower + 0.2, 0.9) * near, 0.3 + 0.25 * p.makeup, where)
    if not p.male:
        wing = ridge(y + 0.2 + 2.6 * (x - 0.9), 1.1 + 0.3 * p.makeup)
        wing *= ridge(x - 1.08, 0.14)
        c.darken(wing, 0.55 + 0.25 * p.makeup, where, (1, 1, 1))


def paint_brow(c, side):
    p, where = c.p, c.around(21 * side, -14, 22, 16)
    f, v = c.f[where] * side - 19.5, c.v[where]
    along = (f + 10.5) / 25  # 0 at the nose, 1 at the temple
    line = p.brow_height + 2 * p.gloom * ramp(along, 0.6, 0) - 1.2 * p.gap
    line = line - along * (1.25 - along) * (11.4 if p.arched else 4.8)
    line += 3.2 * ramp(along, 0.75, 1.1)
    mask = ridge(v - line, 2.5 * p.brow * (1 - 0.55 * ramp(along, 0.4, 1.0)))
    mask *= ramp(along, -0.04, 0.1) * ramp(along, 1.04, 0.85)
    hairs = look_up(STRANDS, 6 * v + 99, 2.2 * (f - v) + 99 + p.strands)
    mask *= np.minimum(0.95 + 0.22 * hairs, 1) * (0.86 if p.bushy else 0.72)
    c.paint(mask, c.hair * (0.25 if p.hair == "gray" else 0.5), where)


def paint_mouth(c):
    """Lips, and between them teeth and the dark of the mouth."""
    p, where = c.p, c.around(c.p.turn, 45, 31, 25)
    rounded = p.gap * (not p.smiling)  # "oh" rather than a laugh
    half = 16.4 * p.mouth_width * (1 + 0.4 * p.joy - 0.2 * rounded)
    x, y = (c.f[where] - 0.9 * p.turn) / half, c.v[where] - p.mouth
    arch, far = np.maximum(1 - x * x, 0), np.abs(x)
    lift = 1.1 + (9.0 * p.joy - 6 * p.gloom)
    line = y - lift * (0.42 - x * x)
    tall, power = (9.4, 0.8) if p.smiling else (12, 0.65)
    gap = p.gap * tall * arch**power
    top, bottom, end = line + 0.3 * gap, line - 0.7 * gap, ramp(far, 1.02, 0.9)
    if p.open:
        inside = ramp(top, -0.4, 0.6) * ramp(bottom, 0.4, -0.6) * end
        c.paint(inside, colour((60, 22, 22)), where)
        tongue = inside * bump(x, bottom + 0.5, 0.75, 3.5)
        c.paint(tongue * 0.7, colour((125, 62, 58)), where)
        teeth = ramp(top - (7.0 if p.smiling else 2.6) * arch**0.4, 0.7, -0.7)
        between = 1 - 0.06 * ridge((x * 4.2 + 0.5) % 1 - 0.5, 0.14)
        light = (0.84 - 0.5 * x * x + 0.08 * p.lamp[0] * x) * between
        c.paint(inside * teeth, colour((242, 236, 224)) * light, where)

    # The upper lip looks down and is darker; the lower one shines.
    lips = c.skin * colour((238, 178, 176))
    lips = colour(p.lipstick_colour) if p.lipstick else lips
    full = p.lips * (1 - 0.15 * p.joy)
    bow = 1 - 0.28 * ridge(x, 0.16) + 0.18 * ridge(far - 0.25, 0.2)
    upper = ramp(top + 3.6 * full * arch**0.9 * bow, -0.7, 0.8)
    upper *= ramp(top, 0.4, -0.5) * end
    light = 0.62 + 0.1 * p.lamp[0] * x
    c.paint(0.9 * upper, lips * (light - 0.14), where)
    under = bottom - 5.2 * full * arch**0.85
    lower = ramp(bottom, -0.4, 0.5) * ramp(under, 0.9, -0.9) * end
    shine = bump(x, bottom - 2.2 * p.lips, 0.6, 2.2)
    light = lips * (light + 0.1 + 0.22 * shine) + 0.14 * shine
    c.paint(0.9 * lower, light, where)
    if not p.open:
        c.darken(ridge(line, 1.1) * ramp(far, 1.06, 0.9), 0.72, where)
    corners = bump((far - 1.02) * half, y + 0.6 * lift, 2.6, 2.2)
    c.darken(corners, 0.45 + 0.15 * p.joy, where)
    c.darken(ridge(under - 1.5, 1.8) * arch, 0.2, where)


def paint_beard(c, m):
    """Stubble, moustache, goatee or full beard around the mouth."""
    p, x, y = c.p, np.abs(m.f - 0.9 * c.p.turn), m.v - c.p.mouth
    drop, wide = 9 * p.gap + 2.5, 3 * p.joy
    mustache = ridge(y + 8.5 + 0.6 * wide - 0.012 * x * x, 4.2)
    mustache *= ramp(x, 20, 13) * (1 - 0.5 * ridge(x, 1.6))
    jaw = ramp(m.v - 52 + 0.055 * x * np.maximum(x - 24, 0), -7, 5)
    jaw = np.maximum(jaw, ramp(x, 33, 41) * ramp(m.v, 2, 18))
    chin = ramp(y, drop + 6, drop + 11) * ramp(x, 19, 12)
    r = np.sqrt((x / (17 + wide)) ** 2 + ((y - 4) / (17 + drop)) ** 2)
    ring = np.maximum(ridge(r - 1, 0.22) * ramp(y, -10, -3), mustache)
    mask = {"stubble": np.maximum(jaw, mustache), "mustache": mustache,
            "goatee": np.maximum(chin, ring),
            "full": np.maximum(jaw, ring)}[p.beard]  # fmt: skip
    lips = bump(x, y - drop * 0.45, 13 + 3 * wide, 5 + drop * 0.5)
    mask *= ramp(c.outside[m.where], 2.5, 0) * (1 - np.minimum(1.2 * lips, 1))
    if p.beard == "stubble":
        dots = look_up(CURLS, 3 * m.v + 99, 3 * m.f + 200)
        c.paint(mask * (0.5 + 0.07 * dots), c.hair * 0.3 + 0.03, m.where)
    else:
        hairs = look_up(STRANDS, m.v * 3 + 99, 2 * m.f + 200 + p.strands)
        light = 0.42 + 0.1 * hairs + 0.003 * m.f * p.lamp[0]
        c.paint(mask * 0.92, c.hair * np.maximum(light, 0.1), m.where)


# ------------------------------------------------------------------ 5. hair


def hair_outside(c, s, tufts, lumps, swing):
    """Distance from the hair's outer edge: a cap, and what falls from it."""
    p, x, v, curl = c.p, c.x, c.v, s.flow == "curl"
    side = s.side * p.volume
    top = s.top * p.volume if p.hat == "none" else min(s.top, 4)
    lean = 1 if curl else 1 + 0.25 * p.part * x / c.half
    thick = side + (top - side) * ramp(c.angle, 1.5, 2.6) * lean
    thick = thick * (1 + (0.3 if s.flow == "brush" else 0.12) * tufts)
    thick += (2.4 if curl else 0.4) * lumps
    if curl:
        thick = thick * ramp(c.angle, 0.75, 1.5) - 2
    cap = np.maximum(c.outside - thick, v - (60 if curl else min(s.end, 8)))
    if s.end < 12:
        return cap
    wide = c.half + side + 0.06 * v + 3 * swing * ramp(v, 0, 40)
    wide += 2.0 * curl * lumps - 12 * ramp(v, s.end - 24, s.end + 8)
    fall = np.maximum(np.abs(x) - wide, v - s.end - 2 * lumps)
    fall = np.maximum(fall, -4 - v)
    return 0.5 * (cap + fall - np.sqrt((cap - fall) ** 2 + 20)) + 1


def hair_opening(c, s, tufts, swing):
    """Distance into the hair from the opening that it leaves the face."""
    p, x, v = c.p, c.x, c.v
    if p.style == "bald":
        line = -200.0
    elif p.style == "receding":
        line = -50 - 13 * ridge(np.abs(x) - 24, 10) + 0.008 * x * x
    elif p.bangs:
        fringe = look_up(STRANDS, 0, x + 99 + p.strands)
        line = -19 + 0.08 * p.part * x + 0.006 * x * x + 1.5 * fringe
    elif s.flow == "fan":
        line = -47 + 0.021 * (x - 15 * p.part) ** 2
    elif s.flow == "brush":
        line = -44 + 0.005 * x * x + 0.1 * p.part * x + 2.5 * tufts
    else:
        line = -44 + 0.011 * x * x
    side = c.half * s.cover - 0.0022 * np.minimum(v + 8, 0) ** 2
    if s.end > 12:
        side = side - 5 * ramp(v, 8, 66) + 3 * p.wavy * swing
    above, beside = line - v, np.abs(x) - side
    return 0.5 * (above + beside + np.sqrt((above - beside) ** 2 + 90)) - 2


def hair_strands(c, s, lumps, swing):
    """Lighter and darker strands, from -1 to 1, along the way they run."""
    p, x, v = c.p, c.x, c.v
    if s.flow == "curl":
        return look_up(CURLS, v + 111 + p.strands, x + 111)
    if s.flow == "fan":  # from the parting
        flow = (x - 15 * p.part) * 7 / np.sqrt(np.maximum(v + 86, 2.0))
        flow += 3.2 * swing * (v > -60)
    elif s.flow == "brush":
        flow = x * (1 + 0.006 * v) + p.part * (0.5 * v + 4 * lumps)
    else:
        flow = np.arctan2(x, 60 - np.minimum(v, 10)) * 80
    strands = look_up(STRANDS, v + 111, 1.7 * flow + 300 + p.strands)
    return 0.7 * strands + 0.5 * lumps if s.flow == "brush" else strands


def hair_of(c):
    """Where there is hair, what it leaves open, and its colour in light."""
    p, s, lumps = c.p, STYLES[c.p.style], piece(CLOUDS, c.p.strands)
    around = np.copysign(math.pi - c.angle, c.x)  # 0 is the crown
    tufts = look_up(STRANDS, 0, around * 14 + p.strands)
    swing = np.sin(0.13 * c.v + 0.1 * p.strands + 1.2 * np.sign(c.x))
    swing *= 0.85 if p.wavy and s.flow == "fan" else 0.06
    strands = hair_strands(c, s, lumps, swing)
    outside = hair_outside(c, s, tufts, lumps, swing)
    opening = hair_opening(c, s, tufts, swing) + 0.6 * strands
    h = SimpleNamespace(opening=opening)
    h.mask = ramp(outside + 0.3 * strands, 1.3, -1.8)
    # A ball under the lamp, with a band of sheen near its outer edge.
    x = np.minimum(np.maximum(c.x / (c.half + 12), -1), 1)
    y = np.minimum(np.maximum((c.v + 28) / 55, -1), 0.35)
    light = 0.64 + 0.42 * (x * p.lamp[0] + y * p.lamp[1]) - 0.26 * x * x
    light = np.maximum(light, 0.12) * (1 + 0.22 * strands)
    sheen = ridge(outside + 13 + 3 * strands, 7.5) * ramp(c.v, 5, -30)
    sheen *= ramp(x * p.lamp[0], -0.9, 0.5) * (0.41 + 0.22 * strands)
    root = light * (1 - 0.3 * ramp(h.opening, 5, 0))
    bright = colour((255, 244, 228)) * 0.1 + 0.5 * c.hair
    h.front, h.back = c.hair * root + bright * sheen, c.hair * light
    return h


def paint_back_hair(c, h):
    if c.p.style == "bun" and c.p.hat == "none":
        r = np.sqrt((c.x / 22) ** 2 + ((c.v + 74) / 16) ** 2)
        c.paint(ramp(r, 1.05, 0.94), h.back * 0.9)
    if c.p.style == "ponytail":
        x = c.x * math.copysign(1, c.p.part) - 40 - 6 * np.sin(0.03 * c.v)
        c.paint(ramp(np.abs(x), 13, 10) * ramp(c.v, 0, 20), h.back * 0.8)
    c.paint(h.mask, h.back * (0.45 + 0.55 * ramp(np.abs(c.x), 28, 50)))


def paint_front_hair(c, h):
    end = STYLES[c.p.style].end
    front = h.mask * ramp(h.opening, -2, 2.4)
    shadow = ramp(h.opening, -9, 1) * h.mask * (1 - front)
    if end < 12:  # short sides fade into the skin
        front = front * ramp(c.v, end + 2, -14)
        shadow = shadow * ramp(c.v, 2, -22)
    if c.p.style == "buzz":
        front = front * 0.85 * ramp(h.opening, -6, 7)
    c.darken(shadow, 0.3)
    c.paint(front, h.front)


# -------------------------------------------------------- 6. what is worn


def paint_hat(c):
    p, x, cloth = c.p, c.x, colour(c.p.hat_colour)
    bend, loose = {"beanie": (0.007, 7), "cap": (0.003, 5),
                   "brim": (-0.0015, 9)}[p.hat]  # fmt: skip
    y = c.v + 31 - bend * x * x - 0.09 * p.part * x  # 0 at the rim
    nx, ny = x / (c.half + 12), (c.v + 40) / 50
    light = 0.5 + 0.35 * (nx * p.lamp[0] + ny * p.lamp[1]) - 0.22 * nx * nx
    light = np.maximum(light, 0.12)
    dome = ramp(c.outside - 4 - loose * ramp(y, 4, -26), 1, -1) * ramp(y, 1, -1)
    shade = ramp(y, 15, 2) * ramp(y, -9, -3) * ramp(c.outside, 1, -3)
    c.darken(shade, 0.4)
    if p.hat == "beanie":  # ribbed, with a fold
        light = light * (1 + 0.07 * np.sin(np.arctan2(x, 80 - c.v) * 95))
        light *= (0.9 + 0.25 * ramp(y, -19, -17)) * (1 - 0.4 * ridge(y + 19, 2))
    elif p.hat == "cap":
        light *= 1 - 0.2 * ridge(x - 6 * p.turn, 1.2)
        x = x - 8 * p.turn
        brim = (x / 46) ** 2 + ((y - 1 - 0.0012 * x * x) / 7.5) ** 2
    else:
        light *= 1 - 0.55 * ramp(y, -15, -13)  # the ribbon
        brim = (x / 78) ** 2 + ((y + 1 - 0.0018 * x * x) / 8.5) ** 2
    c.paint(dome, cloth * light)
    if p.hat != "beanie":
        light = 0.32 + 0.33 * ramp(y, 4, -7) + 0.12 * nx * p.lamp[0]
        c.paint(ramp(brim, 1.12, 0.92), cloth * np.maximum(light, 0.1))


def paint_glasses(c):
    p, where = c.p, c.around(0, 4, 62, 24)
    f, v = c.f[where], c.v[where] - 2.5
    x = np.abs(f) - 20
    power, height = (2, 12.5) if p.glasses == "round" else (4, 11)
    r = (np.abs(x / 15.5) ** power + np.abs(v / height) ** power) ** (1 / power)
    c.darken(ridge((r - 1) * 12 - 2.5, 2.2) * (v > 0), 0.15, where)
    glare = ramp(r, 1.02, 0.95) * ridge(x * 0.8 + v + 6, 3.0)
    c.paint(glare * 0.1, colour((235, 240, 245)), where)
    bridge = ridge(v + 2 - 0.04 * f * f, 1.4) * (x < -14.5)
    arms = ridge(v + 4, 1.5) * ramp(x, 14.5, 16) * (np.abs(c.x[where]) < c.half)
    frame = np.maximum(ridge((r - 1) * 12, 1.5), np.maximum(bridge, arms))
    c.paint(frame * 0.95, colour(p.glasses_colour), where)


def paint_earrings(c):
    for side in (-1, 1):
        u = -6 * c.p.turn + side * (c.half + 2.5)
        where = c.around(u, 29, 9, 13)
        x, y = c.u[where] - u, c.v[where] - 28
        drop = bump(x, y, 2.2, 5.5)
        hoop = ridge(np.sqrt(x * x + y * y) - 5, 1.0)
        mask = np.minimum(1.2 * (hoop if c.p.earring == "hoop" else drop), 1)
        shine = 0.7 + 0.5 * bump(x + 1, y + 2, 2, 3)
        c.paint(mask, colour(c.p.metal) * shine, where)


# ------------------------------------------------------- 7. taking the picture


def draw_portrait(person):
    """Paint somebody.

    Args:
        person: what ``sample_person`` returned (traits may be edited).

    Returns:
        uint8 array of shape (218, 178, 3), RGB 0..255.
    """
    c = Canvas(person)
    hair, face = hair_of(c), face_map(c)
    paint_background(c)
    paint_back_hair(c, hair)
    paint_neck_and_clothes(c)
    paint_ears(c)
    paint_face(c, face)
    paint_shadows(c, face)
    paint_mouth(c)
    if person.beard != "none":
        paint_beard(c, face)
    for side in (-1, 1):
        paint_eye(c, side)
        paint_brow(c, side)
    paint_front_hair(c, hair)
    if person.hat != "none":
        paint_hat(c)
    if person.earrings:
        paint_earrings(c)
    if person.glasses != "none":
        paint_glasses(c)

    # Film saturates softly and has a little grain.
    film = np.maximum(c.image, 0, out=c.image)
    film /= 0.862 / person.exposure**2 + 0.172 * film
    film = np.sqrt(film, out=film)
    film *= 255
    film += 0.9 * piece(GRAIN, person.scene)
    film = np.minimum(np.maximum(film, 0, out=film), 255, out=film)
    return np.ascontiguousarray(film.astype(np.uint8).transpose(1, 2, 0))


def draw_face(rng, lipstick_on_men=False):
    """Make somebody up and paint them.

    Args:
        rng: a ``numpy.random.Generator``; the same state, the same face.
        lipstick_on_men: see ``sample_person``.

    Returns:
        ``(image, attributes)``: a uint8 array of shape (218, 178, 3), RGB
        0..255, and a dict from each of ``DRAWN_ATTRIBUTES`` to bool.

    Example:
        >>> image, attributes = draw_face(np.random.default_rng(0))
        >>> image.shape
        (218, 178, 3)
    """
    person = sample_person(rng, lipstick_on_men)
    return draw_portrait(person), describe(person)


def write_synthetic_dataset(folder, count, seed=666, lipstick_on_men=False):
    """Write drawn faces the way CelebA lies on a disk.

    Makes ``folder/img_align_celeba/000001.jpg`` and so on (178x218, RGB) and
    ``folder/list_attr_celeba.txt`` with all 40 columns, -1 where an attribute
    is absent or never drawn. The attribute file comes last: where it is, the
    set is complete. Face k depends on ``seed`` and k alone, so a larger set
    begins with the faces of a smaller one.

    Args:
        folder: where to write; made if missing, and best its own, for
            what is there under the same names is replaced. Faces that were
            drawn there earlier, beyond ``count``, are removed.
        count: number of faces, at least 1.
        seed: a non-negative integer; another seed gives other people.
        lipstick_on_men: False: only women wear lipstick, as most rules of
            make-up and jewelry here. True: men as often as women, so that
            ``Wearing_Lipstick`` says nothing about ``Male``; to see what a
            rule of a data set does to an attribute vector.

    Returns:
        ``folder`` as a ``pathlib.Path``.

    Raises:
        ValueError: if ``count`` is less than 1.

    Example:
        >>> folder = write_synthetic_dataset("data/drawn", 2000)
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}")
    folder = Path(folder)
    images = folder / "img_align_celeba"
    listing = folder / "list_attr_celeba.txt"
    images.mkdir(parents=True, exist_ok=True)
    listing.unlink(missing_ok=True)

    lines = [str(count), " ".join(ATTRIBUTES) + " "]
    # One thread: NumPy's many small steps would only queue for Python's lock.
    numbers = range(1, count + 1)
    progress = tqdm(numbers, "drawing faces", file=sys.stdout, mininterval=1)
    for number in progress:
        rng = np.random.default_rng([seed, number])
        image, attributes = draw_face(rng, lipstick_on_men)
        path = images / f"{number:06d}.jpg"
        with written_whole(path) as unfinished:
            Image.fromarray(image).save(unfinished, quality=92, comment=_DRAWN)
        signs = [1 if attributes.get(name) else -1 for name in ATTRIBUTES]
        lines.append(path.name + "".join(f" {sign:2d}" for sign in signs))
    _remove_others(images, count)
    with written_whole(listing) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n", encoding="ascii")
    return folder


def _remove_others(images, count):
    """Removes faces that an earlier call drew, for which there is no label."""
    remove_leftovers(images)
    for path in images.glob("[0-9]" * 6 + ".jpg"):
        if int(path.stem) > count:
            with Image.open(path, formats=["JPEG"]) as image:
                drawn = image.info.get("comment") == _DRAWN
            if drawn:
                path.unlink()


def data_folder(data_dir, drawn_folder, count=5000, seed=666):
    """The folder of photos that a notebook works on; draws one if need be.

    Args:
        data_dir: a folder of photos; empty or None: drawn faces.
        drawn_folder: where drawn faces are, or are to be drawn.
        count: how many to draw.
        seed: see `write_synthetic_dataset`.

    Returns:
        `pathlib.Path` of the folder. Drawn faces that are complete, as many as
        `count` or more, are left as they are.

    Example:

    >>> folder = fv.data_folder("", "build/drawn_faces", count=2000)
    >>> images = fv.find_images(folder)
    """
    if data_dir:
        return Path(data_dir)
    folder = Path(drawn_folder)
    listing = folder / "list_attr_celeba.txt"
    if listing.exists() and len(listing.read_text().splitlines()) - 2 >= count:
        return folder
    return write_synthetic_dataset(folder, count, seed)
