"""Draw membership cards, with the member's name and a portrait from a telephone, cut to size."""

from __future__ import annotations

import unicodedata
from datetime import date
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIZE = (640, 400)
PORTRAIT = (240, 320)
MARGIN = 40
BLUE, WHITE, PALE = "#17476b", "#ffffff", "#b9d3e6"


def draw(photo: Path, *, name: str, number: str, plan: str, valid_until: date) -> Image.Image:
    """Draw and return the card; raise PIL.UnidentifiedImageError if the photo is not an image."""
    card = Image.new("RGB", SIZE, BLUE)
    card.paste(_portrait(photo), (MARGIN, MARGIN))
    draw = ImageDraw.Draw(card)
    left = MARGIN + PORTRAIT[0] + 30
    draw.text((left, MARGIN), "THE CLUB", PALE, ImageFont.load_default(24))
    for line, part in enumerate(_plain(name).split(maxsplit=1)):
        draw.text((left, MARGIN + 60 + 46 * line), part, WHITE, ImageFont.load_default(40))
    draw.text((left, 232), f"{number} · {plan}", WHITE, ImageFont.load_default(26))
    draw.text((left, 272), f"valid until {valid_until:%d %b %Y}", PALE, ImageFont.load_default(22))
    draw.line((left, 328, SIZE[0] - MARGIN, 328), fill=PALE, width=2)
    return card


def _plain(name: str) -> str:
    """
    Return the name without accents, as at the foot of a passport.

    Pillow's own font has no accented letters.
    """
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()


def _portrait(photo: Path) -> Image.Image:
    with Image.open(photo) as image:
        # Decode the JPEG at a fraction of its size, because decoding takes most of the time.
        image.draft("RGB", (PORTRAIT[0] * 2, PORTRAIT[1] * 2))
        # A telephone that is held upright stores the picture on its side, and says so in the file.
        return ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), PORTRAIT)
