"""The native engine: training steps in C++, generated for one net, loss and optimizer, and compiled in about a second."""
