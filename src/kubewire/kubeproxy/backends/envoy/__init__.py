"""TCP and HTTP Services through one Envoy per node; what is not TCP stays in the kernel."""
