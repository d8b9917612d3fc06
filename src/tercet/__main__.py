"""The entry point of the `tercet` command, and of `python -m tercet`."""

import sys


def main() -> None:
    """Run the command line; one line where it cannot even be imported."""
    try:
        from tercet.cli import main as run
    except ImportError as error:
        sys.exit(f"tercet: {error}; a part of the installation is missing or damaged: install Tercet again")
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
