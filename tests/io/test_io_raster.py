"""Photographs and masks: channels first, palettes, depth, EXIF turns, bombs."""

from __future__ import annotations

import errno
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.doors import read_geometry, read_image, read_segmentation, write_array, write_segmentation

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_colour_pictures_are_read_channels_first_in_pixels(tmp_path, name):
    array = RNG.integers(0, 255, (7, 9, 3)).astype(np.uint8)
    Pillow.fromarray(array).save(tmp_path / name)
    image = read_image(tmp_path / name)
    np.testing.assert_array_equal(image.array, array.transpose(2, 0, 1))
    assert image.geometry.shape == (7, 9)
    assert image.geometry.unit == "px"
    assert read_geometry(tmp_path / name).shape == (7, 9)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_of_grey_are_kept(tmp_path, name):
    array = RNG.integers(0, 65535, (7, 9)).astype(np.uint16)
    write_array(array[None], Geometry.pixels(array.shape), tmp_path / name)
    read = read_image(tmp_path / name).array
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read[0], array)


def test_sixteen_bits_a_colour_are_read_from_tiff(tmp_path):
    import tifffile

    array = RNG.integers(0, 65535, (7, 9, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, array.transpose(2, 0, 1))


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_exif_turns_are_applied_to_array_and_grid(tmp_path, turn):
    exif = Pillow.Exif()
    exif[0x0112] = turn
    array = np.zeros((8, 16), np.uint8)
    array[:4, :4] = 255
    Pillow.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=100)
    image = read_image(tmp_path / "a.jpg")
    assert image.geometry.shape == ((16, 8) if turn in (6, 8) else (8, 16))
    assert read_geometry(tmp_path / "a.jpg").shape == image.geometry.shape
    corner = {1: (0, 0), 3: (-1, -1), 6: (0, -1), 8: (-1, 0)}[turn]
    assert image.array[0][corner] > 200
    assert bool(image.notes) is (turn != 1)


def test_a_palette_mask_gives_its_indices(tmp_path):
    labels = RNG.integers(0, 3, (7, 9)).astype(np.uint8)
    picture = Pillow.fromarray(labels, mode="P")
    picture.putpalette([0, 0, 0, 200, 10, 10, 200, 10, 10])
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "m.png").labels, labels)


def test_masks_are_written_in_the_classes_colours_and_read_back(tmp_path):
    labels = RNG.integers(0, 3, (7, 9)).astype(np.uint8)
    classes = (ClassInfo("road", 1, (10, 200, 30)), ClassInfo("sky", 2, (1, 2, 250)))
    seg = Segmentation(labels, Geometry.pixels(labels.shape), classes)
    path = write_segmentation(seg, tmp_path / "m.png")
    back = read_segmentation(path, classes)
    np.testing.assert_array_equal(back.labels, labels)
    assert back.classes == classes
    shown = np.asarray(Pillow.open(path).convert("RGB"))
    assert tuple(shown[labels == 2][0]) == (1, 2, 250)


def test_label_values_above_255_need_and_get_sixteen_bits(tmp_path):
    labels = np.array([[0, 300], [70, 1000]], dtype=np.int32)
    seg = Segmentation(labels, Geometry.pixels(labels.shape), (ClassInfo("x", 300, (1, 1, 1)),))
    np.testing.assert_array_equal(
        read_segmentation(write_segmentation(seg, tmp_path / "m.png")).labels, labels
    )


def test_a_grey_mask_stored_as_colours_is_read_and_a_coloured_one_refused(tmp_path):
    labels = RNG.integers(0, 3, (7, 9)).astype(np.uint8)
    Pillow.fromarray(np.repeat(labels[..., None], 3, axis=2)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "grey.png").labels, labels)
    Pillow.fromarray(RNG.integers(0, 255, (7, 9, 3)).astype(np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match="is a mask in colours"):
        read_segmentation(tmp_path / "colour.png")


def test_alpha_is_left_out_and_said(tmp_path):
    Pillow.fromarray(RNG.integers(0, 255, (7, 9, 4)).astype(np.uint8)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.array.shape == (3, 7, 9)
    assert image.notes == ("alpha channel left out",)


def test_damage_and_strange_files_are_named(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"is empty \(0 bytes\)"):
        read_image(tmp_path / "empty.png")
    buffer = io.BytesIO()
    Pillow.fromarray(RNG.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:3000])
    with pytest.raises(UserError, match=r"is damaged"):
        read_image(tmp_path / "cut.png")
    (tmp_path / "text.png").write_text("hello" * 100)
    with pytest.raises(UserError, match="is no picture that can be read"):
        read_image(tmp_path / "text.png")


def test_a_stack_of_pages_is_refused(tmp_path):
    pages = [Pillow.fromarray(np.zeros((4, 4), np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="holds 3 pages"):
        read_image(tmp_path / "a.tif")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 200_000, 8, 0, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )
    with pytest.raises(UserError, match=r"claims (160 GB|more pixels)"):
        read_image(tmp_path / "bomb.png")


def test_a_volume_is_not_written_as_a_picture(tmp_path):
    seg = Segmentation(np.zeros((3, 4, 5), np.uint8), Geometry.from_spacing((3, 4, 5), (1, 1, 1)))
    with pytest.raises(UserError, match="a picture has two axes"):
        write_segmentation(seg, tmp_path / "a.png")


# --- the decoder is another process ---------------------------------------------------------------------------------


@pytest.fixture
def fresh_decoders():
    from medseg.io import pictures
    from medseg.io.dicom.decode import end_all

    end_all(pictures._idle)
    yield
    end_all(pictures._idle)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"the decoder of its pixels died of it \(signal SIGSEGV\)"),
        ("os._exit(7)", r"died of it \((exit code 7|signal SIGKILL)\)"),
        ("say({'shape': [10**12], 'dtype': '|u1'})", "it unpacks to more than its header says"),
        ("say({'error': 'broken PNG file'})", r"is damaged \(broken PNG file\)"),
    ],
)
def test_a_picture_that_the_decoder_dies_of_is_a_sentence(
    tmp_path, monkeypatch, fresh_decoders, body, message
):
    from medseg.io import pictures
    from medseg.io.dicom.decode import end_all

    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, signal, sys\n"
        "for line in iter(sys.stdin.buffer.readline, b''):\n"
        "    say = lambda m: (sys.stdout.buffer.write(json.dumps(m).encode() + b'\\n'), sys.stdout.buffer.flush())\n"
        f"    {body}\n"
    )
    Pillow.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "PROGRAM", program)
    with pytest.raises(UserError, match=message) as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.where == "a.png"
    monkeypatch.undo()
    end_all(pictures._idle)
    assert read_image(tmp_path / "a.png").array.shape == (1, 5, 6)


def test_a_decoder_that_cannot_be_started_does_not_make_the_picture_a_damaged_one(
    tmp_path, monkeypatch, fresh_decoders
):
    def refused(*words, **settings):
        raise PermissionError(errno.EACCES, "Permission denied")

    Pillow.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr("medseg.io.dicom.decode.subprocess.Popen", refused)
    with pytest.raises(UserError, match=r"unpacks pixels cannot be started \(Permission denied\)") as caught:
        read_image(tmp_path / "a.png")
    assert "damaged" not in str(caught.value)
    assert "the image may be sound" in caught.value.hint


def test_pictures_share_one_decoder_and_pixels_are_those_of_pillow(tmp_path, fresh_decoders):
    from medseg.io import pictures

    for mode, suffix in (("L", ".png"), ("RGB", ".jpg"), ("P", ".png"), ("1", ".png"), ("I;16", ".png"),
                         ("RGBA", ".png"), ("LA", ".png"), ("F", ".tif"), ("CMYK", ".tif")):  # fmt: skip
        path = tmp_path / f"{mode.replace(';', '')}{suffix}"
        shape = (7, 5, *{"RGB": (3,), "RGBA": (4,), "LA": (2,), "CMYK": (4,)}.get(mode, ()))
        if mode == "F":
            picture = Pillow.fromarray(RNG.normal(size=shape).astype(np.float32))
        elif mode == "I;16":
            picture = Pillow.fromarray(RNG.integers(0, 65535, shape).astype(np.uint16))
        elif mode in ("P", "1"):
            picture = Pillow.fromarray(RNG.integers(0, 255, shape).astype(np.uint8)).convert(mode)
        else:
            picture = Pillow.fromarray(RNG.integers(0, 255, shape).astype(np.uint8), mode)
        picture.save(path)
        with Pillow.open(path) as direct:
            facts, _ = pictures.unpacked(path, 10**6)
            assert (facts["mode"], tuple(facts["size"])) == (direct.mode, direct.size)
            plain = np.asarray(direct if direct.mode in ("L", "RGB", "F", "I;16") else direct.convert("RGB"))
        ours = read_image(path).array
        if mode in ("L", "RGB", "F", "I;16", "P", "RGBA", "CMYK"):
            np.testing.assert_array_equal(ours[0] if ours.shape[0] == 1 else np.moveaxis(ours, 0, -1), plain)
    assert pictures._idle.qsize() == 1
