"""HTML report and figures of a check, and the formatting that reports share."""
