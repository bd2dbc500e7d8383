import io
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from ambient.curate import images, parallel
from ambient.curate.images import Unusable, decode, fit, load, load_many
from ambient.curate.units import to_uint8, to_unit
from ambient.schemas.space import Space
from awkward import build, encoded, noise, picture, png
from PIL import Image


def test_fit_keeps_what_has_the_right_size():
    pixels = noise(32, 32)
    assert np.array_equal(fit(pixels, Space(resolution=32)), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width", "top", "left"), [(32, 47, 0, 7), (45, 32, 6, 0), (33, 32, 0, 0)])
def test_fit_crops_the_centre(height, width, top, left):
    pixels = noise(height, width)
    expected = pixels[top : top + 32, left : left + 32].transpose(2, 0, 1)
    assert np.array_equal(fit(pixels, Space(resolution=32)), expected)


def test_fit_grey_is_rec_601_luma():
    pixels = noise(16, 16)
    expected = pixels @ np.array([0.299, 0.587, 0.114])
    out = fit(pixels, Space(resolution=16, channels=1))
    assert out.shape == (1, 16, 16)
    assert np.abs(out[0] - expected).max() <= 0.51
    equal = np.repeat(pixels[:, :, :1], 3, axis=2)
    assert np.array_equal(fit(equal, Space(resolution=16, channels=1))[0], equal[:, :, 0])


def test_fit_does_not_alias():
    """Stripes of one pixel are above what half the resolution can show: they become their mean, not new stripes."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = fit(stripes, Space(resolution=32))[:, 4:-4, 4:-4]
    assert np.abs(inner.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("resolution", [16, 24, 96])
def test_fit_keeps_a_ramp_where_it_is(resolution):
    """Pixel centres of the new grid lie at (i + 1/2) * 48 / R - 1/2 of the old: no shift by half a pixel."""
    ramp = np.repeat(np.repeat((np.arange(48) * 5).astype(np.uint8)[None, :, None], 48, axis=0), 3, axis=2)
    out = fit(ramp, Space(resolution=resolution))[0, resolution // 2]
    expected = 5 * ((np.arange(resolution) + 0.5) * 48 / resolution - 0.5)
    inner = slice(resolution // 6, -resolution // 6)
    assert np.abs(out[inner] - expected[inner]).max() <= 1


def test_fit_is_for_pixels():
    with pytest.raises(ValueError, match="pixel"):
        fit(noise(8, 8), Space(resolution=8, channels=4, kind="latent", vae="x"))


def test_units():
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_unit(levels)
    assert x.dtype == torch.float32 and x[0] == -1 and x[255] == 1
    torch.testing.assert_close(x, torch.linspace(-1, 1, 256))
    assert torch.equal(to_uint8(x), levels)
    assert torch.equal(to_uint8(x + 0.4 / 127.5), levels) and torch.equal(to_uint8(x - 0.4 / 127.5), levels)
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
    assert torch.equal(to_uint8(x.bfloat16()).float().round(), to_uint8(x.bfloat16().float()).float())


def test_the_limit_is_ours_not_pillows():
    """Pillow by itself warns above 89 million pixels. A header with 2^27 passes; only the missing pixels are wrong."""
    with pytest.raises(Unusable) as caught:
        decode(png((2**14, 2**13), 1, 0, b""))
    assert caught.value.status == "unreadable"


def test_size_of_what_is_too_small_or_large_is_known():
    for size, status in (((9000, 5), "too_small"), ((2**14, 2**13 + 1), "too_large")):
        with pytest.raises(Unusable) as caught, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decode(png(size, 8, 2, b""))
        assert (caught.value.status, caught.value.width, caught.value.height) == (status, *size)
        assert caught.value.format == "png"


def test_pixels_are_not_decoded_when_the_header_is_refused(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(Unusable, match="too_small"):
        decode(encoded_without_load())


def encoded_without_load():
    return png((4, 4), 8, 2, bytes(13 * 4))


@pytest.mark.parametrize("name", ["rgb.png", "rgba.png", "palette_alpha.png", "key.png", "la.png", "grey16.png"])
def test_pixels_converted_in_strips_are_the_same(tmp_path, monkeypatch, name):
    build(tmp_path)
    data = (tmp_path / name).read_bytes()
    whole = decode(data).pixels
    monkeypatch.setattr(images, "_STRIP", 20 * 5)  # five rows, which do not divide the height
    assert np.array_equal(decode(data).pixels, whole)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_a_large_picture_takes_little_more_than_its_pixels(mode):
    """A bomb: a file of a few KB that is 2^23 pixels. numpy's memory is traced, Pillow's is not: 4 bytes a pixel."""
    data = encoded(Image.new(mode, (2**12, 2**11)))
    tracemalloc.start()
    pixels = decode(data).pixels
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) < 2**18
    assert peak < pixels.nbytes * 1.7


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    busy, most, lock = [0], [0], threading.Lock()
    real = images._to_rgb

    def watched(image):
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.02)
        with lock:
            busy[0] -= 1
        return real(image)

    monkeypatch.setattr(images, "_to_rgb", watched)
    data = encoded(Image.fromarray(picture()))
    for limit, together in ((10**6, 4), (100, 1)):
        monkeypatch.setattr(images, "_LARGE", limit)
        most[0] = 0
        list(parallel.map_in_order(decode, [data] * 8, workers=4))
        assert most[0] == together


def test_a_jpeg_that_takes_minutes_is_refused_unseen():
    """Each scan of a progressive JPEG is as much work as the picture: this one would take 30 times as long."""
    whole = encoded(Image.new("RGB", (64, 64), (9, 90, 190)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    assert decode(whole).width == 64
    with pytest.raises(Unusable, match="scans"):
        decode(whole[:-2] + last * 300 + whole[-2:])


def segment(body):
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def test_what_looks_like_scans_in_metadata_or_after_the_end_is_none():
    """A motion photo is a JPEG with a film behind it, in which any two bytes occur."""
    whole = encoded(Image.fromarray(picture()), "JPEG", progressive=True)
    for data in (whole + b"\xff\xda\0" * 300, whole[:2] + segment(b"\xff\xda" * 300) + whole[2:]):
        assert np.array_equal(decode(data).pixels, decode(whole).pixels)


@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize("before", [b"", b"\xff\xff", segment(b"\xff\xd9"), segment(b""), b"\xff\xd0", b"\0\xff\0\0"])
def test_scans_are_counted_whatever_lies_between_them(before, blocks):
    """What a decoder skips does not hide them: fill bytes, segments with an end mark inside, restarts, stray bytes."""
    whole = encoded(Image.fromarray(noise(64, 64)), "JPEG", progressive=True, restart_marker_blocks=blocks)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    scans = sum(whole.count(b"\xff\xda" + bytes([0, length])) for length in (8, 12))
    for more, refused in ((images.MAX_SCANS - scans, False), (images.MAX_SCANS - scans + 1, True)):
        data = whole[:-2] + (before + last) * more + whole[-2:] + b"\xff\xda" * 300
        assert images._has_more_scans(data, images.MAX_SCANS) == refused


def test_memory_errors_are_too_large(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(picture())))

    def fail(_):
        raise MemoryError

    monkeypatch.setattr(images, "_to_rgb", fail)
    with pytest.raises(Unusable, match="memory") as caught:
        load("a.png", Space(resolution=16), {"pool": str(tmp_path)})
    assert caught.value.status == "too_large"


@pytest.mark.parametrize("kind", [OSError("gone"), ValueError("a\nb"), RuntimeError("\udcff"), KeyError("x" * 900)])
def test_load_turns_every_failure_into_unusable(monkeypatch, kind):
    def fail(*_):
        raise kind

    monkeypatch.setattr(images, "encoded", fail)
    with pytest.raises(Unusable) as caught:
        load("a.png", Space(resolution=16), {})
    reason = caught.value.reason
    clear = isinstance(kind, ValueError)  # of two words
    assert caught.value.status == "unreadable" and (type(kind).__name__ in reason) != clear
    assert "\n" not in reason and len(reason) <= 200 and reason.encode()


def test_load_many_is_the_same_for_any_number_of_workers(tmp_path):
    uris = [e.uri for e in build(tmp_path) if "#" not in e.uri and "\\x" not in e.uri] * 2
    space, roots = Space(resolution=16), {"pool": str(tmp_path)}
    runs = [list(load_many(uris, space, roots, workers=workers)) for workers in (0, 1, 3)]
    for run in runs:
        assert [index for index, _ in run] == list(range(len(uris)))
        for (_, first), (_, other) in zip(runs[0], run, strict=True):
            if isinstance(first, Unusable):
                assert (first.status, first.reason) == (other.status, other.reason)
            else:
                assert first.dtype == np.uint8 and first.shape == space.shape and np.array_equal(first, other)
    assert {type(result) for _, result in runs[0]} == {Unusable, np.ndarray}


def test_load_many_keeps_few_pictures_ahead_and_leaves_no_thread(monkeypatch):
    begun, lock = [], threading.Lock()

    def slow(uri, space, roots, content_id=None):
        with lock:
            begun.append(uri)
        time.sleep(0.005)
        return np.zeros(space.shape, np.uint8)

    monkeypatch.setattr(images, "load", slow)
    threads = threading.active_count()
    iterator = load_many([str(i) for i in range(2_000)], Space(resolution=8), {}, workers=2)
    for _ in range(5):
        next(iterator)
    time.sleep(0.2)
    assert len(begun) <= 5 + 2 * parallel._AHEAD + 1
    iterator.close()
    assert threading.active_count() == threads


def test_load_many_drops_what_is_waiting_when_closed(monkeypatch):
    begun = []

    def slow(uri, space, roots, content_id=None):
        begun.append(uri)
        time.sleep(0.02)
        return np.zeros(space.shape, np.uint8)

    monkeypatch.setattr(images, "load", slow)
    iterator = load_many([str(i) for i in range(100)], Space(resolution=8), {}, workers=1)
    next(iterator)
    iterator.close()
    assert len(begun) <= 3


def test_decode_names_the_format():
    data = io.BytesIO()
    Image.fromarray(picture()).save(data, "JPEG")
    decoded = decode(data.getvalue())
    assert (decoded.format, decoded.width, decoded.height) == ("jpeg", 20, 24)
