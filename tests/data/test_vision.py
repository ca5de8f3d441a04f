import pytest
import torch

from omnivast.data.vision import RESIZES, Resize, find_resize, frame_indices, frame_transform
from omnivast.utils.random import generator


@pytest.mark.parametrize(
    ("count", "parts", "expected"),
    [
        (12, 4, [1, 4, 7, 10]),  # parts of 3: the middle one
        (16, 4, [1, 5, 9, 13]),  # parts of 4: ceil(4/2)-1 = 1
        (10, 4, [1, 4, 6, 8]),  # parts 3, 3, 2, 2
        (8, 8, list(range(8))),
        (7, 1, [3]),
        (8, 1, [3]),
        (3, 5, [0, 1, 2, 2, 2]),  # fewer than asked: the last repeats
        (1, 2, [0, 0]),
    ],
)
def test_frame_indices_in_evaluation(count, parts, expected):
    assert frame_indices(count, parts, training=False) == expected


def test_training_draws_one_index_inside_each_part_and_reaches_all():
    seen = [set(), set(), set(), set()]
    for k in range(200):
        for part, index in enumerate(frame_indices(10, 4, True, generator(k))):
            seen[part].add(index)
    assert seen == [{0, 1, 2}, {3, 4, 5}, {6, 7}, {8, 9}]
    assert frame_indices(10, 4, True, generator(5)) == frame_indices(10, 4, True, generator(5))


def test_no_frame_is_an_error():
    with pytest.raises(ValueError, match="0 frames"):
        frame_indices(0, 2, False)


def test_none_resizes_to_a_square_and_leaves_the_right_size_alone():
    frame = torch.randint(256, (3, 30, 50), dtype=torch.uint8)
    assert frame_transform("none", 24, True)(frame).shape == (3, 24, 24)
    square = torch.randint(256, (3, 24, 24), dtype=torch.uint8)
    assert torch.equal(frame_transform("none", 24, False)(square), square)


def test_crop_flip_in_evaluation_takes_the_centre():
    frame = torch.zeros(3, 20, 60, dtype=torch.uint8)
    frame[:, :, 20:40] = 200
    out = frame_transform("crop_flip", 20, training=False)(frame)
    assert out.shape == (3, 20, 20) and (out == 200).all()


def test_crop_flip_in_training_is_the_same_for_all_frames_of_a_clip():
    ramp = torch.arange(64, dtype=torch.uint8).mul(3)[None, None, :].expand(3, 64, 64)
    outs = {}
    for key in range(12):
        transform = frame_transform("crop_flip", 32, True, ("clip", key))
        assert torch.equal(transform(ramp), transform(ramp))
        outs[key] = transform(ramp)
    flipped = [bool(out[0, 0, 0] > out[0, 0, -1]) for out in outs.values()]
    assert any(flipped) and not all(flipped)
    assert len({tuple(out[0, 0].tolist()) for out in outs.values()}) > 6
    widths = [abs(int(out[0, 0, 0]) - int(out[0, 0, -1])) / 3 for out in outs.values()]
    assert min(widths) > 0.8 * 64 - 3  # the side is at least √0.8 of 64


def test_crop_flip_of_a_wide_frame_takes_the_largest_square():
    frame = torch.zeros(3, 20, 90, dtype=torch.uint8)
    frame[:, :, 35:55] = 200
    assert (frame_transform("crop_flip", 10, True, (0,))(frame) == 200).all()


def test_valor_s_frames_are_resized_between_neighbours_alone():
    """Every other of eight columns: without antialiasing a column of the half size is the mean of the two that it lies between; with it
    more of them count."""
    frame = torch.tensor([0, 200, 0, 0, 0, 0, 0, 0], dtype=torch.uint8).expand(3, 8, 8)
    plain = frame_transform("none", 4, False, resize=find_resize("bilinear"))(frame)
    assert plain.dtype == torch.uint8 and plain[0, 0].tolist() == [100, 0, 0, 0]
    smooth = frame_transform("none", 4, False, resize=find_resize("bilinear", antialias=True))(frame)
    # triangle of twice the width: weights 3/8, 3/8, 1/8 at the edge normalised by 7/8; the next column has 1/8 of it
    assert smooth[0, 0].tolist() == [86, 25, 0, 0]
    assert find_resize("bicubic") == Resize("bicubic", True) and find_resize("bicubic", antialias=False) == Resize("bicubic", False)


@pytest.mark.parametrize("name", ["none", "crop_flip"])
@pytest.mark.parametrize("training", [True, False])
def test_floats_are_not_rounded(name, training):
    frame = torch.randint(256, (3, 30, 50), dtype=torch.uint8)
    transform = frame_transform(name, 24, training, (1,), RESIZES["bilinear"])
    whole, exact = transform(frame), transform(frame.float())
    assert whole.shape == exact.shape == (3, 24, 24) and exact.dtype == torch.float32
    assert (whole.float() - exact).abs().max() <= 0.5 and not torch.equal(whole.float(), exact)
