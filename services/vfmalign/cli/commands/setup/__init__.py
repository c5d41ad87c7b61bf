"""Commands that set up and look after an installation, and those that show it at work."""
