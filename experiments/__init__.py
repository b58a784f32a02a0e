"""Questions about the method, each a folder: what is asked, one command, and the results as rows."""
