"""How people look in: command line, API, pages."""
