"""external-dns: names of Services and Ingresses, published to a DNS server of the outside world."""
