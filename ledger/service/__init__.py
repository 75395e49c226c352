"""The service: settings, wiring, HTTP and the command line. Only this layer knows all others."""
