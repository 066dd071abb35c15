from __future__ import annotations

from datetime import date

import pytest
from PIL import Image, UnidentifiedImageError

from example_project.members import cards
from example_project.members.demo import portraits


def draw(photo, name="Chloé Dvořák"):
    return cards.draw(
        photo, name=name, number="M-0001", plan="Family", valid_until=date(2099, 1, 1)
    )


@pytest.mark.parametrize("seed", [2, 3], ids=["upright", "on its side"])
def test_portrait_is_upright(site, seed):
    portraits.take(site / "photo.jpg", seed=seed)

    card = draw(site / "photo.jpg")

    # The wall behind the head is lighter above than below; a picture on its side has it so
    # from left to right.
    column = [sum(card.getpixel((cards.MARGIN + 5, cards.MARGIN + y))) for y in (5, 100, 200)]
    assert column == sorted(column, reverse=True)
    assert column[0] > column[-1]


@pytest.mark.parametrize("name", ["Zoë", "", "Ada Maria de la Cruz", "李 小龍"])
def test_card_accepts_any_name(site, name):
    portraits.take(site / "photo.jpg", seed=1)

    assert draw(site / "photo.jpg", name).size == cards.SIZE


def test_invalid_picture_is_refused(site):
    (site / "photo.jpg").write_bytes(b"no picture")

    with pytest.raises(UnidentifiedImageError):
        draw(site / "photo.jpg")


def test_portraits_have_the_size_of_phone_pictures(site):
    portraits.take(site / "photo.jpg", seed=3)

    with Image.open(site / "photo.jpg") as photo:
        assert photo.size == (1200, 900)
        assert photo.getexif()[portraits.ORIENTATION] == 6
