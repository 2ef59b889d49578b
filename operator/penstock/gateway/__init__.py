"""What is served over HTTP. `files` has the objects of a folder store."""
