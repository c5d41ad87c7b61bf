"""Pages for people: the HTML reports of checks and experiments."""
