"""Erasure of patients: receipts, and the RPCs that `features`, `finetuning` and `monitoring` share."""
