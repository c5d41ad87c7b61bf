"""Generated stubs of the public API in proto/; `make proto` writes them, nobody edits them."""
