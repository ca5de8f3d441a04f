"""Single-modality towers: see base.py for what they are, build.py for how they are found."""
