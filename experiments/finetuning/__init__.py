"""Fine-tuning on another language: see README.md."""
