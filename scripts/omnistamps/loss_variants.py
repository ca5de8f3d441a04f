"""The rows of compare_losses.py's tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

GROUPS = ("tv", "ta", "ts", "tva", "tvs", "tvas")
WITHOUT_SUBTITLES = ("tv", "ta", "tva")
VALOR = ("--model_type", "valor", "--missing_modality", "zeros", "--max_omni_caption_len", "40")
COARSE, LATE, UNWEIGHTED = ("--contra_type", "coarse"), ("--late_fusion", "true"), ("--fineweight_type", "none")
BASE = "vast"


@dataclass(frozen=True)
class Variant:
    """One row: what it is, in words, and how it differs from VAST's row."""

    words: str
    flags: tuple[str, ...] = ()
    groups: tuple[str, ...] = GROUPS
    """What it is trained on."""
    tested: tuple[str, ...] = GROUPS
    dimensions: tuple[int, ...] = ()
    """It is also tested with vectors cut to these lengths."""
    times: int = 1
    """It is trained for so many times the steps."""
    mined: bool = False
    """Half of each batch are hard negatives of the other half, mined by ``BASE`` of the same seed."""


def _valor(words: str, *flags: str, groups: tuple[str, ...] = WITHOUT_SUBTITLES) -> Variant:
    return Variant(words, (*VALOR, *flags), groups, WITHOUT_SUBTITLES)


FINE = _valor("VALOR, fine-grained: v, a, va")
TABLES: dict[str, dict[str, Variant]] = {
    "losses": {
        BASE: Variant("VAST: softmax of the cosine", dimensions=(64, 32, 16)),
        "vast_unsmoothed": Variant("labels not smoothed (else by 0.1)", ("--label_smoothing", "0")),
        "vast_sigmoid": Variant("sigmoid in place of softmax", ("--contrastive_loss", "sigmoid")),
        "vast_temperatures": Variant("+ a temperature per group", ("--temperature_per_group", "true")),
        "vast_taught": Variant("+ the fused vector teaches single tracks", ("--fused_teaches", "1")),
        "vast_matryoshka": Variant("+ prefixes of 16, 32, 64 of 128", ("--matryoshka_dims", "16", "32", "64"), dimensions=(64, 32, 16)),
        "vast_pairs": Variant("+ pairs of tracks va, vs (weight 0.5)", ("--clip_pairs", '{"va": 0.5, "vs": 0.5}')),
        "vast_mined": Variant("+ mined hard negatives", mined=True),
        "gram": Variant("GRAM: volume", ("--model_type", "gram")),
        "gram_cosine": Variant("GRAM: volume and cosine, half each", ("--model_type", "gram", "--gram_cosine", "0.5")),
        "vast_va": Variant("VAST on v, a, va alone", (), WITHOUT_SUBTITLES, WITHOUT_SUBTITLES),
        "valor": FINE,
        "vast_long": Variant("VAST, twice the steps", times=2),
        "gram_sigmoid": Variant("GRAM: volume, sigmoid", ("--model_type", "gram", "--contrastive_loss", "sigmoid")),
    },
    "groups": {
        "valor_v": _valor("v", groups=("tv",)),
        "valor_a": _valor("a", groups=("ta",)),
        "valor_va": _valor("va", groups=("tva",)),
        "valor_v_va": _valor("v + va", groups=("tv", "tva")),
        "valor_a_va": _valor("a + va", groups=("ta", "tva")),
        "valor": replace(FINE, words="v + a + va"),
    },
    "alignment": {
        "valor_coarse_late": _valor("coarse, scores are added", *COARSE, *LATE),
        "valor_coarse": _valor("coarse, features are fused", *COARSE),
        "valor_late": _valor("fine, scores are added", *LATE),
        "valor_unweighted": _valor("fine, features are fused", *UNWEIGHTED),
        "valor": replace(FINE, words="fine, features are fused, weighted"),
    },
}
VARIANTS = {name: variant for table in TABLES.values() for name, variant in table.items()}
