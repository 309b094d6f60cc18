"""Pages beside their text, as HTML: for one file without a server, the search page, and notebooks."""
