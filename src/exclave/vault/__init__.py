"""Streams to chunks to packs to sites, and back."""
