"""The MMD service: how far two samples of features lie apart, with the uncertainty of that number.

A tour: `kernels` → `engine` (tiles) → `estimators` and `designs` (sums to statistics) → `uncertainty` → `compare` (one
call for all layers); `sources`, `servicer` and `settings` put it behind gRPC.
"""
