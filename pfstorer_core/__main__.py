"""``python -m pfstorer_core``"""

from .cli import app

if __name__ == "__main__":
    app()
