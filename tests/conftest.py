"""Hypothesis' settings for all tests. No deadline: the machine is shared, and a slow example is no failure."""

from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
