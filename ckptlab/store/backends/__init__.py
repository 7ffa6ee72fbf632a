"""Where the files of a run are kept: local folders and object stores."""
