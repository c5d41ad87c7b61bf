"""Records of the API, by `make proto`; do not edit. Import them from `vfmalign.client.messages`."""
