"""Run C on emulated microcontrollers: boards as data, exact instruction counts, stack, sizes, faults, a serial line.

Knows nothing of any engine: a program is C sources of which one has ``int main(void)``.
"""
