"""What makes parts of the documentation, and checks that take minutes; run as `python -m tools.NAME`."""
