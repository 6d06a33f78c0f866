"""Services as IPVS virtual servers, with ipset and iptables for what IPVS does not do."""
