"""Draw portraits for members who don't exist, in the size and manner of a telephone's."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = (900, 1200)
SKIN = ["#f2d3bd", "#e0b394", "#c68e6a", "#96613f", "#6b432a"]
HAIR = ["#241a14", "#4b2f1c", "#8a5a2b", "#c9a15a", "#8d8d8d", "#a33b20"]
CLOTHES = ["#2f5d62", "#8e3b46", "#3d405b", "#6a7b3a", "#b5651d", "#4a4e69"]
ORIENTATION = 0x0112  # The EXIF tag. A viewer turns the picture clockwise by 90 degrees for 6.


def take(file: Path, *, seed: int) -> None:
    """
    Write a portrait to the file. The same seed gives the same JPEG.

    Every third portrait lies on its side, and its EXIF data says so.
    """
    portrait = _draw(random.Random(seed))  # noqa: S311  # It only chooses colours.
    exif = Image.Exif()
    if seed % 3 == 0:
        portrait = portrait.transpose(Image.Transpose.ROTATE_90)
        exif[ORIENTATION] = 6
    portrait.save(file, "JPEG", quality=88, exif=exif)


def _draw(dice: random.Random) -> Image.Image:
    hue = dice.randrange(360)
    sky = Image.linear_gradient("L").resize(SIZE)
    portrait = Image.merge("HSV", [Image.new("L", SIZE, hue * 255 // 360), *_faint(sky)])
    portrait = portrait.convert("RGB")
    pen = ImageDraw.Draw(portrait)
    hair, skin = dice.choice(HAIR), dice.choice(SKIN)
    length = dice.choice([560, 700, 900])
    pen.rounded_rectangle((225, 190, 675, length), 220, fill=hair)
    pen.ellipse((60, 860, 840, 1700), fill=dice.choice(CLOTHES))
    pen.rounded_rectangle((370, 700, 530, 940), 70, fill=skin)
    pen.ellipse((270, 280, 630, 780), fill=skin)
    pen.chord((260, 210, 640, 560), 180, 360, fill=hair)
    for eye in (380, 520):
        pen.ellipse((eye - 22, 500, eye + 22, 544), fill="#ffffff")
        pen.ellipse((eye - 11, 510, eye + 11, 534), fill="#22303c")
    pen.arc((390, 580, 510, 690), 25, 155, fill="#7d2e2e", width=10)
    return portrait


def _faint(sky: Image.Image) -> list[Image.Image]:
    """Return the saturation and brightness of a wall that is lit from above."""
    return [sky.point(lambda value: 50 + value // 4), sky.point(lambda value: 240 - value // 4)]
