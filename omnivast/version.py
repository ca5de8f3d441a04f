"""The version: of the wheel too, and noted in checkpoints and results."""

VERSION = "0.2.0"
