"""Ahead-of-time C engine: an int8 flatbuffer becomes plain C99 that computes what TFLite Micro computes, bit for bit."""
