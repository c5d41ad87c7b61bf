"""Service `finetuning`: orchestrates fine-tuning jobs and alignment checks. It does not train or import torch."""
