"""A run, or several, as one page for people: ``scripts/report.py``. Everything is inside the file."""
