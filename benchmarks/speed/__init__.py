"""How fast the trainer is: against other trainers side by side, and against what the processor can do."""
