"""The parts of `rlrs.verify`: `replay` (one optimizer step again), `watching` (a loop while it runs), `judging`."""
