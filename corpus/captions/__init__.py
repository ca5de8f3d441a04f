"""Captions of clips by several models, the teachers, and the choice of which teachers to keep."""
