"""``python -m anomalyze`` is the command ``anomalyze``."""

from anomalyze.cli import app

if __name__ == "__main__":
    app()
