"""The release of Kubernetes that kubewire says it is, wherever a component tells its version."""

MAJOR, MINOR = 1, 34
VERSION = f"v{MAJOR}.{MINOR}.0"
