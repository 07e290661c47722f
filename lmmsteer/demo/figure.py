"""The figure of a demo person, part by part: body, clothes, arms, tool, head, hat.

The person stands at x = 128; half_width(person) is where slim and heavy part ways.
"""

from typing import TYPE_CHECKING

from lmmsteer.demo.canvas import DARK, STEEL, WHITE, WOOD, Canvas, Color

if TYPE_CHECKING:
    from lmmsteer.demo.people import Person

CENTRE = 128.0
RED: Color = (214, 44, 44)
GOLD: Color = (244, 200, 70)
LIME: Color = (224, 236, 70)


def half_width(person: "Person") -> float:
    """Half of the body's width, in scene units."""
    return 26.0 if person.body_type == "slim" else 50.0


def body(c: Canvas, person: "Person", skin: Color, hair: Color, upper: Color, lower: Color) -> None:
    """Long hair behind the shoulders, neck, torso, and trousers or a skirt."""
    w, x = half_width(person), CENTRE
    if person.gender == "woman":
        c.box(x - 39, 58, x + 39, 142, hair, 22)
    c.box(x - 11, 96, x + 11, 124, skin)
    if person.gender == "woman":
        for side in (-1, 1):
            c.line(skin, 11, x + side * w * 0.4, 224, x + side * w * 0.4, 262)
        c.shape(lower, x - w * 0.8, 176, x + w * 0.8, 176, x + w * 1.3, 238, x - w * 1.3, 238)
    else:
        c.box(x - w, 184, x - 2, 264, lower, 4)
        c.box(x + 2, 184, x + w, 264, lower, 4)
        c.box(x - w, 176, x + w, 206, lower, 4)
    c.box(x - w, 112, x + w, 196, upper, 20 if person.body_type == "slim" else 28)
    if person.body_type == "heavy":
        c.oval(x, 168, w + 7, 36, upper)


def clothes(c: Canvas, person: "Person") -> None:
    """What of the clothes tells the occupation."""
    w, x = half_width(person), CENTRE
    match person.occupation:
        case "doctor":
            c.shape((110, 170, 220), x - 13, 112, x + 13, 112, x, 146)
            c.box(x - 2, 146, x + 2, 200, (206, 212, 220))
            c.arc(DARK, 4, (x - 19, 98, x + 19, 156), 0, 180)
            c.oval(x + 12, 160, 6, 6, DARK)
        case "nurse":
            c.shape(WHITE, x - 13, 112, x + 13, 112, x, 134)
            c.box(x + 8, 140, x + 22, 146, RED)
            c.box(x + 12, 136, x + 18, 150, RED)
        case "farmer":
            blue = (66, 98, 156)
            c.box(x - w * 0.62, 146, x + w * 0.62, 200, blue, 4)
            for side in (-1, 1):
                c.line(blue, 8, x + side * w * 0.5, 118, x + side * w * 0.5, 150)
                c.oval(x + side * w * 0.5, 150, 3, 3, GOLD)
        case "firefighter":
            c.box(x - w, 138, x + w, 147, LIME)
            c.box(x - w, 172, x + w, 181, LIME)
            c.box(x - 3, 114, x + 3, 196, LIME)
        case "chef":
            c.shape(RED, x - 14, 112, x + 14, 112, x, 128)
            for side in (-1, 1):
                for y in (140, 156, 172):
                    c.oval(x + side * 10, y, 3, 3, DARK)
        case "teacher":
            c.shape(WHITE, x - 13, 112, x + 13, 112, x, 150)
            c.shape((240, 150, 60), x - 4, 116, x + 4, 116, x + 5, 148, x, 156, x - 5, 148)
        case "builder":
            for side in (-1, 1):
                c.box(x + side * w * 0.55 - 5, 113, x + side * w * 0.55 + 5, 194, LIME)
            c.box(x - w, 164, x + w, 173, LIME)
        case "mechanic":
            c.box(x - 2, 114, x + 2, 200, (190, 200, 220))
            c.box(x + w * 0.3, 134, x + w * 0.3 + 13, 148, (240, 120, 40), 2)
            c.box(x - w, 186, x + w, 193, (34, 50, 100))
        case "painter":
            c.box(x - w * 0.7, 138, x + w * 0.7, 208, (250, 246, 232), 6)
            for dx, y, color in ((-10, 152, RED), (9, 164, (48, 92, 200)), (-4, 184, GOLD)):
                c.oval(x + dx, y, 6, 6, color)
        case "pilot":
            c.shape(WHITE, x - 11, 112, x + 11, 112, x, 138)
            c.shape(DARK, x - 3, 114, x + 3, 114, x, 140)
            for side in (-1, 1):
                c.box(x + side * w * 0.75 - 8, 118, x + side * w * 0.75 + 8, 124, GOLD)
                c.oval(x + side * 9, 164, 3, 3, GOLD)


def arms(c: Canvas, person: "Person", skin: Color, upper: Color, arm: float) -> None:
    """Sleeves and hands; the right one holds the tool, the left one a cane where old."""
    w, x = half_width(person), CENTRE
    thick = 15 if person.body_type == "slim" else 21
    left, right = x - w - 16, x + w + 18
    c.line(upper, thick, x - w + 6, 126, left, 166 + arm / 2)
    c.line(upper, thick, x + w - 6, 126, right, 162 + arm)
    c.oval(left - 1, 174 + arm / 2, 9, 9, skin)
    c.oval(right + 1, 168 + arm, 9, 9, skin)
    if person.age == "old":
        c.line((110, 70, 38), 5, left - 3, 176 + arm / 2, left - 7, 250)
        c.arc((110, 70, 38), 5, (left - 7, 164 + arm / 2, left + 11, 186 + arm / 2), 180, 330)


def tool(c: Canvas, person: "Person", arm: float) -> None:
    """The tool in the right hand."""
    x, y = CENTRE + half_width(person) + 20, 166 + arm
    match person.occupation:
        case "doctor":
            c.line((236, 240, 246), 9, x, y + 6, x, y - 26)
            c.line(RED, 4, x, y - 2, x, y - 24)
            c.line(STEEL, 4, x, y - 28, x, y - 42)
        case "nurse":
            c.box(x - 15, y - 36, x + 17, y + 6, WOOD, 3)
            c.box(x - 11, y - 30, x + 13, y + 2, WHITE)
            c.box(x - 5, y - 39, x + 7, y - 32, STEEL)
        case "farmer":
            c.line(WOOD, 5, x, y + 66, x, y - 50)
            c.line(STEEL, 4, x - 14, y - 74, x - 14, y - 50, x + 14, y - 50, x + 14, y - 74)
            c.line(STEEL, 4, x, y - 76, x, y - 48)
        case "firefighter":
            c.line((226, 180, 60), 8, x - 4, y + 12, x + 8, y - 12)
            c.shape(RED, x + 2, y - 12, x + 16, y - 6, x + 20, y - 34, x + 10, y - 36)
            c.line((90, 180, 240), 6, x + 15, y - 40, x + 20, y - 66)
        case "chef":
            c.line(DARK, 6, x, y + 4, x + 2, y - 20)
            c.oval(x + 3, y - 38, 21, 18, DARK)
            c.oval(x + 3, y - 39, 13, 10, GOLD)
        case "teacher":
            c.box(x - 17, y - 28, x + 17, y + 6, (40, 130, 90), 2)
            c.box(x - 1, y - 28, x + 2, y + 6, WHITE)
        case "builder":
            c.line(WOOD, 6, x, y + 14, x, y - 34)
            c.box(x - 17, y - 46, x + 17, y - 30, STEEL, 3)
        case "mechanic":
            c.line(STEEL, 8, x, y + 14, x, y - 30)
            c.arc(STEEL, 8, (x - 15, y - 62, x + 15, y - 30), -50, 230)
        case "painter":
            c.line(WOOD, 5, x, y + 14, x, y - 26)
            c.box(x - 7, y - 36, x + 7, y - 24, STEEL)
            c.shape((200, 60, 150), x - 8, y - 36, x + 8, y - 36, x, y - 60)
        case "pilot":
            c.box(x - 5, y - 2, x + 11, y + 10, DARK, 3)
            c.box(x - 18, y + 6, x + 24, y + 52, (120, 66, 40), 5)
            c.box(x - 18, y + 26, x + 24, y + 31, GOLD)


def head(c: Canvas, person: "Person", skin: Color, hair: Color, smile: float) -> None:
    """Face, hair and hat; beard for men, red lips for women, wrinkles and glasses where old."""
    x, y = CENTRE, 76.0
    rx = 30 if person.body_type == "slim" else 35
    c.oval(x, y - 4, rx + 4, 36, hair)
    c.oval(x, y + 4, rx, 33, skin)
    line = (92, 56, 44) if person.skin_tone != "dark" else (52, 28, 18)
    if person.gender == "man":
        c.arc(hair, 13, (x - rx, y - 32, x + rx, y + 41), 22, 158)
        c.box(x - 13, y + 13, x + 13, y + 19, hair, 3)
        c.arc((150, 60, 52), 3, (x - 8, y + 14, x + 8, y + 20 + smile), 20, 160)
    else:
        c.shape(hair, x - rx, y - 2, x - rx + 4, y - 26, x + 4, y - 28, x - 12, y - 16)
        c.shape(hair, x + rx, y - 2, x + rx - 4, y - 26, x - 2, y - 28, x + 12, y - 16)
        c.arc((206, 40, 66), 6, (x - 11, y + 6, x + 11, y + 18 + smile), 15, 165)
    for side in (-1, 1):
        c.oval(x + side * 12, y + 1, 4.4, 5, WHITE)
        c.oval(x + side * 12, y + 1, 3, 3.8, DARK)
        if person.gender == "woman":
            c.line(DARK, 2, x + side * 15, y - 3, x + side * 19, y - 7)
        if person.age == "old":
            c.arc(line, 2.4, (x + side * 12 - 10, y - 9, x + side * 12 + 10, y + 11), 0, 360)
            c.line(line, 1.6, x + side * 19, y + 11, x + side * 23, y + 15)
    if person.age == "old":
        c.line(line, 2, x - 2, y + 1, x + 2, y + 1)
        for rise in (14, 19):
            c.line(line, 1.6, x - 12, y - rise, x + 12, y - rise)
    _hat(c, person, x, y)


def _hat(c: Canvas, person: "Person", x: float, y: float) -> None:
    match person.occupation:
        case "nurse":
            c.box(x - 22, y - 46, x + 22, y - 28, WHITE, 4)
            c.box(x - 3, y - 45, x + 3, y - 30, RED)
            c.box(x - 8, y - 40, x + 8, y - 35, RED)
        case "farmer":
            c.oval(x, y - 28, 54, 10, (232, 194, 104))
            c.box(x - 26, y - 54, x + 26, y - 28, (232, 194, 104), 12)
            c.box(x - 27, y - 36, x + 27, y - 30, (180, 70, 50))
        case "firefighter":
            c.box(x - 34, y - 52, x + 34, y - 24, RED, 16)
            c.box(x - 44, y - 30, x + 44, y - 23, RED, 3)
            c.oval(x, y - 38, 8, 8, GOLD)
        case "chef":
            for dx in (-20, 0, 20):
                c.oval(x + dx, y - 56, 19, 17, WHITE)
            c.box(x - 28, y - 52, x + 28, y - 26, WHITE, 3)
            c.line((206, 210, 216), 2, x - 27, y - 30, x + 27, y - 30)
        case "builder":
            c.box(x - 33, y - 52, x + 33, y - 24, GOLD, 18)
            c.box(x - 38, y - 30, x + 38, y - 23, GOLD, 3)
            c.box(x - 4, y - 54, x + 4, y - 30, (214, 160, 40))
        case "mechanic":
            c.box(x - 32, y - 44, x + 32, y - 24, (44, 70, 132), 14)
            c.box(x - 4, y - 29, x + 46, y - 22, (44, 70, 132), 3)
        case "painter":
            c.oval(x - 5, y - 36, 39, 13, (170, 40, 60))
            c.oval(x - 5, y - 49, 4, 4, (170, 40, 60))
        case "pilot":
            c.oval(x, y - 38, 40, 14, (32, 42, 84))
            c.box(x - 33, y - 34, x + 33, y - 22, DARK, 4)
            c.oval(x, y - 36, 6, 6, GOLD)
        case _:
            pass
