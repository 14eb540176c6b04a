"""Seal, open, sign, verify, keyed ids and shares. The only importer of ``cryptography`` and ``blake3``."""
