"""Where shots begin: thumbnails of a video → transitions, by a small network of ours or by other detectors."""
