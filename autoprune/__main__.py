"""``python -m autoprune`` is the command ``autoprune``: also where its folder is not on the path."""

from autoprune.cli import main

if __name__ == "__main__":
    main()
