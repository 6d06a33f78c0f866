"""Programs as one nftables table: the default back end."""
