"""From what CA software keeps (CRLs, ``index.txt``, CSV) to journal entries. Rules: docs/spec/feeding.md."""
