import numpy as np
import pytest
import torch
from PIL import Image

from omnivast.data.media.decode import read_clip, read_frame_folder
from omnivast.data.media.errors import MediaError
from omnivast.data.media.images import read_image
from tests.media_factory import write_frames

RAMP = np.arange(64)[None].repeat(8, 0)


@pytest.mark.parametrize(
    ("name", "values"),
    [("a.png", (RAMP * 1040).astype(np.uint16)), ("a.tif", (RAMP * 1040).astype(np.uint16)), ("a.tif", (RAMP / 63).astype(np.float32)),
     ("a.tif", (RAMP * 255 / 63).astype(np.float32)), ("a.tif", (RAMP * 1040).astype(np.int32))],
)
def test_grey_of_more_than_8_bits_is_scaled(tmp_path, name, values):
    Image.fromarray(values).save(tmp_path / name)
    row = read_image(tmp_path / name)[:, 0].float()
    assert (row - torch.arange(64) * 255 / 63).abs().max() < 1.1


def test_values_that_are_no_numbers_are_black(tmp_path):
    values = np.full((8, 8), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -1
    Image.fromarray(values).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert image[0, 0, :4].tolist() == [0, 0, 0, 128]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / ("a.jpg" if mode == "YCbCr" else "a.tif" if mode == "CMYK"
                                                                             else "a.png"))
    assert read_image(next(tmp_path.iterdir())).eq(255).all()


@pytest.mark.parametrize("name", ["a.webp", "a.png", "named.mp4"])
def test_a_moving_picture_is_a_video_and_its_first_frame_a_picture(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), (level,) * 3) for level in (0, 100, 200)]
    kind = "WEBP" if name == "a.webp" else "PNG"
    frames[0].save(tmp_path / name, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
    clip = read_clip(tmp_path / name, lambda count: [0, count - 1])
    assert clip.frame_count == 3 and [frame.float().mean().round() for frame in clip.frames] == [0, 200]
    assert read_image(tmp_path / name).eq(0).all()
    frames[0].save(tmp_path / name, kind)
    with pytest.raises(MediaError, match="a still picture, not a video"):
        read_clip(tmp_path / name, lambda count: [0])


def test_hidden_files_are_no_frames(tmp_path):
    write_frames(tmp_path / "a", frames=3)
    (tmp_path / "a" / "._0001.jpg").write_bytes(b"\0\5\26\7Mac OS X")
    assert read_frame_folder(tmp_path / "a", lambda count: list(range(count))).frame_count == 3
