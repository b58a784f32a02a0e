"""The live page: runs, studies and rollouts in the browser while they are at work, from their files alone."""

from rlrs.live.opening import by_file
from rlrs.live.page_server import LiveError, serve_live
from rlrs.live.watcher import Watcher

__all__ = ["LiveError", "Watcher", "by_file", "serve_live"]
