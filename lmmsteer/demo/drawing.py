"""How a demo person looks: flat shapes on a 256-pixel scene, told apart even at 60 pixels.

Everything random is drawn from the person's seed before the first shape, never depending on an
attribute: the members of a counterfactual set differ in their attributes and in nothing else.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lmmsteer.demo.canvas import DARK, SCALE, SIZE, STEEL, WHITE, WOOD, Canvas, Color
from lmmsteer.demo.figure import arms, body, clothes, head, tool

if TYPE_CHECKING:
    from lmmsteer.demo.people import Person

SKIN: dict[str, Color] = {
    "light": (250, 214, 184),
    "medium": (201, 146, 102),
    "dark": (101, 62, 42),
}
HAIR: tuple[Color, ...] = ((40, 30, 28), (78, 48, 30), (124, 66, 34), (28, 28, 40))
GREY: Color = (214, 216, 220)
PAINT: dict[str, Color] = {
    "red": (214, 50, 48),
    "blue": (48, 92, 200),
    "yellow": (246, 206, 56),
    "green": (56, 158, 78),
}
SKY: dict[str, Color] = {
    "sunny": (132, 204, 250),
    "cloudy": (188, 200, 210),
    "rainy": (126, 138, 154),
}
CLOTHES: dict[str, tuple[Color, Color]] = {  # upper body, lower body
    "doctor": ((246, 248, 250), (92, 112, 140)),
    "nurse": ((72, 184, 180), (72, 184, 180)),
    "farmer": ((196, 72, 60), (66, 98, 156)),
    "firefighter": ((58, 56, 62), (58, 56, 62)),
    "chef": ((250, 250, 250), (60, 62, 72)),
    "teacher": ((124, 92, 160), (78, 74, 96)),
    "builder": ((250, 136, 40), (104, 110, 122)),
    "mechanic": ((60, 96, 172), (60, 96, 172)),
    "painter": ((238, 196, 214), (86, 116, 132)),
    "pilot": ((32, 42, 84), (32, 42, 84)),
}


@dataclass(frozen=True)
class Jitter:
    """What a set's members share beyond labels."""

    x: float
    y: float
    arm: float
    tint: np.ndarray  # [3] colour shift of the scene
    cloth: np.ndarray  # [3] colour shift of the clothes
    skin: np.ndarray  # [3] colour shift of the skin
    hair: int
    smile: float
    spot: float
    specks: np.ndarray  # [SIZE, SIZE] grey shift of single pixels

    @classmethod
    def of(cls, seed: int) -> "Jitter":
        rng = np.random.default_rng([seed, 1])
        specks = rng.integers(-26, 27, (SIZE, SIZE)) * (rng.random((SIZE, SIZE)) < 0.03)
        return cls(
            x=rng.uniform(-9, 9),
            y=rng.uniform(-5, 6),
            arm=rng.uniform(-7, 7),
            tint=rng.integers(-9, 10, 3),
            cloth=rng.integers(-8, 9, 3),
            skin=rng.integers(-7, 8, 3),
            hair=int(rng.integers(len(HAIR))),
            smile=rng.uniform(4, 8),
            spot=rng.uniform(-8, 8),
            specks=specks,
        )


def draw(person: "Person") -> Image.Image:
    """The picture of a person: 256 x 256 pixels, RGB, a pure function of the person."""
    jitter = Jitter.of(person.seed)
    canvas = Canvas()
    _background(canvas, person, jitter)
    _prop(canvas, person, jitter)
    canvas.x, canvas.y = jitter.x, jitter.y
    _figure(canvas, person, jitter)
    pixels = np.asarray(canvas.image.reduce(SCALE)).astype(np.int16) + jitter.specks[:, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shift(color: Color, by: np.ndarray) -> Color:
    red, green, blue = (int(v) for v in np.clip(np.array(color) + by, 0, 255))
    return red, green, blue


def _sky(c: Canvas, weather: str, a: float, b: float, d: float, e: float) -> None:
    c.box(a, b, d, e, SKY[weather])
    width, middle = d - a, b + 26
    if weather == "sunny":
        c.oval(d - 24, middle, 15, 15, (255, 214, 64))
    else:
        cloud = (244, 246, 248) if weather == "cloudy" else (92, 100, 114)
        for x in (0.25, 0.68):
            c.oval(a + x * width, middle, 17, 9, cloud)
            c.oval(a + x * width + 10, middle - 6, 12, 9, cloud)
    if weather == "rainy":
        for x in np.arange(a + 10, d - 6, 13):
            c.line((60, 110, 190), 2.2, x, middle + 14, x - 4, middle + 28)


def _background(c: Canvas, person: "Person", jitter: Jitter) -> None:
    place, spot = person.background, jitter.spot
    tint = jitter.tint
    if place in ("park", "street"):
        _sky(c, person.weather, 0, 0, SIZE, 192)
    if place == "park":
        c.box(0, 140, SIZE, SIZE, _shift((124, 190, 98), tint))
        for x in (30 + spot, 226 + spot):
            c.box(x - 6, 100, x + 6, 158, (122, 84, 52))
            c.oval(x, 86, 30, 32, _shift((66, 142, 74), tint))
    elif place == "street":
        for x, top, color in ((0, 62, (190, 120, 96)), (170 + spot, 52, (170, 160, 190))):
            c.box(x, top, x + 90, 190, _shift(color, tint))
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)):
                left, upper = x + 14 + 36 * column, top + 12 + 34 * row
                c.box(left, upper, left + 20, upper + 20, (250, 236, 170))
        c.box(0, 190, SIZE, SIZE, _shift((112, 114, 120), tint))
        for x in range(0, SIZE, 52):
            c.box(x, 222, x + 28, 228, WHITE)
    else:
        _room(c, person, spot, tint)


def _room(c: Canvas, person: "Person", spot: float, tint: np.ndarray) -> None:
    walls = {"kitchen": (250, 226, 170), "office": (206, 204, 222), "hospital": (214, 240, 232)}
    floors = {"kitchen": (206, 140, 96), "office": (120, 116, 140), "hospital": (168, 206, 200)}
    c.box(0, 0, SIZE, SIZE, _shift(walls[person.background], tint))
    c.box(0, 206, SIZE, SIZE, _shift(floors[person.background], tint))
    c.box(6, 10, 88, 88, WHITE)
    _sky(c, person.weather, 11, 15, 83, 83)
    if person.background == "kitchen":
        c.box(186, 20, 256, 74, (196, 96, 66), 3)
        c.line(WHITE, 3, 214, 26, 214, 68)
        c.box(176, 138, 256, 212, STEEL, 3)
        c.box(186, 154, 246, 200, DARK, 4)
    elif person.background == "office":
        c.box(176, 134, 256, 144, WOOD)
        c.box(236, 144, 246, 214, WOOD)
        c.box(192 + spot, 86, 246 + spot, 124, DARK, 3)
        c.box(197 + spot, 91, 241 + spot, 119, (104, 190, 230))
        c.box(214 + spot, 124, 224 + spot, 134, DARK)
    else:
        c.box(184 + spot, 22, 240 + spot, 78, WHITE, 4)
        c.box(205 + spot, 28, 219 + spot, 72, (222, 52, 58))
        c.box(190 + spot, 43, 234 + spot, 57, (222, 52, 58))
        c.box(182, 150, 256, 172, WHITE, 4)
        c.box(186, 172, 194, 216, STEEL)


def _prop(c: Canvas, person: "Person", jitter: Jitter) -> None:
    color, x = PAINT[person.prop_color], 34 + jitter.spot / 2
    if person.prop == "ball":
        c.oval(x, 222, 24, 24, color)
        c.oval(x - 8, 213, 6, 6, WHITE)
    elif person.prop == "box":
        c.box(x - 25, 196, x + 25, 246, color, 2)
        c.box(x - 4, 196, x + 4, 246, WHITE)
    else:
        c.line(DARK, 2, x, 178, x + 6, 246)
        c.oval(x, 146, 23, 29, color)
        c.oval(x - 8, 136, 5, 7, WHITE)


def _figure(c: Canvas, person: "Person", jitter: Jitter) -> None:
    skin = _shift(SKIN[person.skin_tone], jitter.skin)
    hair = GREY if person.age == "old" else HAIR[jitter.hair]
    upper, lower = (_shift(color, jitter.cloth) for color in CLOTHES[person.occupation])
    body(c, person, skin, hair, upper, lower)
    clothes(c, person)
    arms(c, person, skin, upper, jitter.arm)
    tool(c, person, jitter.arm)
    head(c, person, skin, hair, jitter.smile)
