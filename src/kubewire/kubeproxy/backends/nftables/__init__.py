"""Services as flat nftables maps: the default back end."""
