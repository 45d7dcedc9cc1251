"""The playground in a real browser, by hand: `python -m tests.browser --help`. CI has no browser."""
