"""What a wheel holds: every folder of the checkout that has code, below the one name ``omnivast``. All else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
ROOMS = ("config", "corpus", "data", "evaluation", "inference", "model", "scripts", "training", "utils")
PICTURES = "omnivast.corpus.omnistamps.stamps"
"""Not code: the pictures and sounds that OmniStamps' clips are composed of, which the checkout has in datasets/omnistamps."""

folders = sorted(path.parent.relative_to(ROOT) for room in ROOMS for path in ROOT.glob(f"{room}/**/__init__.py"))
setup(
    packages=["omnivast", *(".".join(("omnivast", *folder.parts)) for folder in folders), PICTURES],
    package_dir={"omnivast": "omnivast", **{f"omnivast.{room}": room for room in ROOMS}, PICTURES: "datasets/omnistamps"},
    package_data={
        "omnivast.config": ["**/*.json"],
        "omnivast.corpus": ["boundaries/weights/*.safetensors", "fusion/words/*.txt"],
        "omnivast.data": ["**/*.json"],
        "omnivast.evaluation": ["**/*.json", "**/*.css"],
        "omnivast.inference": ["service/page/*"],
        PICTURES: ["stamps.json", "README.md", "COPYING", "images/*.png", "sounds/*.ogg"],
    },
)
