"""The HTTP side: the gate in front of the application, the probes, the metrics, the status page."""
