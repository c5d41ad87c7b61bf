"""The process of a fine-tuning or pretraining job: `python -m vfmalign.training SPEC_URI`."""
