"""Things found by the name that a config gives them."""

import pytest

from omnivast.config.registry import Registry


class FamilyError(ValueError):
    pass


@pytest.fixture
def registry():
    found = Registry("model_cfg.tower", "tower", "timm:<name>", error=FamilyError)
    for name in ("swin", "clip", "timm:"):
        found.register(name)(name.upper())
    return found


def test_names_and_their_starts(registry):
    assert [registry.find(name) for name in ("clip", "timm:vit_small", "timm:")] == ["CLIP", "TIMM:", "TIMM:"]
    assert sorted(registry) == ["clip", "swin", "timm:"]


@pytest.mark.parametrize("name", ["swim", None, "tim:vit", ""])
def test_unknown_names_are_told_with_the_valid_ones(registry, name):
    with pytest.raises(FamilyError, match=f"model_cfg.tower: unknown tower '{name}'; valid are clip, swin, timm:<name>.") as error:
        registry.find(name)
    assert ("Did you mean 'swin'" in str(error.value)) == (name == "swim")


def test_a_name_is_taken_once(registry):
    with pytest.raises(ValueError, match="model_cfg.tower: there are two of the name 'clip'"):
        registry.register("clip")
