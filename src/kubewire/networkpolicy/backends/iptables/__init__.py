"""Programs as chains of iptables' mangle table and sets of ipset."""
