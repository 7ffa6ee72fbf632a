"""``python -m ckptlab``."""

from ckptlab.cli import main

if __name__ == "__main__":
    main()
