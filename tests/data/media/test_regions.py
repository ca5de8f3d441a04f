"""Regions of pictures, named in a clip's id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from omnivast.config.tasks import Task
from omnivast.data.media.errors import MediaError
from omnivast.data.media.reader import ClipReader
from omnivast.data.media.regions import Region, region_of
from tests.media_factory import write_image


def test_ids_with_and_without_a_region():
    assert region_of("12.jpg%width30%height20%x1%y2") == ("12.jpg", Region(1, 2, 30, 20))
    assert region_of("a/12%width30%height20%x1%y2")[0] == "a/12"
    for plain in ("12", "12%width30%height20", "%width1%height1%x0%y0", "12%width-1%height2%x0%y0"):
        assert region_of(plain) == (plain, None)


def test_a_region_is_cut_where_it_lies_and_ends_with_the_picture():
    picture = torch.arange(6 * 8).reshape(1, 6, 8)
    assert Region(2, 1, 3, 2).cut(picture, "x").tolist() == [[[10, 11, 12], [18, 19, 20]]]
    assert Region(6, 5, 9, 9).cut(picture, "x").tolist() == [[[46, 47]]]
    for outside in (Region(8, 0, 1, 1), Region(0, 6, 1, 1), Region(0, 0, 0, 3)):
        with pytest.raises(MediaError, match="x: its region of .* lies outside the picture of 8x6"):
            outside.cut(picture, "x")


def test_clips_of_one_picture_are_its_regions_in_the_cache_too(corpus, spec, tmp_path):
    write_image(tmp_path / "pictures" / "7.jpg", (64, 32), 40)
    pixels = np.full((32, 64, 3), 40, np.uint8)
    pixels[:, 32:] = 200
    Image.fromarray(pixels).save(tmp_path / "pictures" / "7.jpg", quality=95)
    config = corpus.config(vision=str(tmp_path / "pictures"), vision_format="image_rawimage", vision_sample_num=1, task="ret%tv",
                           cache_dir=str(tmp_path / "cache"))
    left, right, missing = (f"{name}%width24%height24%x{x}%y4" for name, x in (("7", 2), ("7.jpg", 36), ("8", 0)))
    for _ in range(2):  # the second time from the cache
        reader = ClipReader(config, Task.parse("ret%tv"), spec, training=False)
        levels = [round(reader.read(clip_id, (0,)).frames.float().mean().item()) for clip_id in (left, right, "7")]
        assert abs(levels[0] - 40) < 3 and abs(levels[1] - 200) < 3 and 110 < levels[2] < 130
    with pytest.raises(MediaError, match="8: no such file"):
        reader.read(missing, (0,))
    reader.check_exists([missing, left])
