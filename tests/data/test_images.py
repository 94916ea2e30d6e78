import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

import trip.data.images as images
from trip.data.images import MAX_PIXELS, SHARES, fit_image, load_image, output_size, to_rgb
from trip.data.video.metadata import find_metadata

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants(width: int = 64, height: int = 48) -> Image.Image:
    """Red | green over blue | white: every orientation looks different."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def error_of(path: Path, **options) -> str:
    with pytest.raises(ValueError) as caught:
        load_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message and path.name in message and ";" in message
    return message


# --------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".gif", ".webp", ".jpg", ".jp2", ".ppm", ".tga"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"still{suffix}"
    quadrants().save(path, **{".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {}))
    image = load_image(path)
    assert image.mode == "RGB" and image.size == (64, 48)
    np.testing.assert_allclose(np.asarray(image).astype(int), np.asarray(quadrants()), atol=40)
    assert image.getpixel((8, 8)) == pytest.approx(RED, abs=4)


def turned(path: Path, orientation: int) -> Path:
    """Write `quadrants` so that the EXIF tag has to bring it upright."""
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation](np.asarray(quadrants()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(path.suffix, {})
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_whoever_opens_them(tmp_path, orientation, suffix):
    """By name, by Pillow before it decodes, after it did, and as a copy, which has lost its file."""
    path = turned(tmp_path / f"o{suffix}", orientation)
    with Image.open(path) as lazy, Image.open(path) as decoded:
        decoded.load()
        for upright in (load_image(path), to_rgb(lazy), to_rgb(decoded), to_rgb(decoded.copy())):
            assert upright.mode == "RGB" and upright.size == (64, 48)
            corners = [upright.getpixel(at) for at in ((4, 4), (59, 4), (4, 43), (59, 43))]
            np.testing.assert_allclose(corners, [RED, GREEN, BLUE, WHITE], atol=9 if suffix == ".avif" else 4)


def test_damaged_exif_does_not_matter(tmp_path):
    quadrants().save(tmp_path / "e.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert load_image(tmp_path / "e.jpg").size == (64, 48)


def test_alpha_lies_on_white_or_the_chosen_colour(tmp_path):
    image = quadrants().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.paste((255, 0, 0, 128), (0, 0, 16, 16))
    image.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((40, 40)) == WHITE
    assert load_image(tmp_path / "a.png").getpixel((8, 8)) == pytest.approx((255, 127, 127), abs=1)
    assert load_image(tmp_path / "a.png", background=(0, 0, 9)).getpixel((40, 40)) == (0, 0, 9)


def test_palette_with_transparency(tmp_path):
    image = quadrants().quantize(8)
    transparent = image.getpixel((0, 0))
    image.save(tmp_path / "p.png", transparency=transparent)
    image.save(tmp_path / "p.gif", transparency=transparent)
    for name in ("p.png", "p.gif"):
        loaded = load_image(tmp_path / name)
        assert loaded.getpixel((4, 4)) == WHITE and loaded.getpixel((59, 4)) == GREEN


GREY = (128, 128, 128)
ORANGE = (255, 128, 0)
HALF_RED = (255, 127, 127)


def made(mode: str, colour, **info) -> Image.Image:
    """A flat picture as a program makes it."""
    image = Image.new(mode, (20, 20), colour)
    image.info.update(info)
    return image


def with_palette(mode: str, palette: list[int], index: object, **info) -> Image.Image:
    image = made("P", 0, **info)
    image.putpalette(palette, mode)
    image.paste(index, (0, 0, 20, 20))
    return image


def palette_and_mask(alpha: int) -> Image.Image:
    image = with_palette("RGB", [0, 0, 0, *RED], 1).convert("PA")
    image.putalpha(alpha)
    return image


def lab(colour) -> Image.Image:
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(Image.new("RGB", (20, 20), colour), *spaces, outputMode="LAB")
    assert converted is not None
    return converted


MODES = {
    "1": (made("1", 1), WHITE),
    "L": (made("L", 128), GREY),
    "P": (with_palette("RGB", [0, 0, 0, *ORANGE], 1), ORANGE),
    "RGB": (made("RGB", ORANGE), ORANGE),
    "RGBX": (made("RGBX", (*ORANGE, 0)), ORANGE),
    "CMYK": (made("CMYK", (0, 127, 255, 0)), ORANGE),
    "YCbCr": (made("RGB", ORANGE).convert("YCbCr"), ORANGE),
    "HSV": (made("RGB", ORANGE).convert("HSV"), ORANGE),
    "LAB": (lab((200, 120, 60)), (200, 120, 60)),
    "F": (made("F", 128 / 255), GREY),
    "I": (made("I", 128 * 257), GREY),
    **{f"I;16{order}": (made(f"I;16{order}", 128 * 257), GREY) for order in ("", "L", "B", "N")},
    "RGBA": (made("RGBA", (255, 0, 0, 128)), HALF_RED),
    "RGBA hidden": (made("RGBA", (9, 9, 9, 0)), WHITE),
    "RGBa": (made("RGBA", (255, 0, 0, 128)).convert("RGBa"), HALF_RED),
    "LA": (made("LA", (0, 128)), (127, 127, 127)),
    "La": (made("LA", (0, 128)).convert("La"), (127, 127, 127)),
    "PA": (palette_and_mask(128), HALF_RED),
    "PA hidden": (palette_and_mask(0), WHITE),
    "I black": (made("I", 0), (0, 0, 0)),
    "P with a transparent index": (with_palette("RGB", [0, 0, 0, *RED], 1, transparency=1), WHITE),
    "P with a table of alphas": (with_palette("RGB", [0, 0, 0, *RED], 1, transparency=bytes([0, 128])), HALF_RED),
    "P with an RGBA palette": (with_palette("RGBA", [0, 0, 0, 0, *RED, 128], 1), HALF_RED),
    "L with a transparent level": (made("L", 7, transparency=7), WHITE),
    "1 with a transparent level": (made("1", 0, transparency=0), WHITE),
    "I;16 with a transparent level": (made("I;16", 700, transparency=700), WHITE),
    "I;16 with another level": (made("I;16", 128 * 257, transparency=700), GREY),
    "RGB with a transparent colour": (made("RGB", (9, 8, 7), transparency=(9, 8, 7)), WHITE),
    "RGB with one of 16 bit": (made("RGB", (9, 8, 7), transparency=(9 * 257, 8 * 257, 7 * 257)), WHITE),
}


@pytest.mark.parametrize("banded", [False, True])
@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_what_it_shows(name, banded, monkeypatch):
    image, colour = MODES[name]
    before = image.copy()
    if banded:
        monkeypatch.setattr(images, "BAND", 60)
    np.testing.assert_allclose(np.asarray(to_rgb(image)).reshape(-1, 3), [colour] * 400, atol=2)
    assert (image.mode, image.tobytes(), image.info) == (before.mode, before.tobytes(), before.info)


def test_a_picture_given_in_python_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^image holds float values 0 to 300, which must lie in 0 to 1; save it"):
        to_rgb(Image.fromarray(np.linspace(0, 300, 400, dtype=np.float32).reshape(20, 20)))
    with pytest.raises(
        ValueError, match=r'^image holds integers of at most 200 in mode I.*; pass image\.convert\("L"\)$'
    ):
        to_rgb(made("L", 200).convert("I"))
    quadrants(256, 256).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1000])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(ValueError, match=r"^image is damaged or incomplete"):
        to_rgb(image)


def test_the_current_frame_of_an_animation_given_in_python_is_taken(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as image:
        image.seek(1)
        assert to_rgb(image).getpixel((9, 9)) == GREEN


def test_a_dark_file_of_16_bit_stays_dark(tmp_path):
    Image.new("I", (20, 20), 200).save(tmp_path / "dark.tif")
    with Image.open(tmp_path / "dark.tif") as image:
        assert to_rgb(image).getpixel((9, 9)) == load_image(tmp_path / "dark.tif").getpixel((9, 9)) == (1, 1, 1)
        image.load()  # which closes the file
        assert to_rgb(image).getpixel((9, 9)) == (1, 1, 1)


@pytest.mark.parametrize("turn", [1, 6])
def test_heic(tmp_path, turn):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = turn
    heif.from_pillow(quadrants()).save(tmp_path / "h.heic", quality=95, exif=exif.tobytes())
    corner = load_image(tmp_path / "h.heic").getpixel((4, 4))
    assert corner == pytest.approx(RED if turn == 1 else BLUE, abs=12)


def test_heic_without_its_decoder_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / "h.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert "pip install 'trip-i2v[heif]'" in error_of(tmp_path / "h.heic")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bit_is_scaled_not_clipped(tmp_path, suffix):
    ramp = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (32, 1))
    Image.fromarray(ramp).save(tmp_path / f"ramp{suffix}")
    grey = np.asarray(load_image(tmp_path / f"ramp{suffix}"))
    np.testing.assert_array_equal(grey[0, :, 0], np.arange(256))


def test_sixteen_bit_colour(tmp_path):
    """An RGB PNG of 16 bit, which Pillow cannot write."""
    row = b"\0" + struct.pack(">3H", 65535, 32896, 0) * 16
    header = struct.pack(">2I5B", 16, 16, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(row * 16)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    (tmp_path / "c.png").write_bytes(data)
    assert load_image(tmp_path / "c.png").getpixel((5, 5)) == (255, 128, 0)


def test_sixteen_bit_white_is_zero(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "w.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "w.tif") as image:
        if image.tag_v2[262] != 0:
            pytest.skip("this Pillow does not write photometric 0")
    assert load_image(tmp_path / "w.tif").getpixel((0, 0)) == WHITE


def test_float_pictures(tmp_path):
    values = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert load_image(tmp_path / "f.tif").getpixel((31, 0)) == WHITE
    Image.fromarray(values * 300).save(tmp_path / "f.tif")
    assert "0 to 300" in error_of(tmp_path / "f.tif")


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_with_and_without_adobe_marker(tmp_path, adobe):
    """Adobe stores inks inverted and says so; without its marker they are stored as they are."""
    path = tmp_path / "inks.jpg"
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[..., 1] = inks[..., 2] = 255  # magenta + yellow = red
    Image.fromarray(inks if adobe else 255 - inks, "CMYK").save(path, quality=95)
    data = path.read_bytes()
    marker = data.index(b"\xff\xee")
    assert data[marker + 4 : marker + 9] == b"Adobe"
    if not adobe:
        length = struct.unpack(">H", data[marker + 2 : marker + 4])[0]
        path.write_bytes(data[:marker] + data[marker + 2 + length :])
    assert load_image(path).getpixel((9, 9)) == pytest.approx(RED, abs=4)


def test_embedded_profile_is_converted_to_srgb(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("srgb", srgb), ("wrong-space", lab), ("garbage", b"not a profile")):
        quadrants().save(tmp_path / f"{name}.png", icc_profile=profile)
        assert load_image(tmp_path / f"{name}.png").getpixel((60, 4)) == GREEN


def test_profile_with_other_primaries_changes_the_numbers(tmp_path):
    """sRGB's profile with red and green primaries swapped: stored red is meant as green."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    profile = profile.replace(b"rXYZ", b"xXYZ").replace(b"gXYZ", b"rXYZ").replace(b"xXYZ", b"gXYZ")
    quadrants().save(tmp_path / "swapped.png", icc_profile=profile)
    assert load_image(tmp_path / "swapped.png").getpixel((4, 4)) == pytest.approx(GREEN, abs=2)
    quadrants().convert("RGBA").save(tmp_path / "swapped.png", icc_profile=profile)
    assert load_image(tmp_path / "swapped.png").getpixel((4, 4)) == pytest.approx(GREEN, abs=2)


def test_animated_gives_first_frame(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert load_image(tmp_path / name).getpixel((16, 16)) == pytest.approx(RED, abs=3)


def test_shared_stills(shared):
    files = sorted((shared / "stills").glob("*.png"))
    for file in files[:4]:
        image = load_image(file)
        assert image.mode == "RGB" and min(image.size) >= 16
        assert fit_image(image, *output_size(image, 8, 64 * 64)).size == output_size(image, 8, 64 * 64)


# ---------------------------------------------------------------------------------------------------- errors


def test_unreadable_files(tmp_path):
    quadrants(256, 256).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    quadrants(256, 256).save(tmp_path / "whole.png", compress_level=0)
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("this is no picture\n" * 9)
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")
    assert "damaged or incomplete" in error_of(tmp_path / "cut.jpg")
    assert "damaged or incomplete" in error_of(tmp_path / "cut.png")
    assert "empty" in error_of(tmp_path / "empty.png")
    assert "convert it" in error_of(tmp_path / "text.png")
    assert "convert it" in error_of(tmp_path / "page.eps")
    assert "does not exist" in error_of(tmp_path / "missing.png")
    assert "does not exist" in error_of(tmp_path / ("x" * 999))
    assert "is a folder" in error_of(tmp_path)


def test_every_truncation_of_a_jpeg_is_a_clear_error(tmp_path):
    quadrants(48, 48).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    for length in range(1, len(data) - 40, 41):
        (tmp_path / "cut.jpg").write_bytes(data[:length])
        error_of(tmp_path / "cut.jpg")


def test_size_limits(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    Image.new("RGB", (400, 15)).save(tmp_path / "flat.png")
    assert "1x1" in error_of(tmp_path / "one.png")
    assert "400x15" in error_of(tmp_path / "flat.png")
    assert load_image(tmp_path / "flat.png", min_side=8).size == (400, 15)
    assert "100 pixels" not in error_of(tmp_path / "flat.png", max_pixels=100)
    assert "400x15" in error_of(tmp_path / "flat.png", max_pixels=100)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        for name in ("pipe.png", "zero.png", "socket.png"):
            error_of(tmp_path / name)


@pytest.mark.parametrize("head", [b"RIFF\xff\xff\xff\x7fWEBPVP8L", b"\x89PNG\r\n\x1a\n", b"II*\0"])
def test_a_file_of_gigabytes_is_not_read(tmp_path, head):
    (tmp_path / "hole.webp").write_bytes(head)
    os.truncate(tmp_path / "hole.webp", 3 << 30)
    assert "3,221,225,472 bytes" in error_of(tmp_path / "hole.webp")
    assert find_metadata(tmp_path / "hole.webp") is None


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path):
    quadrants(128, 96).save(tmp_path / "b.jpg", quality=95)
    quadrants(128, 96).save(tmp_path / "p.jpg", quality=95, progressive=True)
    image = load_image(tmp_path / "b.jpg", max_pixels=96 * 64)
    assert image.size == (64, 48) and image.getpixel((4, 4)) == pytest.approx(RED, abs=4)
    assert "128x96" in error_of(tmp_path / "p.jpg", max_pixels=96 * 64)
    assert "128x96" in error_of(tmp_path / "b.jpg", max_pixels=int(128 * 96 / SHARES["JPEG"]) - 1)


@pytest.mark.parametrize("side", [13_000, 20_000])
def test_pixel_limit_is_checked_in_the_header(tmp_path, side):
    """Of these files only a header exists: decoding would say 'truncated'. 13,000 squared lies where Pillow
    warns, 20,000 squared where it refuses; neither message may come through."""
    body = b"IHDR" + struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT")
    message = error_of(tmp_path / "huge.png")
    assert f"{MAX_PIXELS:,}" in message and ("13000x13000" in message or "400,000,000" in message)


# -------------------------------------------------------------------------------------------------- geometry


def test_the_middle_fills_the_frame():
    image = Image.new("RGB", (90, 30), GREEN)
    image.paste(RED, (0, 0, 30, 30))
    image.paste(BLUE, (60, 0, 90, 30))
    cover = np.asarray(fit_image(image, 20, 20))
    assert (cover[5:15, 5:15] == GREEN).all() and cover.shape == (20, 20, 3)


def test_reduction_does_not_alias():
    """A checkerboard of single pixels becomes grey, as its mean says."""
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    image = Image.fromarray(board).convert("RGB")
    np.testing.assert_allclose(np.asarray(fit_image(image, 31, 31)).astype(int), 127.5, atol=3)


def test_same_size_is_the_identity():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    np.testing.assert_array_equal(np.asarray(fit_image(image, 32, 24)), np.asarray(image))


sides = st.integers(1, 400)


@given(width=sides, height=sides, out_width=st.integers(1, 80), out_height=st.integers(1, 80))
def test_fit_has_the_asked_size_and_keeps_flat_colours(width, height, out_width, out_height):
    image = Image.new("RGB", (width, height), (10, 200, 30))
    fitted = fit_image(image, out_width, out_height)
    assert fitted.size == (out_width, out_height)
    assert (np.asarray(fitted) == (10, 200, 30)).all()


def test_fit_errors():
    image = Image.new("RGB", (9, 9))
    with pytest.raises(ValueError, match=r"0x4.*at least 1x1"):
        fit_image(image, 0, 4)


@pytest.mark.parametrize(
    ("image", "expected"),
    [((640, 640), (64, 64)), ((4000, 3000), (72, 56)), ((3000, 4000), (56, 72)), ((9000, 100), (128, 32))],
)
def test_output_size_examples(image, expected):
    assert output_size(image, 8, (64, 64)) == expected


@given(st.integers(16, 5000), st.integers(16, 5000), st.sampled_from([8, 16, 32]), st.integers(4, 40))
def test_output_size_is_near_area_and_aspect(width, height, multiple, blocks):
    area = (blocks * multiple) ** 2
    w, h = output_size((width, height), multiple, area)
    assert w % multiple == h % multiple == 0 and w > 0 and h > 0
    aspect = min(max(width / height, 0.25), 4)
    assert abs(np.log(w * h / area)) < np.log(1.5)
    assert abs(np.log(w / h / aspect)) < np.log(1.5)


def test_output_size_with_a_side_given():
    assert output_size((640, 480), 8, 4096, width=128) == (128, 96)
    assert output_size((640, 480), 8, 4096, height=48) == (64, 48)
    assert output_size((640, 480), 8, 4096, width=64, height=64) == (64, 64)
    assert output_size(Image.new("RGB", (640, 480)), 8, 4096, width=64) == (64, 48)
    with pytest.raises(ValueError, match=r"width \(=100\).*multiple of 8; try 96"):
        output_size((640, 480), 8, 4096, width=100)
    with pytest.raises(ValueError, match=r"area \(=9\)"):
        output_size((640, 480), 8, 9)
