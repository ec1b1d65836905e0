"""Property tests: no time limit for an example, on machines of any speed."""

from hypothesis import settings

settings.register_profile("pfstorer", deadline=None)
settings.load_profile("pfstorer")
