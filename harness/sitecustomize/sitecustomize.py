"""What an interpreter of the harness does at start: Python imports this where its folder is on PYTHONPATH.

`harness.environment.site_environment` sets the variables that choose.
"""

import os

if os.environ.get("PFSTORER_DECLARE_OPERATORS"):
    import declare_operators  # noqa: F401

if os.environ.get("PFSTORER_HIDDEN"):
    import hide_packages

    hide_packages.hide(os.environ["PFSTORER_HIDDEN"])
