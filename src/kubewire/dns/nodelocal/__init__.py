"""NodeLocal DNSCache: a caching server on every node, at a link-local address."""
