"""Service `finetuning`: orchestrates fine-tuning jobs and alignment checks. The service does not import torch."""
