"""Elects by a Lease of Kubernetes. This folder is optional: the other strategies work without it."""
