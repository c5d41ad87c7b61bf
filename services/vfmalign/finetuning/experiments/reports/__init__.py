"""HTML report and figures of an experiment."""
