"""The command line: a file for each kind of command, what they print, and `entry`, where they meet. No Python API."""

from rlrs.cli.entry import app as app
from rlrs.cli.entry import main as main
