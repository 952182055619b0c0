"""Ahead-of-time C engine: an int8 flatbuffer becomes plain C99 that computes bit for bit what TFLite Micro computes."""
