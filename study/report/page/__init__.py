"""The report of a study as one page: evidence is read, sections are made of it, files are written."""
