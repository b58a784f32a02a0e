"""The parts of `rlrs.verify`: a loop is watched, its steps replayed and measured, and what came of it judged."""
