import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import encoded, picture
from torch.nn.functional import interpolate

from hf_condense.data.decoding import map_ahead, open_image, plain_mode, square, to_pixels


def test_sixteen_bits_become_eight():
    deep = np.array([[0, 257, 32768, 65535]], np.uint16)
    shallow = plain_mode(open_image(encoded(Image.fromarray(deep))))
    assert shallow.mode == "L"
    assert np.asarray(shallow).tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("values", [[0, 257, 32768, 65535], [0, 0, 0, 0], [0, 0, 300, 0]])
def test_thirty_two_bits_that_hold_sixteen_become_eight(values):
    image = Image.fromarray(np.array([values], np.int32))
    assert open_image(encoded(image, "TIFF")).mode == "I"
    assert np.asarray(plain_mode(image)).tolist() == [[round(value / 257) for value in values]]


@pytest.mark.parametrize("values", [[0, 7, 200, 255], [0, 1, 70000, 0], [-1, 0, 500, 0]])
def test_thirty_two_bits_of_another_range_are_refused(values):
    """They would become black or white images."""
    with pytest.raises(ValueError, match="no agreed range"):
        to_pixels(encoded(Image.fromarray(np.array([values], np.int32)), "TIFF"), 1, 4)


def test_transparent_pixels_show_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    pixels = to_pixels(encoded(Image.fromarray(rgba)), 3, 2)
    assert pixels[:, 0, 0].tolist() == [10, 20, 30]
    assert (pixels[:, 1, 1] == 255).all()
    grey = np.zeros((2, 2, 2), np.uint8)
    assert plain_mode(Image.fromarray(grey)).mode == "L"
    assert (to_pixels(encoded(Image.fromarray(grey)), 1, 2) == 255).all()


def test_a_transparent_palette_shows_white():
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((0, 0), 0)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=0)
    pixels = to_pixels(buffer.getvalue(), 3, 2)
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 1, 1].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("mode", "kind", "plain"),
    [
        ("1", "PNG", "L"),
        ("L", "PNG", "L"),
        ("P", "PNG", "RGB"),
        ("P", "GIF", "RGB"),
        ("CMYK", "JPEG", "RGB"),
        ("RGB", "WEBP", "RGB"),
    ],
)
def test_every_mode_becomes_grey_or_colour(mode, kind, plain):
    data = encoded(picture(0, mode=mode), kind)
    assert plain_mode(open_image(data)).mode == plain
    assert to_pixels(data, 3, 8).shape == (3, 8, 8)
    assert to_pixels(data, 1, 8).shape == (1, 8, 8)


def test_an_image_of_the_right_size_is_left_alone():
    image = picture(1, 9, 9)
    assert np.array_equal(to_pixels(encoded(image), 3, 9), np.asarray(image).transpose(2, 0, 1))


def test_square_resize_is_antialiased_bilinear():
    image = picture(2, 48, 48)
    exact = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    exact = interpolate(exact, size=(20, 20), mode="bilinear", antialias=True, align_corners=False)[0]
    assert (torch.from_numpy(np.array(square(image, 20))).permute(2, 0, 1) - exact).abs().max() <= 1


def test_the_centre_of_a_wide_image_is_kept():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    assert np.asarray(square(Image.fromarray(wide), 10))[:, 1:-1].min() == 255
    tall = Image.fromarray(wide.transpose(1, 0, 2))
    assert np.asarray(square(tall, 10))[1:-1].min() == 255


def test_camera_orientation_is_applied():
    image = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert open_image(buffer.getvalue()).size == (4, 8)


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="range"):
        plain_mode(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_map_ahead_keeps_order_and_stays_close():
    started, lock = [], threading.Lock()

    def work(i):
        with lock:
            started.append(i)
        return i * i

    results = map_ahead(work, range(100), ahead=4)
    assert [next(results) for _ in range(10)] == [i * i for i in range(10)]
    assert len(started) <= 10 + 4
    assert list(results) == [i * i for i in range(10, 100)]


def test_map_ahead_raises_at_its_turn():
    def work(i):
        if i == 3:
            raise KeyError(i)
        return i

    results = map_ahead(work, range(10), ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)
