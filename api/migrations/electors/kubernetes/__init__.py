"""A Lease of Kubernetes. Optional: without this folder the other strategies work."""
