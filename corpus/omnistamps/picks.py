"""Which stamps, sounds and subjects of talk each size uses.

``full`` takes everything. The lists of ``quick`` were chosen once, by these rules, and are fixed here so that the set never
changes by itself:

- seen: 48 stamps that differ in shape and colours at 64 pixels; of several alike (hens, guitars, flags, citrus fruits, hats)
  one; no outline drawings, no near-white and no tiny ones.
- heard: 32 recordings picked farthest first by the mean and the spread over time of their log spectra (20 bands), among those
  of at least 0.3 s that are not copies of another (``SAME_RECORDING``).
- said: 48 other stamps with names of one or two words, none of them among the seen or the heard, so that a small text model
  can tell the three roles apart early. In ``full`` every name occurs in every role that it can have.

``debug`` is a part of ``quick``.
"""

from __future__ import annotations

from dataclasses import dataclass

SAME_RECORDING = (("badger", "beaver"), ("mountaingoat", "ram"))
"""Stamps that share one recording: nobody can tell them apart by ear, and the ceilings count them as equal."""


@dataclass(frozen=True)
class Size:
    """What a size is made of; an empty list of names means all there are."""

    seen: tuple[str, ...]
    heard: tuple[str, ...]
    said: tuple[str, ...]
    clips: dict[str, int]
    """Clips per split."""
    vocabulary: int
    """Lines of vocab.txt, at most."""
    cells: int
    """Parts into which each role's names are split for validation and test clips, see facts.py: about a dozen pictures per part."""


_QUICK_SEEN = """cow elephant giraffe frog penguin zebra tiger toucan gorilla seahorse pink_flamingo owl dolphin koala brown_hen
butterflyfish banana strawberry pineapple carrot mushroom quarter_of_pizza bunch_of_grapes red_apple camera electric_guitar trumpet
drum_kit teapot key lightbulb toolbox sombrero top_hat propeller_hat daffodil rose palm_tree soccer_ball basketball mailbox
traffic_cone checkered_flag fire_truck hot_air_balloon airplane rubber_duck candy_cane"""
_QUICK_HEARD = """pig blackbird owl duck camera colorful_rooster crash_cymbal bull lark violin mouse dolphin cow bassoon grasshopper
fire_truck horse crow hornet cello camel cuckoo black_cat rubber_duck whale sea_lion glass_of_water drum_kit donkey turkey elephant
dog"""
_QUICK_SAID = """almond mango onion walnut raspberry pomegranate apricot avocado_fruit eggplant kiwifruit mug nutcracker wrench
syringe tooth fireman iris marigold pinecone butterfly bunny candle dreidel gravestone skull star jacket glove scarf sock button
baseball_cap hedgehog otter pelican pigeon shrimp yak ostrich mantis marmot dingo magpie race_car tennis_ball party_hat full_moon
cement_mixer"""
_DEBUG_SEEN = "cow frog zebra toucan banana strawberry camera teapot key rose soccer_ball fire_truck"
_DEBUG_HEARD = "pig owl duck camera violin crash_cymbal bassoon dog"
_DEBUG_SAID = "mango onion walnut mug wrench fireman candle skull star glove otter pelican"


def _size(seen: str, heard: str, said: str, train: int, val: int, test: int, vocabulary: int, cells: int) -> Size:
    clips = {"train": train, "val": val, "test": test}
    return Size(tuple(seen.split()), tuple(heard.split()), tuple(said.split()), clips, vocabulary, cells)


SIZES = {
    "full": _size("", "", "", 12000, 500, 1000, 3000, 24),
    "quick": _size(_QUICK_SEEN, _QUICK_HEARD, _QUICK_SAID, 2400, 200, 400, 1000, 4),
    "debug": _size(_DEBUG_SEEN, _DEBUG_HEARD, _DEBUG_SAID, 24, 8, 12, 600, 4),
}

PHRASES = {
    "avocado_fruit": "an avocado",
    "baby_of_a_gnu": "a baby gnu",
    "birch_at_winter": "a bare birch",
    "brown_potato": "a potato",
    "cherimoya_fruit": "a cherimoya",
    "colorful_rooster": "a rooster",
    "eggplant_with_fruit": "an eggplant bush",
    "hippopotamus": "a hippopotamus",
    "large_metal_mallet": "a metal mallet",
    "large_paintbrush": "a paintbrush",
    "male_black_rhino": "a black rhino",
    "mercury_thermometer": "a thermometer",
    "mountaingoat": "a mountain goat",
    "old_chinese_sailing_ship": "a chinese ship",
    "plant_of_common_lavender": "a lavender plant",
    "quarter_of_pizza": "a slice of pizza",
    "very_small_pitcher": "a small pitcher",
    "very_small_pumpkin": "a small pumpkin",
    "walnut_in_its_shell": "a whole walnut",
}
"""Shorter or more natural phrases than the caption in stamps.json; every other stamp keeps its caption (without hyphens)."""
