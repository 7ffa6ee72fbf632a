"""Follow a run while it is recorded: on a page in the browser, or in a terminal."""
