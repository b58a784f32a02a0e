"""Ratios found by search on the proxy of the method, against the preset and a tuned embedding multiplier."""
