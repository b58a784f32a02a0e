"""Ratios learned in one run against ratios that were searched."""
