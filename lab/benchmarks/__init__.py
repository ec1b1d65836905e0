"""Speed and quality as ratios against a baseline in the same run: `python -m lab benchmark NAME`."""
