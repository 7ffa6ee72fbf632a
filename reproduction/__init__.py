"""Reproduce arXiv:2002.10365 on CIFAR-10: ``python -m reproduction run|page|status|repeat``."""
