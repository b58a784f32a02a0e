"""Search methods against each other on small proxies; see docs/search.md."""
