"""A canvas in scene units: 256 x 256, drawn twice as large and averaged down for smooth edges."""

from PIL import Image, ImageDraw

SIZE = 256
SCALE = 2

Color = tuple[int, int, int]

WOOD: Color = (166, 118, 70)
STEEL: Color = (150, 158, 168)
DARK: Color = (48, 46, 52)
WHITE: Color = (252, 252, 252)


class Canvas:
    """Shapes in scene units, shifted by (x, y)."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE))
        self._draw = ImageDraw.Draw(self.image)
        self.x = 0.0
        self.y = 0.0

    def _at(self, *numbers: float) -> list[float]:
        shift = (self.x, self.y)
        return [(value + shift[i % 2]) * SCALE for i, value in enumerate(numbers)]

    def box(self, a: float, b: float, c: float, d: float, fill: Color, radius: float = 0) -> None:
        self._draw.rounded_rectangle(self._at(a, b, c, d), radius * SCALE, fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Color) -> None:
        self._draw.ellipse(self._at(x - rx, y - ry, x + rx, y + ry), fill)

    def shape(self, fill: Color, *numbers: float) -> None:
        self._draw.polygon(self._at(*numbers), fill)

    def line(self, fill: Color, width: float, *numbers: float) -> None:
        points = self._at(*numbers)
        self._draw.line(points, fill, round(width * SCALE), joint="curve")
        radius = width * SCALE / 2
        for x, y in zip(points[::2], points[1::2], strict=True):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill)

    def arc(self, fill: Color, width: float, box: tuple[float, ...], start: int, end: int) -> None:
        self._draw.arc(self._at(*box), start, end, fill, round(width * SCALE))
