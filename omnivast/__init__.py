"""OmniVAST: pretraining, retrieval, captioning and question answering for models that see, hear and read video.

An installed package holds its subpackages (``omnivast/model`` …) beside this file. In a checkout they lie one folder up, where a
user of the project looks for them; there the search path of the package is extended, so that ``omnivast.model`` is ``model/``.
"""

from pathlib import Path

if not Path(__file__).with_name("model").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))
