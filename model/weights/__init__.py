"""Reading checkpoints: ours, the release's, and pretrained files of single towers. Files stay data, nothing in them is executed."""

from omnivast.model.weights.load import LoadReport, WeightsError, load_tower, load_weights, read_state_dict, start_weights
from omnivast.model.weights.towers import TOWER_FILES, TowerFile, clip_parts_file, text_file, tower_file

__all__ = ["TOWER_FILES", "LoadReport", "TowerFile", "WeightsError", "clip_parts_file", "load_tower", "load_weights", "read_state_dict",
           "start_weights", "text_file", "tower_file"]
