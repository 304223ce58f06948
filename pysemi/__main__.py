"""``python -m pysemi`` is the ``pysemi`` command."""

from pysemi.cli import main

raise SystemExit(main())
