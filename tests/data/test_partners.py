"""Partners are called by the words of their names, and never by a camera's."""

import pytest

from b4m.data.partners import partner_prompt, partner_words


def test_prompts_from_names():
    assert partner_prompt("style", "styles/02_water-colour.png") == "a picture in water colour style"
    assert partner_prompt("content", "things/Garden House/") == "a photo of Garden House"
    assert partner_prompt("content", "123") == "a photo of another"
    assert partner_prompt("style", "DCIM/IMG_2041.JPG") == "a picture in another style"


@pytest.mark.parametrize(
    "name",
    "IMG_2041.JPG DSC00012.jpg _DSC1234.NEF.jpg DSCN0001.jpg P1010001.jpg PXL_20240501_123011.jpg "
    "IMG-20240501-WA0001.jpg _MG_1234.jpg GOPR0042.jpg DJI_0001.jpg SAM_0007.jpg 100_1234.jpg "
    "3f2a9c0d7e.png  20240501_123011.jpg Screenshot_20240501.png d41d8cd98f00b204e9800998ecf8427e.png "
    "x7Yz9Qk2.webp ComfyUI_00012_.png image.png  style3 123e4567-e89b-12d3-a456-426614174000.png "
    "download(1).jpg untitled.png FB_IMG_1714550000.jpg 00012-987654321.png  signal-2024-05-01-123011.jpg "
    "12345678_p0.jpg IMG_1234(2).jpg Scan_001.tif partner_a ".split()
    + [
        "2024-05-01 12.30.11.jpg",
        "WhatsApp Image 2024-05-01 at 12.30.11.jpeg",
        "New folder (2)",
        "Screen Shot 2024-05-01",
    ],
)
def test_names_of_cameras_downloads_and_identifiers_say_nothing(name):
    assert partner_words(f"somewhere/{name}") == ""


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "02_paper-cut.png": "paper cut",
        "IMG_1234_watercolour.png": "watercolour",
        "80s synthwave.jpg": "s synthwave",
        "oil painting": "oil painting",
        "Öl auf Leinwand.png": "Öl auf Leinwand",
        "水彩.png": "水彩",
        "猫.png": "猫",
        "photo of a dog.png": "photo of a dog",
        "Sam.png": "Sam",
        "decade90.png": "decade",
        "a_red_car_123e4567-e89b-12d3-a456-426614174000.png": "a red car",
    }.items(),
)  # fmt: skip
def test_words_stay(name, words):
    assert partner_words(name) == words
