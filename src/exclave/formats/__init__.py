"""Bytes to frozen values and back; one file for each page of ``docs/spec``."""
