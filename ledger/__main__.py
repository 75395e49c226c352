"""``python -m ledger`` is ``compliance-ledger``."""

from ledger.service.cli import main

if __name__ == "__main__":
    main()
