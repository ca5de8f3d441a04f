"""The last stage: clips, their texts and their history → tar shards, annotation files, an index, statistics and a card."""
