"""Commands that set up, check and demonstrate an installation."""
