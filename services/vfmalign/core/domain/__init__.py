"""Records, errors, tasks and recipes that services share."""
