"""What a fine-tuning or pretraining job runs in its own process or pod: `python -m vfmalign.training SPEC_URI`."""
