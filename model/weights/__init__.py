"""Reading checkpoints: ours, the release's, and the towers' own; files stay data, nothing in them is executed."""

from model.weights.load import LoadReport, WeightsError, load_tower, load_weights, read_state_dict, start_weights

__all__ = ["LoadReport", "WeightsError", "load_tower", "load_weights", "read_state_dict", "start_weights"]
