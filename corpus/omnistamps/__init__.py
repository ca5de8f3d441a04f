"""OmniStamps: small real clips in which each track carries its own facts (seen, heard, said).

``python -m omnivast omnistamps --size quick --output datasets/omnistamps/quick`` builds a set; ``corpus.omnistamps.build.build``
does the same from Python.
"""
