"""`python -m kobold_reader`."""

from kobold_reader.cli.app import main

if __name__ == "__main__":
    main()
