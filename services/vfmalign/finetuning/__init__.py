"""Service `finetuning`: orchestrates fine-tuning jobs and alignment checks; trains nothing and imports no torch."""
