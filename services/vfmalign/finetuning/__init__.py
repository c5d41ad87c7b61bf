"""Service `finetuning`: orchestrates fine-tuning jobs and alignment checks. The service itself does not import torch."""
