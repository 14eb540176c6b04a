"""The OpenID provider as protocol code: bytes and a time in, an answer out. Page: docs/spec/oidc.md."""
