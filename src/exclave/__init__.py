"""Exclave: an open-source virtual data embassy."""
