"""Commands that call the services: datasets, models, features, MMD, jobs, checks and experiments."""
