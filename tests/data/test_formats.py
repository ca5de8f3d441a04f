from pathlib import Path

import pytest

from omnivast.data.formats import SOUND_CODECS, VIDEO_CODECS, table


def test_the_readme_has_the_table():
    assert table() in (Path(__file__).parents[2] / "README.md").read_text(), "put what `python -m omnivast formats` prints into the README"


@pytest.mark.parametrize("codec", [*VIDEO_CODECS.values(), *SOUND_CODECS.values()])
def test_every_codec_of_the_table_can_be_decoded(codec):
    import av

    av.codec.Codec(codec, "r")
