from pathlib import Path

import pytest

from omnivast.data.formats import SOUND_CODECS, VIDEO_CODECS, table


def test_the_docs_have_the_table():
    page = Path(__file__).parents[2] / "docs" / "data.md"
    assert table() in page.read_text(), "put what `python -m omnivast formats` prints into docs/data.md"


@pytest.mark.parametrize("codec", [*VIDEO_CODECS.values(), *SOUND_CODECS.values()])
def test_every_codec_of_the_table_can_be_decoded(codec):
    import av

    av.codec.Codec(codec, "r")
