"""Words and pages rendered in fonts of this machine: data with free labels for readers and detectors of text."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from timm.data import ImageNetInfo
from torch import Tensor

FONTS = tuple(
    f"/usr/share/fonts/truetype/{name}.ttf"
    for name in (
        "dejavu/DejaVuSans",
        "dejavu/DejaVuSerif",
        "liberation/LiberationSans-Regular",
        "liberation/LiberationSerif-Regular",
        "liberation/LiberationMono-Regular",
    )
)
"""Debian's packages fonts-dejavu and fonts-liberation; those that are there are used."""


def draw_words(n: int, height: int, width: int, seed: int) -> tuple[Tensor, list[str]]:
    """Return (n, 1, height, width) uint8 images of one dark word each, and the words."""
    rng = np.random.default_rng(seed)
    words = [_vocabulary()[i] for i in rng.integers(len(_vocabulary()), size=n)]
    images = np.empty((n, 1, height, width), dtype=np.uint8)
    for image, word in zip(images, words, strict=True):
        font = _font(rng, round(0.6 * height))
        page = Image.new("L", (width, height), 255)
        left, top, right, bottom = font.getbbox(word)
        pen = ImageDraw.Draw(page)
        pen.text((4 - left, (height - bottom - top) / 2), word, font=font, fill=int(rng.integers(0, 80)))
        if right - left + 8 > width:
            page = Image.new("L", (right - left + 8, height), 255)
            ImageDraw.Draw(page).text((4 - left, (height - bottom - top) / 2), word, font=font, fill=0)
            page = page.resize((width, height))
        image[0] = np.asarray(page)
    return torch.from_numpy(images), words


def draw_pages(n: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return (n, 3, side, side) uint8 pages with some words, and (n, side, side) booleans: inside a word's box."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, 3, side, side), dtype=np.uint8)
    inside = np.zeros((n, side, side), dtype=np.bool_)
    for image, mask in zip(images, inside, strict=True):
        page = Image.new("RGB", (side, side), tuple(rng.integers(180, 256, size=3).tolist()))
        pen = ImageDraw.Draw(page)
        for row in range(int(rng.integers(2, 5))):
            font = _font(rng, int(rng.integers(14, 26)))
            word = _vocabulary()[int(rng.integers(len(_vocabulary())))]
            corner = (int(rng.integers(4, side // 3)), 8 + row * side // 5)
            pen.text(corner, word, font=font, fill=tuple(rng.integers(0, 90, size=3).tolist()))
            left, top, right, bottom = (round(edge) for edge in pen.textbbox(corner, word, font=font))
            mask[top:bottom, left : min(right, side)] = True
        image[:] = np.asarray(page).transpose(2, 0, 1)
    return torch.from_numpy(images), torch.from_numpy(inside)


@cache
def _vocabulary() -> list[str]:
    info = ImageNetInfo()
    names = (info.index_to_description(i).replace(",", " ").replace("-", " ") for i in range(1000))
    return sorted({word for name in names for word in name.split() if word.isalpha() and 3 <= len(word) <= 10})


def _font(rng: np.random.Generator, size: int) -> ImageFont.FreeTypeFont:
    there = [name for name in FONTS if Path(name).exists()]
    return ImageFont.truetype(there[int(rng.integers(len(there)))], size)
