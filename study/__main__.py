"""``python -m study``: the program where nothing but the package is there, as in a job on a cluster."""

from study.cli import main

if __name__ == "__main__":
    main()
