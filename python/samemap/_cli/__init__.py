"""The command line; the library never imports it."""
