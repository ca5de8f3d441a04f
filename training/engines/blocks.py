"""The repeated blocks of the vision and audio towers, of whatever family: what is shared out, compiled or counted as one."""

from __future__ import annotations

from torch import nn

TOWERS = ("vision_encoder", "audio_encoder")


def tower_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of all towers that ``model`` has."""
    return [block for name in TOWERS for block in blocks_of(getattr(model, name, nn.Identity()))]


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a tower: elements of its innermost lists of several modules that are of one kind and have parts themselves."""
    children = list(module.children())
    inner = [blocks_of(child) for child in children]
    if not isinstance(module, nn.ModuleList | nn.Sequential) or not _alike(children):
        return [block for found in inner for block in found]
    return [block for child, found in zip(children, inner) for block in found or [child]]


def _alike(modules: list[nn.Module]) -> bool:
    return len(modules) > 1 and len({type(module) for module in modules}) == 1 and all(list(module.children()) for module in modules)
