"""Services as iptables rules, with kube-proxy's own chains (README.md draws them)."""
