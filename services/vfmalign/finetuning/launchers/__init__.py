"""Launchers: how a training process is started, watched and stopped."""
