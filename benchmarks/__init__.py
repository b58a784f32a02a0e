"""Speed claims, as ratios paired in one run; `make bench`."""
