"""Answers, not servers: what an embassy may truthfully say about identities when their issuers are gone."""
