"""Search methods against each other on small proxies."""
