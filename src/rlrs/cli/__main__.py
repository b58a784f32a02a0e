"""`python -m rlrs.cli`, for launchers such as torchrun."""

from rlrs.cli import main

main()
